"""What a checked sweep file says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from mixsweep.core.errors import UserError
from mixsweep.core.trainables.interface import Trainable
from mixsweep.core.trainables.kinds import BUILT_IN, find_trainable
from mixsweep.sweep.planning.search_schema import Search

MODES = ("max", "min")


RULES = ("asha",)


class SpecError(UserError):
    """A sweep file that cannot be run, in one line: the file, the field, the value, what is allowed."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # a quoted key may hold a line break


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement that the report tests: `better` beats `than` (a value, several, or `rest`) on an axis."""

    text: str
    compare: str
    better: tuple[Any, ...]
    than: tuple[Any, ...] | str = "rest"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One question of a sweep: fixed fields, varied fields, and when a field counts."""

    name: str
    question: str
    base: Mapping[str, Any]
    space: Mapping[str, Mapping[str, Any]]
    when: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    samples: int = 1


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """Asynchronous successive halving (Li et al., 2020, arXiv:1810.05934), as Ray Tune has it."""

    rule: str = "asha"
    grace_epochs: int = 1
    reduction_factor: float = 3.0


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial is given. `gpus` left out means one where the machine has any.

    With `ranks` above 1 so many processes train each trial together, over `nodes`; `cpus` and `gpus` are each
    one's. `memory` (`4G`) and `custom` resources are Ray's, which places by them.
    """

    cpus: int = 1
    gpus: float | None = None
    memory: str = ""
    custom: Mapping[str, float] = field(default_factory=dict)
    compile: bool = False
    ranks: int = 1
    nodes: int = 1
    batch_norm: str = "synchronised"


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """A checked sweep file."""

    name: str
    parts: tuple[Part, ...]
    question: str = ""
    reaches: str = ""
    cost: str = ""
    metric: str
    mode: str
    seeds: tuple[int, ...] = (42,)
    search_seed: int = 0
    imports: tuple[str, ...] = ()
    project: str = ""  # the root of the user's project, first on sys.path for what is imported
    search: Search | None = None
    stopping: Stopping | None = None
    keep_checkpoints: str = "best:5"
    resources: Resources = Resources()
    kind: str = BUILT_IN
    source: Mapping[str, Any] = field(default_factory=dict)  # the file's own tables, `--set` applied
    path: Path | None = None

    @property
    def trainable(self) -> Trainable:
        """The kind of its trials."""
        return find_trainable(self.kind)

    @property
    def may_stop_trials(self) -> bool:
        """Whether a trial that was stopped before its last epoch has ended."""
        return self.stopping is not None or (self.search is not None and self.search.algorithm == "pbt")

    def to_toml(self) -> str:
        """The file as it is run."""
        return tomli_w.dumps(dict(self.source))
