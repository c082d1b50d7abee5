"""A summary of every trial of a sweep, cached in one file for ended trials: ten thousand heads are slow to read.

The file is derived: its entry for a trial is valid only while that trial's files have not changed.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mixsweep.core.store import files
from mixsweep.core.store.code_copy import same_code
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.folder import TrialFolder, is_current
from mixsweep.core.store.trial.info import ENDED, Attempt, TrialInfo

_NAME = "trial-index.json"
_VERSION = 4  # of its fields


@dataclass(frozen=True, kw_only=True)
class TrialSummary:
    """A trial's state and progress, without its config."""

    state: str
    epoch: int = 0
    budget: int = 0  # the epochs that it was asked for
    budget_met: int = 0  # see TrialInfo
    failure: str = ""  # the kind of failure, for a failed trial
    message: str = ""  # of that failure
    device: str = ""
    device_seconds: float = 0.0  # wall time of the attempts that have ended
    began: str = ""  # when the running attempt began, ISO; empty if none runs
    ranks: int = 1  # of the last attempt, each with its own device
    codes: tuple[str, ...] = ()  # see TrialInfo; by today's digests
    revisions: tuple[str, ...] = ()  # of mixsweep
    is_damaged: bool = False  # whether its files, or the disk, are at fault, which may change at any time

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class TrialIndex:
    """Reads the summaries of a sweep's trials repeatedly; of ended trials only those whose files have changed."""

    def __init__(self, store: SweepStore):
        self._store = store
        self._known: dict[str, tuple[list[list[Any]], TrialSummary]] | None = None

    def read(self) -> dict[str, TrialSummary]:
        """The summaries by trial id; a trial without an attempt has none."""
        if self._known is None:
            self._known = _read_file(self._store.path / _NAME)
        found: dict[str, TrialSummary] = {}
        root = str(self._store.trials_path)
        for name in self.folders():
            known = self._known.get(name)
            if known is not None and is_current(f"{root}/{name}", known[0]):
                found[name] = known[1]
                continue
            folder = self._store.trial(name)
            stamp = folder.stamp()  # before the trial is read: a change in between is found the next time
            summary = _summarize(folder)
            if summary is None:
                continue
            found[name] = summary
            if summary.ended and not summary.is_damaged:
                self._known[name] = stamp, summary
        return found

    def folders(self) -> list[str]:
        """The ids of the trials that have a folder."""
        return self._store.trial_names()

    def write(self) -> None:
        """Write the summaries of ended trials into the sweep's folder, for the next reader."""
        self.read()
        known = {name: [stamp, asdict(summary)] for name, (stamp, summary) in (self._known or {}).items()}
        values = {"version": _VERSION, "trials": known}
        files.write_bytes(self._store.path / _NAME, files.json_bytes(values, indent=None))


def _read_file(path: Path) -> dict[str, tuple[list[list[Any]], TrialSummary]]:
    try:
        content = files.read_json(path)
        if content.get("version") != _VERSION:
            return {}
        values = content["trials"]
        return {name: (stamp, _from_json(summary)) for name, (stamp, summary) in values.items()}
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ):  # absent, damaged, or of another version
        return {}


def _from_json(values: dict[str, Any]) -> TrialSummary:
    lists = {"codes": tuple(values["codes"]), "revisions": tuple(values["revisions"])}
    return TrialSummary(**{**values, **lists})


def _summarize(folder: TrialFolder) -> TrialSummary | None:
    info = folder.info(verify=True)
    if info is None:
        damages = folder.damages()
        return (
            TrialSummary(state="failed", failure="disk", message=damages[0], is_damaged=True)
            if damages
            else None
        )
    return summary_of(folder.path.parent.parent, info)


def summary_of(sweep: Path, info: TrialInfo) -> TrialSummary:
    """The summary of a trial in a sweep's folder."""
    last = info.attempts[-1] if info.attempts else None
    failed = info.state == "failed" and last is not None
    return TrialSummary(
        state=info.state,
        epoch=info.epoch,
        budget=info.config.epochs,
        budget_met=info.budget_met,
        failure=last.end if failed and last else "",
        message=last.message if failed and last else "",
        device=last.device if last else "",
        device_seconds=sum(map(_seconds, info.attempts)),
        began="" if last is None or last.ended_at else last.started_at,
        ranks=last.ranks if last else 1,
        codes=tuple(dict.fromkeys(same_code(sweep, code) for code in info.codes)),
        revisions=info.revisions,
        is_damaged=info.failure == "disk",
    )


def _seconds(attempt: Attempt) -> float:
    if not attempt.started_at or not attempt.ended_at:
        return 0.0
    begun, ended = datetime.fromisoformat(attempt.started_at), datetime.fromisoformat(attempt.ended_at)
    return max(0.0, (ended - begun).total_seconds()) * attempt.ranks
