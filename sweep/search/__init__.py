"""What decides while trials run: search algorithms and stopping rules."""
