"""The content of a W&B run, made from the store alone."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixsweep.core.config import canonical_json
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables.interface import Trainable
from mixsweep.core.trainables.kinds import find_trainable

_LONGEST_TAG = 64  # characters, W&B's limit


@dataclass(frozen=True, kw_only=True)
class ArtifactContent:
    """The content of a W&B artifact.

    Args:
        kind: W&B's type.
        files: contents, since files of the store may be replaced meanwhile; or paths of files that never change.
    """

    name: str
    kind: str
    files: Mapping[str, bytes | Path]
    metadata: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """A digest of all of it."""
        digests = {name: _file_digest(content) for name, content in self.files.items()}
        return _digest(vars(self) | {"files": digests})


@dataclass(frozen=True, kw_only=True)
class RunContent:
    """The content of a W&B run. Row n has W&B's step n, an epoch."""

    run_id: str
    name: str
    group: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    summary: Mapping[str, Any]
    ended: bool
    exit_code: int
    artifact: ArtifactContent | None = None

    @property
    def digests(self) -> tuple[str, ...]:
        """A digest of each row, to compare what has been pushed with the store."""
        return tuple(_digest(row) for row in self.rows)

    @property
    def fingerprint(self) -> str:
        """A digest of all of it but the artifact, which has its own."""
        return _digest({name: value for name, value in vars(self).items() if name != "artifact"})


def run_id_of(sweep: str, trial_id: str) -> str:
    """The W&B run id of a trial of a sweep, in characters that W&B allows; sweeps that share a trial have one each.

    A name that W&B does not allow as it is gets a digest, so that `a b` and `a-b` have runs of their own.
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", sweep)[:100]
    own = "" if plain == sweep else f"-{hashlib.sha256(sweep.encode()).hexdigest()[:8]}"
    return f"{plain}{own}-{trial_id}"


def run_content(
    store: SweepStore,
    info: TrialInfo,
    label: str,
    place_in_plan: Mapping[str, Any],
    metric: str,
    mode: str,
    only_settled: bool = False,
    artifact: ArtifactContent | None = None,
) -> RunContent:
    """The run of a trial that has begun.

    Args:
        label: the run's display name.
        place_in_plan: columns beside the config: part, point, replica.
        metric: the sweep's metric; its best value is in the summary.
        mode: `max` or `min`.
        only_settled: leave out the epochs after the checkpoint, which would be trained again after a kill.
        artifact: what the run logs beside its rows.
    """
    folder = store.trial(info.trial_id)
    records = folder.records().to_pylist()
    if only_settled and not info.ended:
        safe = folder.checkpoint_epoch()
        records = [record for record in records if record["epoch"] <= safe]
    trainable = find_trainable(info.config.kind)
    columns = row_columns(trainable)
    rows = tuple(_row(record, columns) for record in sorted(records, key=lambda record: record["epoch"]))
    config = {name: _flat(value) for name, value in info.config.to_mapping().items()}
    config |= {"trial_id": info.trial_id, "sweep": store.name, **place_in_plan}
    last = info.attempts[-1] if info.attempts else None
    summary: dict[str, Any] = {"state": info.state, "attempts": len(info.attempts)}
    if last is not None:
        summary |= {"place": last.place, "host": last.host, "device": last.device, "revision": last.revision}
        summary["failure"] = info.failure
    if rows:
        newest = max(records, key=lambda r: r["epoch"])
        tests = {name: newest[name] for name in trainable.test_metrics}
        summary |= rows[-1] | {name: value for name, value in tests.items() if value is not None}
    modes = {name: trainable.better(name) for name in trainable.headline_metrics} | {metric: mode}
    for name, wanted in modes.items():
        values = [(row[name], row["epoch"]) for row in rows if math.isfinite(row.get(name, math.nan))]
        if values:
            best, epoch = max(values, key=lambda pair: (pair[0] if wanted == "max" else -pair[0], -pair[1]))
            summary |= {f"best_{name}": best, f"best_{name}_epoch": epoch}
    tags = [*(str(info.config[name]) for name in trainable.tag_fields), info.state]
    return RunContent(
        run_id=run_id_of(store.name, info.trial_id),
        name=label or info.trial_id,
        group=store.name,
        tags=tuple(tag[:_LONGEST_TAG] for tag in tags),
        config=config,
        rows=rows,
        summary={key: value for key, value in summary.items() if not key.startswith("_")},
        ended=info.ended,
        exit_code=int(info.state in ("failed", "diverged")),
        artifact=artifact,
    )


def row_columns(trainable: Trainable) -> tuple[str, ...]:
    """The columns of a record that are also columns of a run's rows.

    The id is in the run's config, the time is the row's timestamp, and test figures are in its summary, since the
    last row of an extended trial loses them.
    """
    elsewhere = ("trial_id", "recorded_at", *trainable.test_metrics)
    return tuple(name for name in trainable.schema.names if name not in elsewhere)


def _row(record: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """A record as a row for W&B: with its own timestamp, and without nulls."""
    row = {name: record[name] for name in columns if record[name] is not None}
    return row | {"_timestamp": record["recorded_at"].timestamp()}


def _flat(value: Any) -> Any:
    """A config value as one column: W&B's panels take numbers and strings, not lists."""
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else value


def _file_digest(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with open(content, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(value: Any) -> str:
    try:
        text = canonical_json(value)
    except ValueError:  # NaN and infinity are not in JSON: use their names
        text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
