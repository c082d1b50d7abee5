"""Noisy points of a cubic, half to train on and half to validate."""

import numpy as np

Points = tuple[np.ndarray, np.ndarray]


def noisy_points(seed: int, count: int = 40) -> tuple[Points, Points]:
    random = np.random.default_rng(seed)
    x = random.uniform(-1, 1, 2 * count)
    y = 2 * x**3 - x + random.normal(0, 0.1, 2 * count)
    return (x[:count], y[:count]), (x[count:], y[count:])
