"""The shipped sweep files."""
