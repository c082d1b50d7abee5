"""Stands in for Ray's session: what `ray.tune.report`, `get_checkpoint` and `get_context` reach in a Tune function.

Ray's functions look the session up in a variable of one of its modules. It is this one's only while the function runs,
so a process that is a Tune actor itself keeps its own.
"""

import inspect
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any

from ray.train._internal import session as rays
from ray.tune import Checkpoint
from ray.tune.result import DEFAULT_METRIC

from mixsweep.sweep.trainables.tune_results import files_of

_STOP_SECONDS = 10.0  # for a function to end, once it is told to
_KEPT_REPORTS = 2  # folders of reported checkpoints: the newest, and the one before, which may still be read


@dataclass(frozen=True)
class Report:
    """What a function has reported: its metrics, and the folder with a copy of its checkpoint, if it gave one."""

    metrics: Mapping[str, Any]
    folder: Path | None


@dataclass(frozen=True)
class _End:
    """The end of a function, and the error that it ended with."""

    error: BaseException | None


class FunctionSession:
    """Runs a Tune function in a thread, from one report to the next.

    Args:
        folder: for copies of checkpoints, and for the function's own files.
        info: of the trial, as Tune has it.
        prepare: called in the function's thread, before it.
    """

    # Of workers of Ray Train, which a Tune function is not.
    world_rank = world_size = local_rank = local_world_size = node_rank = None
    dataset_shard = metadata = storage = accelerator = run_id = None

    def __init__(
        self,
        function: Callable[..., Any],
        config: dict[str, Any],
        *,
        folder: Path,
        info: Any,
        prepare: Callable[[], None],
    ):
        self._function, self._config, self._folder, self._prepare = function, config, folder, prepare
        self.loaded_checkpoint: Any = None
        self.experiment_name = info.experiment_name
        self.trial_name, self.trial_id = info.trial_name, info.trial_id
        self.trial_resources = info.trial_resources
        self.trial_dir = str(folder / "trial")
        Path(self.trial_dir).mkdir(parents=True)
        self._told: queue.Queue[Report | _End] = queue.Queue()
        self._go_on = threading.Semaphore(0)
        self._is_stopped = False
        self._reports = 0
        self._state: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run, daemon=True, name="tune-function")
        self._thread.session = self  # type: ignore[attr-defined]

    def next(self) -> Report | None:
        """Let the function run to its next report; None at its end.

        Raises:
            BaseException: what the function raised.
        """
        with self._in_place():
            if self._thread.ident is None:
                self._thread.start()
            else:
                self._go_on.release()
            told = self._told.get()
        if isinstance(told, Report):
            return told
        if told.error is not None:
            raise told.error
        return None

    def stop(self) -> bool:
        """End the function at its next report, as Tune does; return whether it has ended."""
        self._is_stopped = True
        if self._thread.ident is not None:
            with self._in_place():  # one that goes on in spite of it is told again at its next report
                self._go_on.release()
                self._thread.join(_STOP_SECONDS)
        return not self._thread.is_alive()

    def report(self, metrics: Mapping[str, Any], checkpoint: Any = None) -> None:
        """Hand a report over, and wait until the trial goes on; called by `ray.tune.report`."""
        owner = getattr(threading.current_thread(), "session", self)
        if owner is not self or self._is_stopped:  # of a trial that is over
            raise SystemExit(0)
        if not isinstance(metrics, Mapping):
            raise TypeError(f"ray.tune.report: {metrics!r:.80} is not a dictionary of metrics")
        folder = None if checkpoint is None else self._keep(checkpoint)
        self._told.put(Report(dict(metrics), folder))
        self._go_on.acquire()
        if self._is_stopped:
            raise SystemExit(0)

    def get_dataset_shard(self, dataset_name: str | None = None) -> None:
        """None: a Tune function has no data sets of Ray's."""

    def get_state(self, key: str) -> Any:
        """Kept by integrations for the time of a session."""
        return self._state.get(key)

    def set_state(self, key: str, value: Any) -> None:
        """See get_state."""
        self._state[key] = value

    def _keep(self, checkpoint: Any) -> Path:
        self._reports += 1
        folder = self._folder / f"report-{self._reports}"
        with checkpoint.as_directory() as files:
            shutil.copytree(files, files_of(folder))
        self.loaded_checkpoint = Checkpoint.from_directory(str(files_of(folder)))
        shutil.rmtree(self._folder / f"report-{self._reports - _KEPT_REPORTS}", ignore_errors=True)
        return folder

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        before = rays._session
        rays._session = self
        try:
            yield
        finally:
            rays._session = before

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._prepare()
            self._call()
        except StopIteration:
            pass
        except SystemExit as exit:
            if exit.code not in (0, None):
                error = RuntimeError(f"the function called sys.exit({exit.code!r})")
        except BaseException as raised:
            error = raised
        self._told.put(_End(error))

    def _call(self) -> None:
        """Call the function; what it yields or returns is reported as well, as Tune does."""
        output = self._function(self._config)
        for one in output if inspect.isgenerator(output) else [output]:
            if not one:
                continue
            if isinstance(one, Mapping):
                self.report(one)
            elif isinstance(one, Number):
                self.report({DEFAULT_METRIC: one})
            else:
                raise TypeError(f"a Tune function may return a number or a dictionary, not {one!r:.80}")
