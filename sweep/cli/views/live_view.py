"""The view of a sweep in a terminal, for `run` and `status`; plain lines when piped."""

import math
import time
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mixsweep.core.formatting import energy_text, rough_duration
from mixsweep.core.records import Record
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import STATES, TrialInfo
from mixsweep.sweep.status import SweepStatus, TrialStatus
from mixsweep.sweep.status_reader import StatusReader

_MOST_ROWS = 200  # of a table in a terminal; --json lists every trial

_BLOCKS = "▁▂▃▄▅▆▇█"

STYLES = {
    "waiting": "dim",
    "running": "cyan",
    "interrupted": "yellow",
    "lost": "yellow",
    "completed": "green",
    "stopped": "blue",
    "diverged": "magenta",
    "failed": "red",
}


def counts_line(status: SweepStatus) -> Text:
    """Return the number of trials by state: `9 trials: 4 completed, 2 running, 3 waiting`."""
    line = Text(f"{len(status.trials)} trials: ")
    found = [state for state in STATES if status.counts.get(state)]
    for number, state in enumerate(found):
        line.append(", " if number else "")
        line.append(f"{status.counts[state]} {state}", STYLES[state])
    return line


def summary(status: SweepStatus) -> list[RenderableType]:
    """Return the lines above the tables: question, progress, best so far, time left, failures by kind."""
    head = Text(status.name, "bold")
    if status.question:
        head.append(f"  {status.question}", "italic")
    done, total = status.epochs_done, max(1, status.epochs_total)
    bar = Table.grid(padding=(0, 1))
    left = _time_left(status)
    bar.add_row(ProgressBar(total, done, width=22), f"{100 * done / total:3.0f} % of {total} epochs", left)
    lines: list[RenderableType] = [head, bar, counts_line(status)]
    if status.best:
        best = status.best
        lines.append(Text(f"best {status.metric} {_value(best)} by {best.trial_id} ({best.label})"))
    if pace := _pace(status):
        lines.append(Text(pace, "dim"))
    if status.rungs:
        rungs = ", ".join(f"{status.rung_unit} {at}: {count}" for at, count in status.rungs.items())
        lines.append(Text(f"rungs: {rungs}"))
    if status.failures:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(status.failures.items()))
        lines.append(Text(f"failures: {kinds}", "red"))
    if status.to_come:
        lines.append(Text(f"{status.to_come} more trials will be chosen by the search", "dim"))
    if len(status.codes) > 1:
        versions = ", ".join(f"{code[:8]}: {count}" for code, count in status.codes.items())
        lines.append(Text(f"different code of yours has trained these trials: {versions}", "yellow"))
    if status.superseded:
        lines.append(Text(superseded_line(len(status.superseded)), "dim"))
    if status.others:
        lines.append(Text(f"{status.others} trials in the store are no longer in the plan", "dim"))
    return lines


def superseded_line(count: int) -> str:
    """Say that changed code has replaced trials."""
    return f"superseded in the store: {count}, trained by other code or before the code was pinned"


def trials_table(trials: Sequence[TrialStatus], metric: str, with_cost: bool = False) -> Table:
    """Return a table with a row per trial, and on request its cost."""
    energy = with_cost and any(trial.energy_joules is not None for trial in trials)
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column("trial", no_wrap=True)
    table.add_column("varied", overflow="fold", max_width=34)
    table.add_column("state", no_wrap=True)
    table.add_column("epoch", justify="right", no_wrap=True)
    table.add_column(metric.replace("_", " "), justify="right", no_wrap=True)
    if with_cost:
        table.add_column("took", justify="right", no_wrap=True)
    if energy:
        table.add_column("energy", justify="right", no_wrap=True)
    for trial in trials:
        state = (trial.failure and f"failed: {trial.failure}") or trial.state
        table.add_row(
            trial.trial_id,
            Text(trial.label + (", of two definitions" if len(trial.codes) > 1 else "")),
            Text(state, STYLES[trial.state]),
            f"{trial.epoch}/{trial.epochs}",
            _value(trial),
            *([rough_duration(trial.device_seconds) if trial.device_seconds else ""] * with_cost),
            *([energy_text(trial.energy_joules)] * energy),
        )
    return table


def trials_to_list(status: SweepStatus) -> list[TrialStatus]:
    """Return all trials in the plan's order; of more than 200 first the running, then the failed, then the best."""
    if len(status.trials) <= _MOST_ROWS:
        return list(status.trials)
    first = [t for t in status.trials if t.state == "running"] + [t for t in status.trials if t.failure]
    shown = {t.trial_id for t in first}
    return [*first, *(t for t in _ranked(status) if t.trial_id not in shown)][:_MOST_ROWS]


def _ranked(status: SweepStatus) -> list[TrialStatus]:
    """Return the trials that have a value of the metric, the best first."""
    sign = 1 if status.mode == "max" else -1
    ranked = [(t, t.value) for t in status.trials if t.value is not None]
    ranked.sort(key=lambda pair: math.inf if math.isnan(pair[1]) else -sign * pair[1])
    return [trial for trial, _ in ranked]


