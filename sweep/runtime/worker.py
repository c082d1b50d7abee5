"""Worker processes: the worker spec that a command gives them, and how they run trials, at every kind of place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from mixsweep.core import registry
from mixsweep.core.code.project import path_in_copy
from mixsweep.core.code.tree import tree_of
from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import UserError
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.provenance import patch_of, project_revision
from mixsweep.core.records import Record
from mixsweep.core.store.code_copy import (
    code_path,
    installed_code,
    keep_patch,
    kept_code,
    kept_versions,
    versions_of,
)
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables import own_class
from mixsweep.core.trainables.command.trial import Command
from mixsweep.core.trainables.command.trial import attach as attach_command
from mixsweep.core.trainables.definition import Definition
from mixsweep.core.trainables.image import own_fields
from mixsweep.core.trainables.kinds import declare
from mixsweep.core.version import __version__
from mixsweep.sweep.planning.plan import Plan, read_plan
from mixsweep.sweep.planning.schema import Stopping, SweepSpec
from mixsweep.sweep.planning.user_code import module_of
from mixsweep.sweep.search.asha import make_decide
from mixsweep.sweep.trainables import tune


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """All that a worker needs from its command, so that it does not read the sweep file.

    Args:
        run_config: where and how to train.
        metric: the metric that the stopping rule compares.
        mode: `max` or `min`.
        epochs: the epoch budgets of the plan's trials by id, which the stopping rule compares.
        stopping: the stopping rule, or None.
        definition: of a trainable of one's own, or None.
        command: that trains, where the trainable is one.
        module: of the trainable, where it is in an installed package.
        module_code: digest of its code and its distribution's version, where the command was given.
        imports: the user's files: that of the trainable first, then those that register models and data sets.
        project: the root of the project that they import from.
        roots: folders of the project that modules are imported from.
        runs_copy: whether to import the copies of these files in the store, which hold what was submitted, and not
            those in the project, which may have changed since.
        grows: whether the plan grows while it runs, so that epoch budgets are read from the store.
        version: the mixsweep version of the command.
    """

    run_config: RunConfig
    metric: str
    mode: str
    epochs: Mapping[str, int]
    stopping: Stopping | None = None
    definition: Definition | None = None
    command: Command | None = None
    module: str = ""
    module_code: str = ""
    imports: tuple[str, ...] = ()
    project: str = ""
    roots: tuple[str, ...] = (".",)
    runs_copy: bool = False
    grows: bool = False
    version: str = __version__

    def until(self, epoch: int | None) -> "WorkerSpec":
        """This spec with all trials limited to this epoch; None: no limit."""
        return self.with_run_config(until=epoch)

    def with_run_config(self, **values: Any) -> "WorkerSpec":
        """This spec with some values of the run config replaced."""
        return replace(self, run_config=replace(self.run_config, **values))

    def with_copy(self) -> "WorkerSpec":
        """This spec for workers that start later: they import the store's copy of the user's files."""
        return replace(self, runs_copy=bool(self.imports))

    def to_mapping(self) -> dict[str, Any]:
        """This spec as JSON values, without `epochs`, which an array task reads from the store's plan."""
        stopping = None if self.stopping is None else asdict(self.stopping)
        nested = {
            "run_config": self.run_config.to_mapping(),
            "stopping": stopping,
            "definition": None if self.definition is None else self.definition.to_mapping(),
            "command": None if self.command is None else asdict(self.command),
            "imports": list(self.imports),
            "roots": list(self.roots),
        }
        names = ("metric", "mode", "module", "module_code", "project", "runs_copy", "grows", "version")
        return {**nested, **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], epochs: Mapping[str, int]) -> "WorkerSpec":
        """The worker spec of `to_mapping`, with these epoch budgets.

        Raises:
            UserError: another version of mixsweep wrote it.
        """
        check_version(values["version"])
        stopping, definition, command = values["stopping"], values.get("definition"), values.get("command")
        return cls(
            **{
                **values,
                "run_config": RunConfig.from_mapping(values["run_config"]),
                "stopping": None if stopping is None else Stopping(**stopping),
                "definition": None if definition is None else Definition.from_mapping(definition),
                "command": None if command is None else Command(**command),
                "imports": tuple(values["imports"]),
                "roots": tuple(values.get("roots", (".",))),
                "epochs": epochs,
            }
        )


