"""How a sweep looks in a terminal: the live view of `run` and `status`, plain when piped."""

import math
import time
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from core.records import EpochRecord
from core.store import STATES, SweepStore, TrialInfo
from sweep.forecast import duration
from sweep.status import StatusReader, SweepStatus, TrialStatus

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
    """`9 trials: 4 completed, 2 running, 3 waiting`."""
    line = Text(f"{len(status.trials)} trials: ")
    found = [state for state in STATES if status.counts.get(state)]
    for number, state in enumerate(found):
        line.append(", " if number else "")
        line.append(f"{status.counts[state]} {state}", STYLES[state])
    return line


def summary(status: SweepStatus) -> list[RenderableType]:
    """Question, progress, best so far, time left, failures by kind."""
    head = Text(status.name, "bold")
    if status.question:
        head.append(f"  {status.question}", "italic")
    done, total = status.epochs_done, max(1, status.epochs_total)
    bar = Table.grid(padding=(0, 1))
    left = f"about {duration(status.seconds_left)} left" if status.seconds_left else ""
    bar.add_row(ProgressBar(total, done, width=30), f"{100 * done / total:3.0f} % of {total} epochs", left)
    lines: list[RenderableType] = [head, bar, counts_line(status)]
    if status.best:
        best = status.best
        lines.append(Text(f"best {status.metric} {_value(best)} by {best.trial_id} ({best.label})"))
    if status.failures:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(status.failures.items()))
        lines.append(Text(f"failures: {kinds}", "red"))
    if status.to_come:
        lines.append(Text(f"{status.to_come} more trials are to be chosen by the search", "dim"))
    if status.others:
        lines.append(Text(f"{status.others} trials in the store are no longer in the plan", "dim"))
    return lines


def trials_table(trials: Iterable[TrialStatus], metric: str) -> Table:
    """A row a trial."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column("trial", no_wrap=True)
    table.add_column("varied", overflow="fold", max_width=34)
    table.add_column("state", no_wrap=True)
    table.add_column("epoch", justify="right", no_wrap=True)
    table.add_column(metric.replace("_", " "), justify="right", no_wrap=True)
    for trial in trials:
        state = (trial.failure and f"failed: {trial.failure}") or trial.state
        table.add_row(
            trial.trial_id,
            Text(trial.label),
            Text(state, STYLES[trial.state]),
            f"{trial.epoch}/{trial.epochs}",
            _value(trial),
        )
    return table


def live_picture(status: SweepStatus, rows: int = 8) -> RenderableType:
    """The summary, what runs now, and the best few."""
    running = [t for t in status.trials if t.state == "running"][:rows]
    sign = 1 if status.mode == "max" else -1
    ranked = [(t, t.value) for t in status.trials if t.state != "running" and t.value is not None]
    ranked.sort(key=lambda pair: math.inf if math.isnan(pair[1]) else -sign * pair[1])
    shown = running + [trial for trial, _ in ranked[: rows - 3]]
    below: RenderableType = (
        trials_table(shown, status.metric) if shown else Text("no trial at work yet", "dim")
    )
    return Group(*summary(status), Text(""), below)


class RunView:
    """What `sweep run` shows: a live picture in a terminal, a line a trial when piped."""

    def __init__(self, store: SweepStore, console: Console):
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
        """Draw the present, where there is a terminal."""
        if not self._console.is_terminal or time.monotonic() < self._next_at:
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        start = time.monotonic()
        self._live.update(live_picture(self._reader.read()), refresh=True)
        end = time.monotonic()
        self._next_at = end + max(1.0, 10 * (end - start))  # a large store is not read all the time

    def record(self, record: EpochRecord) -> None:
        """Tell of one epoch."""
        self.say(
            f"{record.trial_id}  epoch {record.epoch}  "
            f"train {record.train_loss:.4f} {record.train_accuracy:.3f}  "
            f"valid {record.valid_loss:.4f} {record.valid_accuracy:.3f}  "
            f"{record.images_per_second:.0f} images/s"
        )

    def end_of_trial(self, info: TrialInfo) -> None:
        """Tell of one trial's end."""
        last = info.attempts[-1]
        state = "waits" if last.end == "paused" else info.state
        line = Text(f"{info.trial_id}  ").append(state, STYLES[info.state])
        line.append(f" at epoch {info.epoch}")
        if info.state == "failed":
            line.append(f"  {last.end}: {last.message}")
        self._console.print(line)

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)


def _value(trial: TrialStatus) -> str:
    return "" if trial.value is None else f"{trial.value:.4f}"
