"""Backends: the code that runs trials at each kind of place."""
