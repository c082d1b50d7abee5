"""The kinds of trials: the interface that each implements, and the built-in image trainer's implementation."""