def make_worker_spec(plan: Plan, run_config: RunConfig) -> WorkerSpec:
    """The worker spec of a command that runs this plan; the store keeps its project's uncommitted changes.

    Raises:
        OSError: the store cannot be written.
    """
    spec = plan.spec
    module = module_of(spec.source.get("trainable", ""))
    return WorkerSpec(
        run_config=_with_code(run_config, spec),
        metric=spec.metric,
        mode=spec.mode,
        epochs={config.trial_id: config.epochs for config in plan.trials},
        stopping=spec.stopping,
        definition=spec.trainable.definition,
        command=_command_of(spec, run_config.store),
        module=module,
        module_code=installed_code(import_module(module)).digest if module else "",
        imports=spec.imports,
        project=spec.project,
        roots=spec.roots,
        grows=spec.search is not None,
    )


def _with_code(run_config: RunConfig, spec: SweepSpec) -> RunConfig:
    """The run config with what is known of the user's code now: later its project may be at another revision."""
    if spec.user_code is None:
        return run_config
    project = spec.project or str(spec.source.get("project", ""))
    revision, is_dirty = project_revision(Path(project)) if project else ("", False)
    return replace(
        run_config,
        code=spec.user_code.digest,
        project_revision=revision,
        project_dirty=is_dirty,
        project_patch=keep_patch(run_config.store, patch_of(Path(project))) if is_dirty else "",
    )


def _command_of(spec: SweepSpec, store: Path) -> Command | None:
    if spec.command is None:
        return None
    table, code = spec.command.table, spec.command.code
    return Command(
        run=table.run,
        metrics=table.metrics,
        resume=table.resume,
        code="" if code is None else str(code_path(store.absolute(), code.digest)),
        inputs=spec.command.inputs,
        environment=table.env,
        time_limit=table.time_limit,
        keep=table.keep,
    )


def check_version(version: str) -> None:
    """Check that this process has the mixsweep version of the process that started it.

    Raises:
        UserError: it has another version.
    """
    if version != __version__:
        raise UserError(
            f"this process has mixsweep {__version__}, and was started by {version or 'an older version'}; "
            "install the same version on both sides, then run the same command again"
        )


class _GrowingEpochs(Mapping[str, int]):
    """The epoch budgets of a growing plan by trial id; a missing id causes the plan to be read again."""

    def __init__(self, store: SweepStore):
        self._store = store
        self._epochs: dict[str, int] = {}
        self._stamp: tuple[int, int] | None = None

    def __getitem__(self, trial_id: str) -> int:
        if trial_id not in self._epochs:
            facts = (self._store.path / "plan.parquet").stat()
            stamp = (facts.st_mtime_ns, facts.st_ino)
            if stamp != self._stamp:  # an unchanged plan does not have the trial
                self._epochs = {row.trial_id: row.config.epochs for row in read_plan(self._store)}
                self._stamp = stamp
        return self._epochs[trial_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._epochs)

    def __len__(self) -> int:
        return len(self._epochs)


def import_code(worker_spec: WorkerSpec) -> None:
    """Import the user's files, and let their classes, functions and commands train in this process.

    Raises:
        UserError: this process has another version than the command, their class is not the command's or not here, or
            two of their files register different things under one name.
    """
    check_version(worker_spec.version)
    files, project = worker_spec.imports, worker_spec.project
    if worker_spec.runs_copy and files:
        files, project = _copies_of(worker_spec)
    modules = registry.import_files(files, project, worker_spec.roots)
    if worker_spec.definition is not None and worker_spec.command is not None:
        declare(worker_spec.definition)
        attach_command(worker_spec.definition.kind, worker_spec.command)
    elif worker_spec.definition is not None and worker_spec.definition.source == own_fields.SOURCE:
        own_fields.check_fields(worker_spec.definition)
        declare(worker_spec.definition)
    elif worker_spec.definition is not None:
        module = _installed_module(worker_spec) if worker_spec.module else modules[0]
        _attach(worker_spec.definition, module)


