"""A summary of every trial of a sweep, cached in one file for ended trials: ten thousand trial.json are slow to read.

The file is derived: its entry for a trial is valid only while that trial's trial.json has not changed.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mixsweep.core.errors import UserError
from mixsweep.core.store import files
from mixsweep.core.store.lease import lease_is_live
from mixsweep.core.store.store import ENDED, SweepStore

_NAME = "trial-index.json"


@dataclass(frozen=True, kw_only=True)
class TrialSummary:
    """A trial's state and progress from trial.json, without its config."""

    state: str
    epoch: int = 0
    failure: str = ""  # the kind of failure, for a failed trial
    message: str = ""  # of that failure
    device: str = ""
    device_seconds: float = 0.0  # wall time of the attempts that have ended
    began: str = ""  # when the running attempt began, ISO; empty if none runs
    ranks: int = 1  # of the last attempt, each with its own device

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class TrialIndex:
    """Reads the summaries of a sweep's trials repeatedly; an unchanged trial.json is not read twice."""

    def __init__(self, store: SweepStore):
        self._store = store
        self._known: dict[str, tuple[list[int], TrialSummary]] | None = None

    def read(self) -> dict[str, TrialSummary]:
        """The summaries by trial id; a trial without an attempt has none.

        Raises:
            UserError: a trial.json is damaged.
        """
        if self._known is None:
            self._known = _read_file(self._store.path / _NAME)
        found: dict[str, TrialSummary] = {}
        trials = str(self._store.trials_path)
        for name in self.folders():
            path = f"{trials}/{name}/trial.json"
            try:
                facts = os.stat(path)
            except OSError:
                continue
            stamp = [facts.st_mtime_ns, facts.st_size, facts.st_ino]
            known = self._known.get(name)
            if known is None or known[0] != stamp:
                known = stamp, _summarize(Path(path))
                if known[1].ended:
                    self._known[name] = known
            found[name] = known[1]
        return found

    def folders(self) -> list[str]:
        """The ids of the trials that have a folder."""
        with suppress(FileNotFoundError), os.scandir(self._store.trials_path) as entries:
            return [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
        return []

    def write(self) -> None:
        """Write the summaries of ended trials into the sweep's folder, for the next reader."""
        self.read()
        known = {name: [stamp, asdict(summary)] for name, (stamp, summary) in (self._known or {}).items()}
        files.write_bytes(self._store.path / _NAME, json.dumps(known).encode())


def _read_file(path: Path) -> dict[str, tuple[list[int], TrialSummary]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {name: (stamp, TrialSummary(**summary)) for name, (stamp, summary) in values.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # absent, damaged, or from another version
        return {}


def _summarize(path: Path) -> TrialSummary:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        state, attempts = values["state"], values["attempts"]
        last: dict[str, Any] = attempts[-1] if attempts else {}
        failed = state == "failed"
        seconds = sum(_seconds(attempt) for attempt in attempts)
        return TrialSummary(
            state="lost" if state == "running" and not lease_is_live(path.parent) else state,
            epoch=int(values.get("epoch", 0)),
            failure=str(last.get("end", "")) if failed else "",
            message=str(last.get("message", "")) if failed else "",
            device=str(last.get("device", "")),
            device_seconds=seconds,
            began="" if last.get("ended_at") else str(last.get("started_at", "")),
            ranks=int(last.get("ranks", 1)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error}); move it away, the trial's records stay") from error


def _seconds(attempt: dict[str, Any]) -> float:
    if not attempt.get("started_at") or not attempt.get("ended_at"):
        return 0.0
    begun, ended = (datetime.fromisoformat(attempt[key]) for key in ("started_at", "ended_at"))
    return max(0.0, (ended - begun).total_seconds()) * int(attempt.get("ranks", 1))
