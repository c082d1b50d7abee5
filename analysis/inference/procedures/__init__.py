"""Decisions on claims from arrays of figures: tests of pairs, looks, the family."""
