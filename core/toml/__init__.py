"""Read TOML files whose keys are declared by dataclasses."""
