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


def write_starter(name: str | None, preset: str | None) -> Path:
    """Write NAME.toml into the working folder and return its path.

    Raises:
        UserError: the name is invalid, the preset does not exist, or the file exists already.
    """
    if preset is not None and preset not in preset_names():
        raise UserError(f"--from {preset}: no such preset{did_you_mean(preset, preset_names())}")
    name = (name or preset or DEFAULT_NAME).removesuffix(".toml")
    if not is_folder_name(name) or not re.fullmatch(r'[^"\\]*', name):
        raise UserError(f"{name!r}: not a sweep's name; write one without / and quotes, as {DEFAULT_NAME}")
    path = Path(f"{name}.toml")
    text = STARTER.format(name=name, file=path) if preset is None else _renamed(preset, name)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path}: exists already; give another name: sweep init NAME") from None
    return path


def _renamed(preset: str, name: str) -> str:
    """Return a preset's text, comments included, with another name."""
    text = (PRESETS / f"{preset}.toml").read_text(encoding="utf-8")
    return re.sub(r'^name = ".*?"', lambda found: f'name = "{name}"', text, count=1, flags=re.MULTILINE)
