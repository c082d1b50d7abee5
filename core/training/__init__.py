"""The training loop of one trial, its device and its process group."""
