"""A checked sweep file, and the keys of its tables, declared once for parsing and for `sweep schema`."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from mixsweep.core.errors import UserError
from mixsweep.core.execution.run_config import BATCH_NORMS
from mixsweep.core.scoring import SCORES
from mixsweep.core.store.code_copy import Code
from mixsweep.core.store.retention import POLICY_HELP, POLICY_PATTERN
from mixsweep.core.toml.keys import declared_keys, toml_key, toml_key_by_hand
from mixsweep.core.toml.reader import Reader
from mixsweep.core.trainables.declared import DeclaredTrainable
from mixsweep.core.trainables.interface import Trainable
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.planning.arithmetic import Expression
from mixsweep.sweep.planning.claims_schema import ERRORS, MODES, Claim
from mixsweep.sweep.planning.command_schema import CommandSpec
from mixsweep.sweep.planning.search_schema import Search
from mixsweep.sweep.planning.space import Combine

RULES = ("asha",)


CODE_RULES = ("pin",)


UNITS = ("epoch", "step")


FOLDER_NAME = r"[^./\\][^/\\]*"  # printable, and at most LONGEST_NAME bytes


LONGEST_NAME = 200  # file systems take 255 bytes


MOST_REPLICAS = 10_000


MOST_TRIALS = 100_000  # a plan of so many takes seconds to expand; the points are counted before


class SpecError(UserError):
    """An invalid sweep file; the message is one line: the file, the field, the value, what is allowed."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # a quoted key may hold a line break


@dataclass(frozen=True, kw_only=True)
class Part:
    """One question of a sweep: fixed fields, varied fields, and when a field counts."""

    name: str = toml_key(MISSING, "the part's name; left out: part-1, part-2, …")
    question: str = toml_key(MISSING, "what the report answers")
    base: Mapping[str, Any] = toml_key_by_hand(
        MISSING, "fields that all trials share; the others keep their default"
    )
    space: Mapping[str, Mapping[str, Any]] = toml_key_by_hand(
        MISSING, "fields that vary, by Ray Tune's distributions"
    )
    when: Mapping[str, Mapping[str, Any]] = toml_key_by_hand(
        {}, "fields that count for some values of others: patch_size = { model = 'mixer' }"
    )
    combine: Combine = toml_key_by_hand(
        Combine(), "axes that go together by position, and points to leave out"
    )
    derive: Mapping[str, Expression] = toml_key_by_hand(
        {}, "fields computed from others: weight_decay = '0.1 * lr'"
    )
    claims: tuple[Claim, ...] = toml_key_by_hand((), "what the report tests")
    published: Mapping[str, float | str] = toml_key_by_hand(
        {},
        "published figures by metric, shown beside ours: test_accuracy = 0.9; finding and source, in words",
    )
    samples: int = toml_key(
        1, "how often the drawn fields are drawn, for each combination of the grids", low=1
    )


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """Asynchronous successive halving (Li et al., 2020, arXiv:1810.05934), as Ray Tune implements it."""

    rule: str = toml_key("asha", "the stopping rule", choices=RULES)
    unit: str = toml_key("epoch", "what grace and rungs count: records, or their steps", choices=UNITS)
    grace_epochs: int = toml_key(
        1, "epochs before a trial can be stopped", low=1, applies={"unit": ("epoch",)}
    )
    grace_steps: int = toml_key(1, "steps before a trial can be stopped", low=1, applies={"unit": ("step",)})
    reduction_factor: float = toml_key(3.0, "one trial in this many continues at each rung", low=1.5)

    @property
    def grace(self) -> int:
        """Where the first rung is, in its unit."""
        return self.grace_steps if self.unit == "step" else self.grace_epochs


