"""`sweep doctor`: check a place before an allocation is spent on it."""
