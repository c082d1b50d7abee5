"""Seeds of the generators that users draw from."""

import random

from mixsweep.core.trainables.declared import DeclaredConfig


def seed_record(config: DeclaredConfig, number: int) -> None:
    """Seed `random`, NumPy and torch, the same wherever and however often an attempt reaches this record.

    Args:
        number: of the record; 0 before the first one and for what belongs to none.
    """
    import numpy as np
    import torch

    seed = config.values.get("seed", 0)
    drawn = int(np.random.SeedSequence([int(seed) % 2**32, number]).generate_state(1)[0])
    random.seed(drawn)
    np.random.seed(drawn)
    torch.manual_seed(drawn)
