"""`sweep init`: a sweep file to start from, or a preset under a new name."""

import re
from pathlib import Path

from mixsweep.core.errors import UserError, did_you_mean
from mixsweep.sweep.planning.parse import is_folder_name
from mixsweep.sweep.presets.catalog import PRESETS, preset_names

DEFAULT_NAME = "my-sweep"

STARTER = """\
# A sweep file: one question, and the trials that answer it. It runs as it is, in seconds:
#   sweep plan {file}
#   sweep run {file} --place debug
#   sweep report {name}
# Without `--place debug` several trials run at once. All keys: docs/sweep-files.md. Help in an editor:
# `sweep schema --help`.

# The sweep's folder in the store, runs/NAME/.
name = "{name}"
question = "Which learning rate trains a small MLP best on digits?"
metric = "valid_accuracy"               # what is compared; also valid_loss, train_accuracy, train_loss
seeds = 3                               # each point is trained with three seeds, the same for all points

# [base]: fields that all trials share. What is left out keeps its default.
[base]
model = "mlp"                           # also resnet18, mixer, or one of your own (see imports)
dataset = "digits"                      # small, and part of scikit-learn; "cifar10" needs --data DIR
hidden = [32]
augment = "none"
batch_size = 64
epochs = 5

# [space]: fields that vary, by the names of Ray Tune's distributions. Grids are combined with each other.
# Drawn: choice = [...], uniform = [low, high], loguniform, quniform = [low, high, q], qloguniform, randint, randn;
# `samples = 20` at the top says how often.
[space]
lr = {{ grid_search = [1e-1, 1e-2, 1e-3] }}
# activation = {{ grid_search = ["relu", "tanh"] }}

# [[claims]]: what the report tests, each over the paired seeds.
[[claims]]
text = "1e-3 is better than 1e-1"
compare = "lr"
better = 1e-3
than = 1e-1                             # a value, several, or "rest"

# [keep]: checkpoints of ended trials. Records, configs and logs are always kept.
[keep]
checkpoints = "best:5"                  # also "all", "none"

# [resources]: the resources of each trial.
[resources]
cpus = 1
# gpus = 0.5                            # two trials share a GPU; left out: one GPU where there is any

# [when]: fields that count for some values of others only.
# [when]
# patch_size = {{ model = "mixer" }}

# [combine]: grids whose values go together by position, and points to leave out.
# [combine]
# zip = [["lr", "batch_size"]]
# exclude = [{{ lr = 1e-1, activation = "tanh" }}]

# [published]: what others reported on the question, which the report shows beside ours.
# [published]
# test_accuracy = 0.9
# source = "a paper, table 1"

# [derive]: fields computed from others.
# [derive]
# weight_decay = "0.1 * lr"

# [stopping]: stops poor trials early, by successive halving.
# [stopping]
# rule = "asha"
# grace_epochs = 2                      # epochs before a trial can be stopped
# reduction_factor = 3                  # one trial in three continues at each rung

# [search]: chooses trials from the results of others, in place of seeds and grids; needs Ray (--place local).
# [search]
# algorithm = "tpe"                     # or "pbt": a population that trains together
# trials = 20

# [[parts]]: several questions in one file. Each part has its own name, question, base, space, when and claims.

# Your own model or data set: a Python file beside this one that calls mixsweep.register_model.
# Write it above [base]:
# imports = ["my_model.py"]
"""


TRAINABLE_FILE = """\
# A sweep of the trainable in {module}.py. It runs as it is, in seconds:
#   sweep plan {file}
#   sweep run {file} --place debug
#   sweep report {name}
# Its fields and metrics are those of the class; all other keys are as in any sweep file.
name = "{name}"
question = "Which learning rate fits the points best?"
trainable = "{module}.py:Fit"
metric = "valid_loss"                   # one of the class's metrics
seeds = 3                               # each point is trained with three seeds

[space]
lr = {{ grid_search = [1e-3, 1e-2, 1e-1] }}

[[claims]]
text = "0.01 is better than 0.001"
compare = "lr"
better = 1e-2
than = 1e-3
"""

TRAINABLE = '''\
"""A trainable to start from: a small network that learns a curve. `sweep run` calls it; see your-own-training.md."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from mixsweep import Run, field
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Config:
    """The fields of a trial. Each has a type and a default."""

    lr: float = field(1e-2, above=0, doc="learning rate")
    width: int = field(32, low=1, doc="hidden units")
    rounds: int = field(10, low=1, budget=True, doc="records; asking for more extends a trial")
    seed: int = 0


class Fit:
    """Fits a noisy sine. `random`, numpy and torch are seeded before each record."""

    Config = Config
    metrics: ClassVar = {"valid_loss": "min", "train_loss": "min"}

    def __init__(self, config: Config, run: Run):
        points = torch.linspace(-3, 3, 200, device=run.device)[:, None]
        values = points.sin() + 0.1 * torch.randn_like(points)
        self.train_part, self.valid_part = (points[::2], values[::2]), (points[1::2], values[1::2])
        self.config = config
        self.model = nn.Sequential(nn.Linear(1, config.width), nn.Tanh(), nn.Linear(config.width, 1)).to(run.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), config.lr)
        self.done = 0

    def train(self) -> Iterator[Mapping[str, float]]:
        """Yield a record a round, from where `restore` has left off."""
        while self.done < self.config.rounds:
            for _ in range(20):
                self.optimizer.zero_grad()
                loss = self.loss(*self.train_part)
                loss.backward()
                self.optimizer.step()
            self.done += 1
            with torch.no_grad():
                yield {"train_loss": float(loss), "valid_loss": float(self.loss(*self.valid_part))}

    def loss(self, points: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """The mean squared error."""
        return nn.functional.mse_loss(self.model(points), values)

    def state(self) -> Mapping[str, Any]:
        """What a checkpoint holds: tensors and plain values."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "done": self.done}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = state["done"]
'''


def write_starter(name: str | None, preset: str | None, trainable: bool = False) -> list[Path]:
    """Write NAME.toml into the working folder, on request with a trainable beside it; return their paths.

    Raises:
        UserError: the name is invalid, the preset does not exist, or a file exists already.
    """
    if preset is not None and trainable:
        raise UserError("--trainable: not with --from, whose sweeps train images")
    if preset is not None and preset not in preset_names():
        raise UserError(f"--from {preset}: no such preset{did_you_mean(preset, preset_names())}")
    name = (name or preset or DEFAULT_NAME).removesuffix(".toml")
    if not is_folder_name(name) or not re.fullmatch(r'[^"\\]*', name):
        raise UserError(f"{name!r}: not a sweep's name; write one without / and quotes, as {DEFAULT_NAME}")
    path = Path(f"{name}.toml")
    if trainable:
        module = re.sub(r"\W", "_", name)
        texts = {
            path: TRAINABLE_FILE.format(name=name, file=path, module=module),
            Path(f"{module}.py"): TRAINABLE,
        }
    else:
        texts = {path: STARTER.format(name=name, file=path) if preset is None else _renamed(preset, name)}
    for found in texts:
        if found.exists():
            raise UserError(f"{found}: exists already; give another name: sweep init NAME")
    for found, text in texts.items():
        with open(found, "x", encoding="utf-8") as file:
            file.write(text)
    return list(texts)


def _renamed(preset: str, name: str) -> str:
    """Return a preset's text, comments included, with another name."""
    text = (PRESETS / f"{preset}.toml").read_text(encoding="utf-8")
    return re.sub(r'^name = ".*?"', lambda found: f'name = "{name}"', text, count=1, flags=re.MULTILINE)
