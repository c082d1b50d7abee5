"""Tell two spirals apart, as a class and as a function for Ray Tune, written as for a run by Tune itself."""

import os
import tempfile

import torch
from ray import tune
from torch import nn

STEPS = 50  # of a round


class Spirals(tune.Trainable):
    def setup(self, config):
        self.model, self.optimizer, self.data = build(config)

    def step(self):
        return round_of(self.model, self.optimizer, self.data)

    def save_checkpoint(self, checkpoint_dir):
        save(self.model, self.optimizer, checkpoint_dir)

    def load_checkpoint(self, checkpoint_dir):
        load(self.model, self.optimizer, checkpoint_dir)


def spirals(config):
    model, optimizer, data = build(config)
    first = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            first = load(model, optimizer, folder)
    for number in range(first + 1, config["rounds"] + 1):
        result = round_of(model, optimizer, data)
        with tempfile.TemporaryDirectory() as folder:
            save(model, optimizer, folder, number)
            tune.report(result, checkpoint=tune.Checkpoint.from_directory(folder))


def build(config):
    """A network, its optimizer, and points of two spirals: to train on and to validate."""
    generator = torch.Generator().manual_seed(config["seed"])
    width = config["model"]["width"]
    model = nn.Sequential(
        nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)
    )
    for weights in model.parameters():
        nn.init.normal_(weights, std=0.5 if weights.ndim > 1 else 0.1, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
    return model, optimizer, [points(generator), points(generator)]


def points(generator, count=100):
    along = torch.rand(2, count, generator=generator) * 6
    angle = along + torch.tensor([[0.0], [torch.pi]])
    x = torch.stack([along * angle.cos(), along * angle.sin()], dim=-1) / 6
    x = x + 0.02 * torch.randn(x.shape, generator=generator)
    return x.reshape(-1, 2), torch.arange(2).repeat_interleave(count)


def round_of(model, optimizer, data):
    """Train for a round; return its results."""
    (x, y), valid = data
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        valid_loss = nn.functional.cross_entropy(model(valid[0]), valid[1])
    return {"train": {"loss": loss.item()}, "valid": {"loss": valid_loss.item()}}


def save(model, optimizer, folder, number=0):
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "round": number}
    torch.save(state, os.path.join(folder, "state.pt"))


def load(model, optimizer, folder):
    state = torch.load(os.path.join(folder, "state.pt"))
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["round"]
