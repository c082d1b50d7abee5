"""What a trial can be: the interface that every kind of trial implements, and the built-in image trainer's side."""