def _copies_of(worker_spec: WorkerSpec) -> tuple[tuple[str, ...], str]:
    """This process's copies of the user's files, in a tree of the kept code, and the tree's root.

    Raises:
        UserError: the store has no copy.
    """
    project = Path(worker_spec.project)
    inside = [path_in_copy(number, file, project) for number, file in enumerate(worker_spec.imports)]
    origins = {str(Path(name).parent): Path(file).parent for name, file in zip(inside, worker_spec.imports)}
    kept = kept_code(worker_spec.run_config.store, worker_spec.run_config.code)
    tree = tree_of(kept, {**origins, ".": project})
    return tuple(str(tree / name) for name in inside), str(tree)


def prepare_worker(worker_spec: WorkerSpec) -> Callable[[Record], bool]:
    """Import the user's files; return the stopping decision that training calls after each epoch.

    Raises:
        UserError: this process has another version than the command.
    """
    import_code(worker_spec)
    store = SweepStore(worker_spec.run_config.store)
    epochs = _GrowingEpochs(store) if worker_spec.grows else worker_spec.epochs
    return make_decide(worker_spec.stopping, store, worker_spec.metric, worker_spec.mode, epochs)


def _installed_module(worker_spec: WorkerSpec) -> ModuleType:
    """The installed module of a trainable.

    Raises:
        UserError: it is not here, or is not the one that the command was given with.
    """
    name = worker_spec.module
    try:
        module = import_module(name)
    except ImportError as error:
        raise UserError(f"{name}: cannot be imported in this process ({error})") from error
    code = installed_code(module)
    if worker_spec.module_code not in ("", code.digest):
        run_config = worker_spec.run_config
        here, there = versions_of(code), kept_versions(run_config.store, run_config.code)
        change = "its files have changed" if here == there else f"{there or 'another version'}, here {here}"
        raise UserError(
            f"{name}: not the code that the sweep was submitted with ({change}); "
            "install the same version on both sides, or run the same command again"
        )
    return module


def _attach(definition: Definition, module: ModuleType) -> None:
    """Let the class or function in this module run the trials of a definition.

    Raises:
        UserError: it is not the one of which the definition was made.
    """
    cls = getattr(module, definition.name.rpartition(":")[2], None)
    if definition.source == tune.SOURCE:
        if cls is None:
            raise UserError(f"{definition.name}: is not in its module any more; run the same command again")
        declare(definition)
        tune.attach(definition, cls)
        return
    compared = {metric.name: metric.better for metric in definition.metrics if metric.is_objective}
    unpinned = replace(definition, code="")
    if cls is None or own_class.define(cls, definition.name, compared).kind != unpinned.kind:
        raise UserError(
            f"{definition.name}: its fields or metrics are not those that the sweep was submitted with; "
            "run the same command again"
        )
    declare(definition)
    own_class.attach(definition, cls)


def run_trials(
    worker_spec: WorkerSpec,
    trials: Sequence[TrialConfig],
    on_record: Callable[[Record], None] = lambda record: None,
    pause: Callable[[], str] | None = None,
) -> Iterator[TrialInfo]:
    """Run those of these trials that are free; yield each trial's end.

    Args:
        on_record: called after each epoch.
        pause: returns the reason to pause, as in core.execution.runner.work; None: pause on a stop request only.
    """
    from mixsweep.core.execution.runner import work  # imports torch, which a driver does not need

    decide = prepare_worker(worker_spec)
    run_config = worker_spec.run_config
    return work(
        trials,
        run_config,
        decide=decide,
        pause=pause or (lambda: "interrupted" if run_config.stop_requested() else ""),
        report=on_record,
    )
