"""Checks of a place before an allocation is spent on it."""
