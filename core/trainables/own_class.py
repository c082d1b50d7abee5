"""A trainable of one's own: a user's class, checked when a sweep is planned, and run as any other trial.

The class has the fields of its trials as a frozen dataclass `Config`, the names of its metrics, and the methods
`train`, `state` and `restore`. See `docs/tutorial/your-own-training.md`.
"""

import inspect
import shutil
import tempfile
import time
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mixsweep.core import records
from mixsweep.core.config import Field, TrialConfig
from mixsweep.core.errors import ConfigError
from mixsweep.core.failures import kind_of
from mixsweep.core.records import COMMON_COLUMNS, Record
from mixsweep.core.scratch import copy_files, files_below
from mixsweep.core.trainables import interface
from mixsweep.core.trainables.declared import DeclaredConfig
from mixsweep.core.trainables.definition import SECONDS, TEST, Definition, make_definition
from mixsweep.core.trainables.field_types import OPTION, field_of
from mixsweep.core.trainables.predictions import checked_table
from mixsweep.core.trainables.seeding import seed_record

if TYPE_CHECKING:  # torch takes seconds to import, and a plan needs none
    import torch

_NEEDED = {"train": 0, "state": 0, "restore": 1}  # methods, and their number of arguments

_classes: dict[str, type] = {}  # by kind, without a digest of code


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where and how this process trains a trial of a trainable of one's own. Nothing in it is part of its identity.

    Args:
        data_dir: the data folder on this machine: `--data`, SWEEP_DATA, or `data` of the place.
        threads: CPUs of this process.
        rank: this process among the `world_size` that train the trial together; `local_rank` on its host.
        log: writes a line into the trial's log.
        scratch: an empty folder for this attempt alone, removed at its end.
        artifacts: a folder whose files are kept with the trial, with each checkpoint and at the end of the attempt;
            it has those that earlier attempts kept. Those of rank 0 count.
    """

    device: "torch.device"
    data_dir: Path | None
    threads: int
    rank: int
    world_size: int
    local_rank: int
    log: Callable[[str], None]
    scratch: Path
    artifacts: Path


def define(cls: Any, name: str, more_metrics: Mapping[str, str] = MappingProxyType({})) -> Definition:
    """The definition of a user's class, checked.

    Args:
        name: `module:qualname`, for the identities of its trials.
        more_metrics: metrics that a sweep compares and the class does not declare, with their mode.

    Raises:
        ConfigError: what the class lacks or has wrong, in one line.
    """
    if not isinstance(cls, type):
        raise ConfigError(f"{name}: not a class")
    train, *_ = [_check_method(cls, name, method, arguments) for method, arguments in _NEEDED.items()]
    has_test = hasattr(cls, "test")
    for method in ("test", "predictions"):
        if hasattr(cls, method):
            _check_method(cls, name, method, 0)
    if not inspect.isgeneratorfunction(train) and not _returns_iterator(train):
        raise ConfigError(f"{name}.train: yields nothing; write `yield {{'loss': loss}}` once a record")
    metrics = getattr(cls, "metrics", {})
    if not isinstance(metrics, Mapping):
        raise ConfigError(f"{name}.metrics: {metrics!r} is not like {{'loss': 'min'}}")
    try:
        made = make_definition(
            source="class",
            name=name,
            fields=_fields_of(getattr(cls, "Config", None), name),
            metrics={**metrics, **{key: mode for key, mode in more_metrics.items() if key not in metrics}},
            has_test=has_test,
            multi_rank=bool(getattr(cls, "multi_rank", False)),
        )
    except ConfigError as error:
        raise ConfigError(
            str(error) if str(error).startswith(name) else f"{name}: {error}", error.field
        ) from error
    return made


def attach(definition: Definition, cls: type) -> None:
    """Make this class run the trials of a definition in this process."""
    _classes[replace(definition, code="").kind] = cls


def start(config: TrialConfig, run: interface.Run) -> "OwnTrial":
    """Start a trial of a user's class.

    Raises:
        ConfigError: its class is not imported here.
    """
    assert isinstance(config, DeclaredConfig)
    cls = _classes.get(replace(config.definition, code="").kind)
    if cls is None:
        raise ConfigError(f"{config.definition.name}: its file is not imported in this process")
    return OwnTrial(config, cls, run)


class OwnTrial:
    """A trial of a user's class in this process."""

    def __init__(self, config: DeclaredConfig, cls: Any, run: interface.Run):
        self.config = config
        self.epoch = config.begins_after
        self.facts: Mapping[str, Any] = {}
        self._is_checked = False
        self._run = run
        self._folder = Path(tempfile.mkdtemp(prefix="mixsweep-"))
        scratch, self._artifacts = self._folder / "scratch", self._folder / "artifacts"
        scratch.mkdir()
        self._artifacts.mkdir()
        copy_files(run.kept, self._artifacts)
        own = Run(
            device=run.device,
            data_dir=run.data_dir,
            threads=run.threads,
            rank=run.rank,
            world_size=run.world_size,
            local_rank=run.local_rank,
            log=run.log,
            scratch=scratch,
            artifacts=self._artifacts,
        )
        seed_record(config, 0)
        self._own = cls(_own_config(cls.Config, config), own)

    def train(self, attempt: int = 1) -> Iterator[Record]:
        rounds = iter(self._own.train())
        while True:
            seed_record(self.config, self.epoch + 1)
            began = time.perf_counter()
            try:
                given = next(rounds)
            except StopIteration:
                return
            seconds = time.perf_counter() - began
            metrics = _checked_metrics(given, f"{self.config.definition.name}.train")
            self.epoch += 1
            step = metrics.pop("step", self.epoch)
            yield Record(
                trial_id=self.config.trial_id,
                epoch=self.epoch,
                step=int(step),
                attempt=attempt,
                recorded_at=records.now(),
                metrics={**metrics, SECONDS: seconds},
            )

    def state(self) -> dict[str, Any]:
        state = self._own.state()
        if not self._is_checked:
            _check_state(state, f"{self.config.definition.name}.state()")
            self._is_checked = True
        return {"epoch": self.epoch, "own": state}

    def restore(self, state: dict[str, Any]) -> None:
        try:
            self._own.restore(state["own"])
        except Exception as error:
            if kind_of(error) != "bug":
                raise
            self._run.log("".join(traceback.format_exception(error)).rstrip())
            problem = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"{self.config.definition.name}.restore: {type(error).__name__}: {problem}; if its code does not fit "
                f"the checkpoint any more, start the trial again: --fresh {self.config.trial_id}"
            ) from error
        self.epoch = state["epoch"]

    def test(self) -> Mapping[str, float]:
        if not self.config.definition.has_test:
            return {}
        seed_record(self.config, 0)
        given = _checked_metrics(self._own.test(), f"{self.config.definition.name}.test")
        return {name if name.startswith(TEST) else TEST + name: value for name, value in given.items()}

    def predictions(self) -> pa.Table | None:
        if not hasattr(self._own, "predictions"):
            return None
        seed_record(self.config, 0)
        return checked_table(self._own.predictions(), f"{self.config.definition.name}.predictions")

    def leave(self) -> tuple[Record, ...]:
        """Nothing: its state is always whole."""
        return ()

    def files_to_keep(self, is_last: bool) -> dict[str, Path]:
        """The files in its folder of artifacts; they are whole between two records."""
        return files_below(self._artifacts)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _check_method(cls: Any, name: str, method: str, arguments: int) -> Any:
    found = getattr(cls, method, None)
    if not callable(found):
        raise ConfigError(f"{name}: has no method {method}")
    try:
        inspect.signature(found).bind(None, *range(arguments))
    except TypeError as error:
        words = f"cannot be called with {arguments} arguments" if arguments else "takes no arguments"
        raise ConfigError(f"{name}.{method}: {words} ({error})") from error
    return found