def costs_table(status: SweepStatus) -> RenderableType:
    """Return the cost of each value of each varied field, a row per value; empty if nothing varies."""
    if not status.costs:
        return Text("")
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column("varied", overflow="fold")
    energy = any(cost.energy_joules is not None for costs in status.costs.values() for cost in costs.values())
    for name in ("trials started", "device time", *("energy",) * energy):
        table.add_column(name, justify="right", no_wrap=True)
    for axis, by_value in status.costs.items():
        for value, cost in by_value.items():
            took = (rough_duration(cost.device_seconds), *(energy_text(cost.energy_joules),) * energy)
            table.add_row(Text(f"{axis}={value}"), str(cost.trials), *took)
    return table


def curves_table(status: SweepStatus, width: int = 24) -> RenderableType:
    """Return the metric by epoch of the best few trials, on one scale."""
    labels = {trial.trial_id: trial.label for trial in status.trials}
    values = [v for curve in status.curves.values() for v in curve if math.isfinite(v)]
    if not values:
        return Text("")
    low, high = min(values), max(values)
    longest = max(trial.epochs for trial in status.trials)
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=34)
    for trial_id, curve in status.curves.items():
        drawn = sparkline(curve, low, high, max(1, round(width * min(1.0, len(curve) / longest))))
        table.add_row(trial_id, Text(drawn.ljust(width), "cyan"), Text(labels[trial_id]))
    scale = f"{status.metric.replace('_', ' ')} of the best against epochs, {low:.4g} to {high:.4g}"
    return Group(Text(scale, "dim"), table)


def sparkline(values: Sequence[float], low: float, high: float, width: int) -> str:
    """Return values as blocks of eight heights, each the mean of several if they do not fit; `x` is not finite."""
    width = max(1, min(width, len(values)))
    blocks = ""
    for n in range(width):
        part = values[n * len(values) // width : (n + 1) * len(values) // width]
        mean = sum(part) / len(part)
        share = (mean - low) / (high - low) if high > low else 1.0
        blocks += _BLOCKS[min(7, max(0, int(share * 8)))] if math.isfinite(mean) else "x"
    return blocks


def live_picture(status: SweepStatus, rows: int = 8) -> RenderableType:
    """Return the summary, the running trials, and the best few."""
    running = [t for t in status.trials if t.state == "running"][:rows]
    shown = running + [t for t in _ranked(status) if t.state != "running"][: rows - 3]
    below: RenderableType = (
        trials_table(shown, status.metric) if shown else Text("no trial is running yet", "dim")
    )
    return Group(*summary(status), Text(""), curves_table(status), Text(""), below)


class RunView:
    """The output of `sweep run`: a live picture in a terminal, a line per trial when piped."""

    def __init__(self, store: SweepStore, console: Console):
        self._store = store
        self._reader = StatusReader(store)
        self._console = console
        self._live: Live | None = None
        self._next_at = 0.0

    def __enter__(self) -> "RunView":
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._next_at = 0.0
            self.tick()
            self._live.stop()

    def tick(self) -> None:
        """Draw the present state, if the console is a terminal."""
        if not self._console.is_terminal or time.monotonic() < self._next_at:
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        start = time.monotonic()
        self._live.update(live_picture(self._reader.read()), refresh=True)
        end = time.monotonic()
        self._next_at = end + max(1.0, 10 * (end - start))  # reads take a tenth of the time at most

    def record(self, record: Record) -> None:
        """Print one epoch."""
        progress = self._store.trainable.progress(record)
        self.say(f"{record.trial_id}  epoch {record.epoch}  {progress}")

    def end_of_trial(self, info: TrialInfo) -> None:
        """Print the end of one trial's attempt."""
        last = info.attempts[-1]
        state = "waits" if last.end == "paused" else info.state
        line = Text(f"{info.trial_id}  ").append(state, STYLES[info.state])
        line.append(f" at epoch {info.epoch}")
        if info.state == "failed":
            line.append(f"  {last.end}: {last.message}")
        self._console.print(line)

    def say(self, line: str) -> None:
        # Lines are wrapped in a terminal only.
        self._console.print(line, markup=False, soft_wrap=not self._console.is_terminal)


def _time_left(status: SweepStatus) -> str:
    if not status.seconds_left:
        return ""
    if status.seconds_left_range is None:
        return f"about {rough_duration(status.seconds_left)} left"
    low, high = map(rough_duration, status.seconds_left_range)
    middle = rough_duration(status.seconds_left)
    return f"about {middle} left" + (f" ({low} to {high})" if low != high else "")


def _pace(status: SweepStatus) -> str:
    """Return speed, cost and devices: `1200 epochs an hour · 3.2 h of device time · 2 on Example GPU`."""
    words = []
    if status.epochs_an_hour:
        words.append(f"{status.epochs_an_hour:.0f} epochs an hour")
    if status.device_seconds >= 1:
        words.append(f"{rough_duration(status.device_seconds)} of device time")
    if status.energy_joules:
        words.append(energy_text(status.energy_joules))
    if status.device_utilisation is not None:
        words.append(f"device utilisation {100 * status.device_utilisation:.0f} %")
    words += [f"{count} on {name}" for name, count in status.devices.items()]
    return " · ".join(words)


def _value(trial: TrialStatus) -> str:
    return "" if trial.value is None else f"{trial.value:.4f}"