@dataclass(frozen=True, kw_only=True)
class Keep:
    """What is kept of ended trials besides their records, config and log."""

    checkpoints: str = toml_key(
        "best:5", f"checkpoints of ended trials: {POLICY_HELP}", pattern=POLICY_PATTERN, allowed=POLICY_HELP
    )
    predictions: bool = toml_key(
        True, "predictions on the test set of completed trials, tens of kB each, for the report"
    )


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources of one trial. Without `gpus`, a trial gets one GPU where the machine has any.

    With `ranks` above 1, that many processes on `nodes` nodes train each trial together; `cpus` and `gpus` are per
    process. Ray places trials by `memory` (`4G`) and `custom` resources.
    """

    cpus: int = toml_key(1, "CPUs of each process, also its number of threads", low=1)
    gpus: float | None = toml_key(
        None, "GPUs of each process, or a share of one; left out: one where there is any", low=0
    )
    memory: str = toml_key("", "memory that Ray reserves for a trial: 4G", size=True)
    custom: Mapping[str, float] = toml_key({}, "custom resources that Ray reserves for a trial", above=0)
    compile: bool = toml_key(False, "train with torch.compile")
    ranks: int = toml_key(1, "processes that train each trial together", low=1)
    nodes: int = toml_key(1, "nodes that the ranks spread over evenly", low=1)
    batch_norm: str = toml_key(
        "synchronised",
        "BatchNorm's statistics: over the whole batch, or over each rank's part",
        choices=BATCH_NORMS,
    )


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """A checked sweep file."""

    name: str = toml_key(
        MISSING,
        "the sweep's folder in the store; left out: the file's name",
        pattern=FOLDER_NAME,
        allowed="a name that a folder can have",
    )
    parts: tuple[Part, ...] = toml_key_by_hand(
        MISSING, "several questions in one file, each with its own space"
    )
    question: str = toml_key("", "what the report answers")
    reaches: str = toml_key("", "the result to expect, in words")
    cost: str = toml_key("", "the expected cost, in words")
    metric: str = toml_key_by_hand(MISSING, "the metric that is compared")
    mode: str = toml_key(
        MISSING, "whether more or less of it is better; left out: as the metric wants", choices=MODES
    )
    score: str = toml_key("last", "which record of a trial counts: its last one, or its best", choices=SCORES)
    error: str = toml_key(
        "own",
        "of comparisons: each pair's own, or pooled over the values of a field, with seeds as blocks",
        choices=ERRORS,
    )
    seeds: tuple[int, ...] = toml_key_by_hand(
        (42,), "replicas of every point (3), or the seeds themselves ([1, 2])"
    )
    search_seed: int = toml_key(0, "seed of drawn fields, and of a search", low=0)
    imports: tuple[str, ...] = toml_key_by_hand(
        (), "Python files that register models, data sets or other parts, relative to the file's folder"
    )
    project: str = toml_key_by_hand(
        "", "the folder that comes first in sys.path; left out: the nearest with .git or pyproject.toml"
    )
    code: str = toml_key(
        "",
        "pin: changed code of yours makes new trials; left out: it is not part of an identity",
        choices=CODE_RULES,
    )
    search: Search | None = toml_key_by_hand(None, "chooses trials as others end; in Ray places only")
    stopping: Stopping | None = toml_key_by_hand(None, "a rule that stops poor trials early")
    keep_checkpoints: str = "best:5"
    keep_predictions: bool = True
    resources: Resources = toml_key_by_hand(Resources(), "the resources of one trial")
    trainable: Trainable = toml_key_by_hand(
        MISSING,
        "what a trial is: FILE.py:NAME, a class of one's own or a Ray Tune trainable; left out: the image trainer",
        factory=find_trainable,
    )
    command: CommandSpec | None = toml_key_by_hand(None, "a trial that is a command: how it is run")
    source: Mapping[str, Any] = field(default_factory=dict)  # the file's own tables, `--set` applied
    path: Path | None = None
    user_code: Code | None = None  # the user's files that train its trials
    roots: tuple[str, ...] = (".",)  # folders of the project that they are imported from

    @property
    def kind(self) -> str:
        """The kind of its trials."""
        return self.trainable.kind

    @property
    def may_stop_trials(self) -> bool:
        """Whether a trial may end before its last epoch, by a stopping rule or a population."""
        return self.stopping is not None or (self.search is not None and self.search.algorithm == "pbt")

    def to_toml(self) -> str:
        """Return the file as it is run, `--set` applied."""
        return tomli_w.dumps(dict(self.source))


TABLES: Mapping[str, type] = {"search": Search, "stopping": Stopping, "keep": Keep, "resources": Resources}


PUBLISHED_WORDS = ("finding", "source")  # keys of `published` beside the metrics


PART_KEYS = tuple(declared_keys(Part))


# `kind` is written into a store's resolved sweep file; in another it is not used.
TOP_KEYS = tuple(dict.fromkeys((*declared_keys(SweepSpec), *PART_KEYS, *TABLES, "fields", "kind")))


# Keys of a file with one question that belong inside each of [[parts]] in a file with several.
ONLY_IN_PARTS = tuple(name for name in PART_KEYS if name not in (*declared_keys(SweepSpec), "base"))


def published_metrics(trainable: Trainable) -> tuple[str, ...]:
    """The metrics that a sweep file can have published figures of; of a trainable of one's own, others too."""
    return (*trainable.result_metrics, *trainable.second_metrics, "parameters")


def read_published(
    reader: Reader, trainable: Trainable, table: Mapping[str, Any], where: str
) -> dict[str, float | str]:
    """Read what was published elsewhere on a part: figures by metric, a finding in words, and their source.

    Raises:
        SpecError: a key is neither a metric nor one of these words, or a value is of another type.
    """
    published, at = reader.table(table, "published", where), f"{where}published."
    if not isinstance(trainable, DeclaredTrainable):
        reader.keys(published, (*published_metrics(trainable), *PUBLISHED_WORDS), at)
    found: dict[str, float | str] = {}
    for name, value in published.items():
        if name in PUBLISHED_WORDS:
            found[name] = reader.text(published, name, "", at)
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise reader.error(at + name, f"{value!r} is not a number")
        else:
            found[name] = float(value)
    return found
