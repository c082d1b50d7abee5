"""A sweep store with made-up learning curves, written through the store's own functions.

Curves follow a power law towards a value's own final accuracy, with noise that replicas share, so that the
paired comparisons have something to find. States, divergence and early stops are set by hand.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tomli_w

from mixsweep.core import records
from mixsweep.core.records import ENERGY, Record
from mixsweep.core.store import files
from mixsweep.core.store.store import FORMAT, FORMAT_FILE, SweepStore
from mixsweep.core.store.trial.info import Attempt, TrialInfo
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.sweep.planning.space import grid_axes
from tests.support.records import make_record
from tests.support.trials import write_trial

START = datetime(2026, 1, 2, 9, 0, tzinfo=UTC)
PROVENANCE = {
    "revision": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "python": "3.11.9",
    "platform": "Linux-6.1-x86_64",
    "host": "node1",
    "command": "sweep run learning-rates",
    "versions": {"mixsweep": "0.1.0", "torch": "2.14.1", "numpy": "2.3.0"},
}


@dataclass(frozen=True, kw_only=True)
class SyntheticPart:
    """One ablation: its space as a sweep file has it, and what each combination of values reaches."""

    name: str
    space: Mapping[str, Sequence[Any]]
    final: Mapping[Any, float]  # valid accuracy at the end, by value (or by tuple of values)
    base: Mapping[str, Any] = field(default_factory=dict)
    question: str = "Which value is best?"
    claims: Sequence[Mapping[str, Any]] = ()
    noise: float = 0.003  # standard deviation of a trial's own noise, as a fraction
    states: Mapping[Any, Sequence[str]] = field(default_factory=dict)  # by value: one state a replica
    curves: Mapping[Any, Sequence[float | None]] = field(
        default_factory=dict
    )  # exact accuracies by epoch, by value
    zipped: Sequence[Sequence[str]] = ()  # groups of axes whose values go together
    derive: Mapping[str, str] = field(
        default_factory=dict
    )  # as in a sweep file; the trials have base's values


def write_sweep(
    path: Path,
    parts: Sequence[SyntheticPart],
    *,
    seeds: int = 3,
    epochs: int = 12,
    metric: str = "valid_accuracy",
    mode: str = "max",
    score: str = "",
) -> SweepStore:
    """Write sweep.toml, plan.parquet and the files of every begun trial."""
    path.mkdir(parents=True)
    tables = [_part_table(part) for part in parts]
    header = {"name": path.name, "metric": metric, "mode": mode, "seeds": seeds}
    header |= {"score": score} if score else {}
    file = header | (tables[0] | {"name": path.name} if len(parts) == 1 else {"parts": tables})
    files.write_bytes(path / "sweep.toml", tomli_w.dumps(file).encode())
    store = SweepStore(path)
    plan, clock = [], START
    for part in parts:
        grids = {axis: {"grid_search": list(values)} for axis, values in part.space.items()}
        for point, chosen in enumerate(product(*grid_axes(grids, part.zipped))):
            by_axis = {axis: value for one in chosen for axis, value in one.items()}
            values = tuple(by_axis[axis] for axis in part.space)
            key = values[0] if len(values) == 1 else values
            states = part.states.get(key, ("completed",) * seeds)
            for replica in range(seeds):
                config = ImageConfig(
                    **{"epochs": epochs, **part.base, **dict(zip(part.space, values))}, seed=42 + replica
                )
                name = path.name if len(parts) == 1 else part.name
                plan.append(
                    {"part": name, "trial_id": config.trial_id, "point": point, "replica": replica}
                    | config.to_mapping()
                )
                final = part.final.get(key, 0.1)
                _write_trial(
                    store, config, states[replica], final, part.noise, replica, clock, part.curves.get(key)
                )
                clock += timedelta(minutes=30)
    files.write_table(pa.Table.from_pylist(plan), path / "plan.parquet")
    files.write_bytes(path / FORMAT_FILE, f"{FORMAT}\n".encode())
    return store


def give_energy(store: SweepStore, joules: float) -> None:
    """As if each epoch's device had told so much."""
    for folder in store.trials():
        info = folder.info()
        assert info is not None
        rows = [row.with_metrics({ENERGY: joules}) for row in records.from_table(folder.records())]
        write_trial(folder, info, rows)


