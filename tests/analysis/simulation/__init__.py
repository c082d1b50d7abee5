"""Simulated sweeps whose truth is known, to count false verdicts and measure power."""
