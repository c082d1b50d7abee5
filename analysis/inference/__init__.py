"""Statistics of sweeps: comparisons, claims, and their wording."""
