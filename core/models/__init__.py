"""The architectures of the study."""
