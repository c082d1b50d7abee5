"""What each command expected its trials to take, kept so that a report can set it beside what they took."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass

from mixsweep.core.store import files
from mixsweep.core.store.store import SweepStore

_FOLDER = "forecasts"


@dataclass(frozen=True, kw_only=True)
class StoredForecast:
    """A command's forecast when it began. `seconds` is of one device, None where nothing was known."""

    command_id: str
    made_at: str
    place: str
    trials: int
    epochs: int
    seconds: float | None
    basis: str


def save_forecast(store: SweepStore, expectation: StoredForecast) -> None:
    """Write a command's forecast into its sweep's folder."""
    path = store.path / _FOLDER / f"{expectation.command_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, json.dumps(asdict(expectation)).encode())


def saved_forecasts(store: SweepStore) -> list[StoredForecast]:
    """The forecasts of all commands, oldest first; what cannot be read is left out."""
    found = []
    for path in (store.path / _FOLDER).glob("*.json"):
        with suppress(OSError, ValueError, TypeError):
            found.append(StoredForecast(**json.loads(path.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda expectation: (expectation.made_at, expectation.command_id))