def learning_rates(path: Path, **changes: Any) -> SweepStore:
    """The shape of the learning-rate study: one best, one that diverges, one that hardly learns."""
    part = SyntheticPart(
        name="learning-rates",
        question="Which learning rate trains ResNet18 best under Adam?",
        base={"model": "resnet18", "optimizer": "adam"},
        space={"lr": [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]},
        final={1e-1: 0.3, 1e-2: 0.82, 1e-3: 0.902, 1e-4: 0.861, 1e-5: 0.62},
        states={1e-1: ("diverged",) * 3},
        claims=[
            {"text": "1e-3 is the best learning rate", "compare": "lr", "better": 1e-3, "than": "rest"},
            {"text": "1e-5 beats 1e-4", "compare": "lr", "better": 1e-5, "than": 1e-4},
        ],
    )
    return write_sweep(path, [part], **changes)


def patch_sizes(path: Path, **changes: Any) -> SweepStore:
    """The shape of the patch-size study: three alike, one worse."""
    part = SyntheticPart(
        name="patch-sizes",
        question="Which patch size suits the Mixer?",
        base={"model": "mixer"},
        space={"patch_size": [2, 4, 8, 16]},
        final={2: 0.766, 4: 0.767, 8: 0.765, 16: 0.66},
        noise=0.006,
        claims=[
            {
                "text": "2, 4 and 8 are better than 16",
                "compare": "patch_size",
                "better": [2, 4, 8],
                "than": 16,
            }
        ],
    )
    return write_sweep(path, [part], **changes)


def _part_table(part: SyntheticPart) -> dict[str, Any]:
    return {
        "name": part.name,
        "question": part.question,
        "base": dict(part.base),
        "space": {axis: {"grid_search": list(values)} for axis, values in part.space.items()},
        "claims": [dict(claim) for claim in part.claims],
        **({"combine": {"zip": [list(group) for group in part.zipped]}} if part.zipped else {}),
        **({"derive": dict(part.derive)} if part.derive else {}),
    }


def _write_trial(
    store: SweepStore,
    config: ImageConfig,
    state: str,
    final: float,
    noise: float,
    replica: int,
    clock: datetime,
    exact: Sequence[float | None] | None = None,
) -> None:
    if state == "waiting":
        return
    folder = store.trial(config.trial_id)
    kind, message = ("bug", "RuntimeError: shapes <2> & 3 do not match") if state == "failed" else (state, "")
    trained = {"failed": 0, "diverged": 2, "stopped": 3, "interrupted": 4}.get(state, config.epochs)
    rows = list(_curve(config, final, noise, replica, trained, state, clock))
    if exact is not None:
        rows = [row.with_metrics({"valid_accuracy": value}) for row, value in zip(rows, exact)]
    ended = clock + timedelta(seconds=5 + 12 * trained)
    attempt = Attempt(
        number=1,
        place="local",
        host="node1",
        pid=1,
        started_at=clock.isoformat(),
        ended_at=ended.isoformat(),
        device="Example GPU",
        end=kind,
        message=message,
    )
    info = TrialInfo(
        trial_id=config.trial_id,
        config=config,
        state=state,
        epoch=trained,
        attempts=(attempt,),
        provenance=PROVENANCE,
    )
    write_trial(folder, info, rows)


def _curve(
    config: ImageConfig,
    final: float,
    noise: float,
    replica: int,
    trained: int,
    state: str,
    clock: datetime,
) -> Iterable[Record]:
    shared = np.random.default_rng(replica).normal(0, 0.004)  # a seed's own luck, the same at every value
    rng = np.random.default_rng(int(config.trial_id, 16))
    for epoch in range(1, trained + 1):
        valid = final - (final - 0.1) * math.exp(-3.5 * epoch / config.epochs) + shared + rng.normal(0, noise)
        train = min(0.999, valid + 0.06 * epoch / config.epochs)
        broken = state == "diverged" and epoch == trained
        ended = state == "completed" and epoch == trained
        valid_loss = -1.1 * math.log(min(0.999, max(0.02, valid)))
        yield make_record(
            trial_id=config.trial_id,
            epoch=epoch,
            step=351 * epoch,
            train_loss=math.nan if broken else -1.05 * math.log(min(0.999, max(0.02, train))),
            train_accuracy=0.1 if broken else train,
            valid_loss=math.nan if broken else 40 * valid_loss if state == "diverged" else valid_loss,
            valid_accuracy=0.1 if broken else valid,
            test_loss=valid_loss * 1.02 if ended else None,
            test_accuracy=valid - 0.004 if ended else None,
            lr=config.lr,
            train_seconds=(9.0 if epoch == 1 else 5.0) + 0.01 * epoch,
            valid_seconds=0.5 if epoch == 1 else 0.2,
            images_per_second=44928 / ((9.0 if epoch == 1 else 5.0) + 0.01 * epoch),
            peak_memory_bytes=2**30,
            attempt=1,
            recorded_at=clock + timedelta(seconds=5 + 12 * epoch),
        )
