"""Trainables that need what core must not import: those of Ray Tune."""
