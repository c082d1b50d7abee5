"""The W&B artifacts of a sweep: its best model, its report, and the files that each trial keeps.

The first two have runs of their own: in a trial's, it would have to be rewritten whenever another becomes the best.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from mixsweep.analysis.wandb_mirror.payload import ArtifactContent, RunContent, run_id_of
from mixsweep.core.failures import DamagedError
from mixsweep.core.scoring import scored_row
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables.interface import Objective

MODEL, REPORT, FILES = "model", "report", "files"


def artifact_runs(store: SweepStore) -> Iterator[RunContent]:
    """The runs of a sweep's artifacts, without those that have no content.

    The report is written again first, so that it agrees with the runs; the same store gives the same bytes.

    Raises:
        UserError: the store cannot be read.
    """
    if model := best_model(store):
        yield _run(store, model)
    if report := written_report(store):
        yield _run(store, report)


def kept_files(store: SweepStore, info: TrialInfo) -> ArtifactContent | None:
    """The files that an ended trial keeps; None for a trial that may still add some, or that keeps none.

    Raises:
        DamagedError: they are not what the trial kept.
    """
    if not info.ended:
        return None
    folder = store.trial(info.trial_id)
    damages: list[str] = []
    found = folder.kept_files(damages.append)
    if damages:
        raise DamagedError(damages[0])
    if not found:
        return None
    metadata = {"sweep": store.name, "trial_id": info.trial_id, "epoch": info.epoch}
    name = f"{run_id_of(store.name, info.trial_id)}-{FILES}"
    return ArtifactContent(name=name, kind=FILES, files=found, metadata=metadata)


def best_model(store: SweepStore) -> ArtifactContent | None:
    """The checkpoint of the best completed trial, byte for byte; None if there is no such trial or it was removed."""
    objective = store.objective()
    metric = objective.metric
    best = _best(store, objective)
    if best is None:
        return None
    info, last = best
    found = store.trial(info.trial_id).newest_checkpoint()
    if found is None:
        return None
    made, content = found
    contents = {"checkpoint.pt": content} if isinstance(content, bytes) else dict(content)
    metadata = {
        "sweep": store.name,
        "trial_id": info.trial_id,
        "run": run_id_of(store.name, info.trial_id),
        "epoch": made.epoch,
        **{name: last[name] for name in (metric, *store.trainable.reported_tests)},
        "config": info.config.to_mapping(),
    }
    return ArtifactContent(name=run_id_of(store.name, MODEL), kind=MODEL, files=contents, metadata=metadata)


def written_report(store: SweepStore) -> ArtifactContent | None:
    """Write a sweep's report and return its page, figures and tables; None before the first record."""
    if not store.records(["trial_id"]).num_rows:
        return None
    from mixsweep.analysis.report.report import (  # matplotlib and scipy are imported only for a report
        files_of,
        write_report,
    )

    page = write_report([store.path])
    files = {path.name: path.read_bytes() for path in files_of(page)}
    metadata = {"sweep": store.name}
    return ArtifactContent(name=run_id_of(store.name, REPORT), kind=REPORT, files=files, metadata=metadata)


def _best(store: SweepStore, objective: Objective) -> tuple[TrialInfo, dict[str, Any]] | None:
    """The completed trial of the plan with the best metric in the record that counts.

    And that metric, with the test metrics of its last record.
    """
    planned = set(store.plan()["trial_id"].to_pylist())
    metric = objective.metric
    columns = ["trial_id", "epoch", metric, *store.trainable.reported_tests]
    of_trial: dict[str, list[dict[str, Any]]] = {}
    for record in store.records(list(dict.fromkeys(columns))).sort_by("epoch").to_pylist():
        of_trial.setdefault(record["trial_id"], []).append(record)
    lasts = {
        trial_id: {**records[-1], metric: _counted(records, objective)[metric]}
        for trial_id, records in of_trial.items()
    }
    sign = -1 if objective.mode == "max" else 1
    ranked = sorted(
        (sign * last[metric], trial_id)
        for trial_id, last in lasts.items()
        if trial_id in planned and last[metric] is not None and math.isfinite(last[metric])
    )
    for _, trial_id in ranked:
        info = store.trial(trial_id).info()
        if info is not None and info.state == "completed":
            return info, lasts[trial_id]
    return None


def _counted(records: list[dict[str, Any]], objective: Objective) -> dict[str, Any]:
    """The record of a trial that counts."""
    values = [
        math.nan if record[objective.metric] is None else record[objective.metric] for record in records
    ]
    epochs = np.array([record["epoch"] for record in records])
    return records[scored_row(epochs, np.array(values, dtype=float), objective.mode, objective.score)]


def _run(store: SweepStore, artifact: ArtifactContent) -> RunContent:
    return RunContent(
        run_id=artifact.name,
        name=f"{store.name} {artifact.kind}",
        group=store.name,
        tags=(artifact.kind,),
        config=artifact.metadata,
        rows=(),
        summary={},
        ended=True,
        exit_code=0,
        artifact=artifact,
    )
