"""How a sweep stands, from its store alone: works while it runs, on any machine that sees the folder."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.config import TrialConfig
from core.records import default_mode
from core.store import SweepStore, TrialInfo
from sweep.forecast import forecast, rates_of
from sweep.plan import labels_of, read_plan, trials_of
from sweep.search_spec import Search


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """One trial's standing. `value` is the sweep's metric at the newest epoch, None before the first."""

    trial_id: str
    label: str
    state: str
    epoch: int
    epochs: int
    value: float | None
    failure: str
    message: str


@dataclass(frozen=True, kw_only=True)
class SweepStatus:
    """A sweep's standing. `seconds_left` is None where nothing is known yet."""

    name: str
    question: str
    metric: str
    mode: str
    trials: tuple[TrialStatus, ...]
    seconds_left: float | None
    others: int  # trials in the store that the plan no longer has
    to_come: int = 0  # trials that a search has yet to choose

    @property
    def counts(self) -> dict[str, int]:
        """Trials by state."""
        return dict(Counter(trial.state for trial in self.trials))

    @property
    def failures(self) -> dict[str, int]:
        """Failed trials by kind."""
        return dict(Counter(trial.failure for trial in self.trials if trial.failure))

    @property
    def epochs_done(self) -> int:
        """Epochs that are trained, those that will not be (stopped, diverged) counted as done."""
        ended = ("completed", "stopped", "diverged")
        return sum(t.epochs if t.state in ended else min(t.epoch, t.epochs) for t in self.trials)

    @property
    def epochs_total(self) -> int:
        return sum(trial.epochs for trial in self.trials)

    @property
    def best(self) -> TrialStatus | None:
        """The completed trial with the best metric at its last epoch."""
        done = [t for t in self.trials if t.state == "completed" and t.value is not None]
        sign = 1 if self.mode == "max" else -1
        return max(done, key=lambda t: sign * (t.value or 0.0), default=None)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "sweep": self.name,
            "question": self.question,
            "metric": self.metric,
            "counts": self.counts,
            "failures": self.failures,
            "epochs_done": self.epochs_done,
            "epochs_total": self.epochs_total,
            "to_come": self.to_come,
            "seconds_left": self.seconds_left,
            "best": vars(self.best) if self.best else None,
            "trials": [vars(trial) for trial in self.trials],
        }


class StatusReader:
    """Reads a sweep's standing again and again; what has ended is not read twice."""

    def __init__(self, store: SweepStore):
        self._store = store
        self._ended: dict[str, TrialInfo] = {}

    def read(self) -> SweepStatus:
        """The standing now."""
        source = self._store.sweep_file()
        metric = source.get("metric", "valid_accuracy")
        mode = source.get("mode", default_mode(metric))
        rows = read_plan(self._store)
        labels = labels_of(rows)
        configs = {config.trial_id: config for config in trials_of(rows)}
        infos = {trial_id: self._info(trial_id, config) for trial_id, config in configs.items()}
        table = self._store.records()
        newest: dict[str, tuple[int, float]] = {}
        columns = (table[name].to_pylist() for name in ("trial_id", "epoch", metric))
        for trial_id, epoch, value in zip(*columns):
            if trial_id in configs and newest.get(trial_id, (0, 0.0))[0] <= epoch <= configs[trial_id].epochs:
                newest[trial_id] = (epoch, value)
        trials = tuple(_standing(c, infos[i], newest.get(i), labels[i]) for i, c in configs.items())
        todo = [
            (configs[t.trial_id], t.epochs - t.epoch)
            for t in trials
            if t.state in ("waiting", "running", "lost", "interrupted") and t.epochs > t.epoch
        ]
        expected = forecast(todo, rates_of(table, configs)) if newest else None
        running = sum(trial.state == "running" for trial in trials)
        return SweepStatus(
            name=self._store.name,
            question=source.get("question", ""),
            metric=metric,
            mode=mode,
            trials=trials,
            seconds_left=expected.seconds / max(1, running) if expected and expected.seconds else None,
            to_come=_to_come(source, len(trials)),
            others=sum(folder.trial_id not in configs for folder in self._store.trials()),
        )

    def _info(self, trial_id: str, config: TrialConfig) -> TrialInfo | None:
        known = self._ended.get(trial_id)
        if known is not None and known.epoch >= config.epochs:
            return known
        info = self._store.trial(trial_id).info()
        if info is not None and info.ended:
            self._ended[trial_id] = info
        return info


def _to_come(source: Mapping[str, Any], known: int) -> int:
    table = source.get("search", {"algorithm": ""})
    if table.get("algorithm", "tpe") != "tpe":
        return 0
    return max(0, int(table.get("trials", Search(algorithm="tpe").trials)) - known)


def _standing(
    config: TrialConfig, info: TrialInfo | None, newest: tuple[int, float] | None, label: str
) -> TrialStatus:
    state = info.state if info else "waiting"
    epoch, value = newest or (0, None)
    if info and state == "completed" and info.epoch < config.epochs:
        state = "waiting"  # its sweep has been given more epochs
    message = info.attempts[-1].message if info and state == "failed" else ""
    return TrialStatus(
        trial_id=config.trial_id,
        label=label,
        state=state,
        epoch=epoch,
        epochs=config.epochs,
        value=value,
        failure=info.failure if info else "",
        message=message,
    )
