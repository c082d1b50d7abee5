"""Run trials: take one, train it, record how it ended."""
