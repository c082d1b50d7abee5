"""A Ray Tune class and function, as users write them, which draw from every generator."""

import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune


class Walk(tune.Trainable):
    """A walk that calms down; its checkpoint is a dictionary."""

    def setup(self, config: dict[str, Any]) -> None:
        self.lr = config["optimizer"]["lr"]
        self.x = torch.randn(config["width"])

    def step(self) -> dict[str, Any]:
        self.x = self.x * (1 - self.lr) + 0.01 * torch.randn(len(self.x)) * random.random()
        loss = float(self.x.square().mean() + np.random.rand())
        return {"valid": {"loss": loss, "note": "x"}, "epoch": self.iteration, "timesteps_this_iter": 10}

    def save_checkpoint(self, checkpoint_dir: str) -> Any:
        return {"x": self.x}

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.x = checkpoint["x"]


class FolderWalk(Walk):
    """The same, with its checkpoint as files in folders."""

    def save_checkpoint(self, checkpoint_dir: str) -> Any:
        (Path(checkpoint_dir) / "parts").mkdir()
        torch.save(self.x, Path(checkpoint_dir) / "parts" / "x.pt")
        return checkpoint_dir

    def load_checkpoint(self, checkpoint: Any) -> None:
        (path,) = Path(checkpoint).rglob("x.pt")
        self.x = torch.load(path)
        path.unlink()  # its copy, not the store's


def walk(config: dict[str, Any]) -> None:
    """A function that reports a checkpoint every second time."""
    x, first = 1.0, 0
    checkpoint = tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder, open(os.path.join(folder, "state.json")) as file:
            state = json.load(file)
        x, first = state["x"], state["round"]
    for number in range(first + 1, config.get("rounds", 6) + 1):
        x = x * (1 - config["lr"]) + 0.01 * random.random() * float(torch.rand(()))
        metrics = {"valid": {"loss": x + float(np.random.rand())}, "step": 10 * number}
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "state.json"), "w") as file:
                json.dump({"x": x, "round": number}, file)
            given = tune.Checkpoint.from_directory(folder) if number % 2 == 0 else None
            tune.report(metrics, checkpoint=given)
