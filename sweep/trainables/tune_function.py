"""A trial of a function that calls `ray.tune.report`."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from ray.tune import Checkpoint

from mixsweep.core.records import Record
from mixsweep.core.scratch import scratch_folder
from mixsweep.core.trainables import interface
from mixsweep.core.trainables.declared import DeclaredConfig
from mixsweep.core.trainables.seeding import seed_record
from mixsweep.core.training import device as devices
from mixsweep.sweep.trainables import tune_results
from mixsweep.sweep.trainables.private_ray import private_ray
from mixsweep.sweep.trainables.tune_config import config_of, trial_info
from mixsweep.sweep.trainables.tune_session import FunctionSession


class FunctionTrial:
    """A trial of a Tune function in this process.

    Each report is a record. The newest reported checkpoint is its state: records after it are made again on resume.
    """

    def __init__(self, config: DeclaredConfig, function: Callable[..., Any], run: interface.Run):
        self.config = config
        self.epoch = config.begins_after
        self.facts: Mapping[str, Any] = {}
        self._log = run.log
        self._results = tune_results.Results(config, run.log)
        self._is_done = False
        self._new: dict[str, Any] | None = None  # the state that `state` has not returned yet
        self._has_checkpoint = False
        self._closing = ExitStack()
        self._closing.enter_context(private_ray(run))
        self._scratch = self._closing.enter_context(scratch_folder())
        self._session = FunctionSession(
            function,
            config_of(config),
            folder=self._scratch,
            info=trial_info(config, run),
            prepare=partial(devices.prepare_process, run.threads),
        )

    def train(self, attempt: int = 1) -> Iterator[Record]:
        while not self._is_done:
            seed_record(self.config, self.epoch + 1)
            began = time.perf_counter()
            report = self._session.next()
            seconds = time.perf_counter() - began
            if report is None:
                return
            self.epoch += 1
            self._is_done = tune_results.is_done(report.metrics)
            if report.folder is not None:
                tune_results.write_result(report.folder, report.metrics)
                self._new = {"epoch": self.epoch, "folder": report.folder}
                self._has_checkpoint = True
            yield self._results.record(report.metrics, epoch=self.epoch, attempt=attempt, seconds=seconds)

    def state(self) -> dict[str, Any] | None:
        if not self._has_checkpoint:
            self._log("it has reported no checkpoint: if it is interrupted, it starts again")
            self._has_checkpoint = True
        new, self._new = self._new, None
        return new

    def restore(self, state: dict[str, Any]) -> None:
        folder = self._scratch / "restored"  # a copy: what loads it may change it
        shutil.copytree(state["folder"], folder)
        self._is_done = tune_results.is_done(tune_results.read_result(folder))
        self._session.loaded_checkpoint = Checkpoint.from_directory(str(tune_results.files_of(folder)))
        self._has_checkpoint = True
        self.epoch = state["epoch"]

    def test(self) -> Mapping[str, float]:
        """Nothing: it has no test."""
        return {}

    def leave(self) -> tuple[Record, ...]:
        """Nothing: its state is the newest reported checkpoint."""
        return ()

    def close(self) -> None:
        if not self._session.stop():
            self._log("the function goes on, although it was told to end")
        self._closing.close()
