"""A trial of a Ray Tune class: Tune's own methods `train`, `save` and `restore`, in a folder of its own."""

import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ray.train._internal.session import _TrainingResult
from ray.tune import Checkpoint
from ray.tune.result import TRIAL_INFO

from mixsweep.core.records import Record
from mixsweep.core.scratch import scratch_folder
from mixsweep.core.trainables import interface
from mixsweep.core.trainables.declared import DeclaredConfig
from mixsweep.core.trainables.seeding import seed_record
from mixsweep.sweep.trainables import tune_results
from mixsweep.sweep.trainables.private_ray import private_ray
from mixsweep.sweep.trainables.tune_config import config_of, trial_info

logging.getLogger("ray.tune.trainable").setLevel(logging.WARNING)  # a restore is told in the trial's log


class ClassTrial:
    """A trial of a subclass of `ray.tune.Trainable` in this process.

    Each call of its `train` is a record. A record that is `done` is the last one.
    """

    def __init__(self, config: DeclaredConfig, cls: type, run: interface.Run):
        self.config = config
        self.epoch = config.begins_after
        self.facts: Mapping[str, Any] = {}
        self.wants_checkpoint = False
        self._log = run.log
        self._results = tune_results.Results(config, run.log)
        self._result: Mapping[str, Any] = {}  # the last one, or what is kept of it
        self._can_save = True
        self._closing = ExitStack()
        self._closing.enter_context(private_ray(run))
        self._scratch = self._closing.enter_context(scratch_folder())
        try:
            seed_record(config, 0)
            info = trial_info(config, run)
            self._own = _placed(cls, self._scratch / "logdir")({TRIAL_INFO: info, **config_of(config)})
        except BaseException:
            self._closing.close()
            raise

    def train(self, attempt: int = 1) -> Iterator[Record]:
        while not tune_results.is_done(self._result):
            seed_record(self.config, self.epoch + 1)
            began = time.perf_counter()
            self._result = self._own.train()
            seconds = time.perf_counter() - began
            self.epoch += 1
            self.wants_checkpoint = tune_results.asks_for_checkpoint(self._result)
            yield self._results.record(self._result, epoch=self.epoch, attempt=attempt, seconds=seconds)

    def state(self) -> dict[str, Any] | None:
        folder = self._scratch / "saved"
        shutil.rmtree(folder, ignore_errors=True)
        files = tune_results.files_of(folder)
        files.mkdir(parents=True)
        try:
            if self._can_save:
                self._own.save(str(files))
        except NotImplementedError:
            self._can_save = False
            self._log("it has no save_checkpoint: if it is interrupted, it starts again")
        if not self._can_save:
            return None
        tune_results.write_result(folder, self._result)
        return {"epoch": self.epoch, "folder": folder}

    def restore(self, state: dict[str, Any]) -> None:
        folder = self._scratch / "restored"  # a copy: what loads it may change it
        shutil.copytree(state["folder"], folder)
        self._result = tune_results.read_result(folder)
        saved = Checkpoint.from_directory(str(tune_results.files_of(folder)))
        self._own.restore(_TrainingResult(saved, tune_results.counts_of(self._result)))
        self.epoch = state["epoch"]

    def test(self) -> Mapping[str, float]:
        """Nothing: it has no test."""
        return {}

    def leave(self) -> tuple[Record, ...]:
        """Nothing: its state is always whole."""
        return ()

    def close(self) -> None:
        try:
            self._own.stop()
        except Exception as error:  # its end is known by now
            self._log(f"its cleanup failed: {type(error).__name__}: {error}")
        finally:
            self._closing.close()


class _Silent:
    """An older Tune's logger of results: records are in the store."""

    def on_result(self, result: Mapping[str, Any]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def _placed(cls: Any, logdir: Path) -> Any:
    """The class with this log folder; Tune would make one below `~/ray_results`."""

    class Placed(cls):
        def _setup_logdir(self) -> None:
            logdir.mkdir(parents=True, exist_ok=True)
            self._logdir = str(logdir)

        def _create_logger(self, config: Any, logger_creator: Any = None) -> None:
            """What an older Tune has in its place, with loggers of its own."""
            self._setup_logdir()
            self._result_logger = _Silent()

    Placed.__name__, Placed.__qualname__, Placed.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    return Placed