def _returns_iterator(function: Any) -> bool:
    """Whether a function that is no generator may return an iterator, as far as its source tells."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        return True
    return "return " in source or "lambda" in source


def _fields_of(config: Any, name: str) -> list[Field]:
    if config is None or not is_dataclass(config) or not isinstance(config, type):
        raise ConfigError(f"{name}: has no dataclass Config with the fields of its trials")
    if not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ConfigError(f"{name}.Config: not frozen; write @dataclass(frozen=True, kw_only=True)")
    try:
        hints = typing.get_type_hints(config)
    except Exception as error:
        raise ConfigError(f"{name}.Config: its types cannot be read ({error})") from error
    found = []
    for spec in fields(config):
        where = f"{name}.Config.{spec.name}"
        if spec.default is MISSING:
            raise ConfigError(f"{where}: has no default")
        options = dict(spec.metadata.get(OPTION, {}))
        conditions = {
            other: tuple(allowed) if isinstance(allowed, list | tuple) else (allowed,)
            for other, allowed in options.pop("when", {}).items()
        }
        made = field_of(spec.name, hints[spec.name], spec.default, where, options, conditions)
        found.append(made)
    names = {spec.name for spec in found}
    for made in found:
        if unknown := set(made.applies) - names:
            raise ConfigError(f"{name}.Config.{made.name}: when: {sorted(unknown)[0]!r} is no field")
    return found


def _own_config(config: Any, values: DeclaredConfig) -> Any:
    names = {spec.name for spec in fields(config)}
    return config(**{name: value for name, value in values.values.items() if name in names})


def _checked_metrics(given: Any, where: str) -> dict[str, Any]:
    """A record's values as plain numbers.

    Raises:
        ConfigError: it is no mapping of names to numbers, or uses a reserved name.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: {given!r:.80} is not a mapping of metrics, like {{'loss': 0.5}}")
    found: dict[str, Any] = {}
    for name, value in given.items():
        if not isinstance(name, str) or not name or (name in COMMON_COLUMNS and name != "step"):
            raise ConfigError(f"{where}: metric {name!r}: the name is reserved or not a text")
        if value is None:
            continue
        plain = value.item() if hasattr(value, "item") and not isinstance(value, str) else value
        if not isinstance(plain, int | float):
            raise ConfigError(f"{where}: metric {name!r}: {value!r:.80} is not a number")
        found[name] = int(plain) if isinstance(plain, bool) else plain
    return found


def _check_state(state: Any, where: str) -> None:
    """Check that a checkpoint of this state can be loaded without executing anything.

    Raises:
        ConfigError: names the first value that cannot be kept.
    """
    import torch

    plain = (str, bytes, int, float, complex, type(None), torch.Tensor, torch.dtype, torch.device, torch.Size)

    def check(value: Any, at: str) -> None:
        if isinstance(value, Mapping) and type(value).__module__ in ("builtins", "collections"):
            for key, item in value.items():
                check(key, at)
                check(item, f"{at}[{key!r}]")
        elif type(value) in (list, tuple, set):
            for number, item in enumerate(value):
                check(item, f"{at}[{number}]")
        elif type(value).__module__.partition(".")[0] == "numpy" or not isinstance(value, plain):
            raise ConfigError(
                f"{at} is a {type(value).__module__}.{type(value).__qualname__}: a checkpoint holds tensors, "
                "numbers, texts, lists and dictionaries"
            )

    if not isinstance(state, Mapping):
        raise ConfigError(f"{where} is a {type(state).__qualname__}: return a dictionary")
    check(dict(state), where)
