"""Each command's forecast of its trials' time, stored so that a report can compare it with the measured time."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass

from mixsweep.core.store import files
from mixsweep.core.store.store import SweepStore

_FOLDER = "forecasts"


@dataclass(frozen=True, kw_only=True)
class StoredForecast:
    """A command's forecast when it began. `seconds` is for one device, None if nothing was known."""

    command_id: str
    made_at: str
    place: str
    trials: int
    epochs: int
    seconds: float | None
    basis: str


def save_forecast(store: SweepStore, forecast: StoredForecast) -> None:
    """Write a command's forecast into its sweep's folder."""
    path = store.path / _FOLDER / f"{forecast.command_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, json.dumps(asdict(forecast)).encode())


def saved_forecasts(store: SweepStore) -> list[StoredForecast]:
    """The forecasts of all commands, oldest first; unreadable ones are skipped."""
    found = []
    for path in (store.path / _FOLDER).glob("*.json"):
        with suppress(OSError, ValueError, TypeError):
            found.append(StoredForecast(**json.loads(path.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda forecast: (forecast.made_at, forecast.command_id))
