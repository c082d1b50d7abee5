"""The store: one folder a sweep, one folder a trial, atomically replaced files."""
