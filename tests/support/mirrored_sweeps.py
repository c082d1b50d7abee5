"""A sweep with killed and resumed trials to mirror, and what is in offline runs."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from wandb.proto.wandb_internal_pb2 import Record

from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.store.store import SweepStore
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.planning.parse import parse_spec
from mixsweep.sweep.planning.plan import Plan, make_plan, read_plan, save_plan, trials_of
from tests.support.commands import ROOT

TABLES: dict[str, Any] = {
    "name": "mirrored",
    "question": "Which learning rate?",
    "seeds": 3,
    "base": {
        "dataset": "digits",
        "hidden": [16, 8],
        "batch_size": 64,
        "train_limit": 256,
        "valid_limit": 100,
        "epochs": 4,
    },
    "space": {
        "lr": {"grid_search": [0.1, 0.03, 0.01, 0.003]},
        "activation": {"grid_search": ["relu", "tanh"]},
    },
}

_BLOCK = 32 * 1024  # bytes

# What the environment of a test's commands has of W&B: nothing of the person's who runs the tests.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}

# Trains what is left; SIGKILL hits it once a record of the named trial is in the store.
_WORKER = """
import os, signal, sys
from mixsweep.core.execution.runner import work
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.plan import read_plan, trials_of
store, victim, epoch = SweepStore(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def report(record):
    if (record.trial_id, record.epoch) == (victim, epoch):
        os.kill(os.getpid(), signal.SIGKILL)
trials = trials_of(read_plan(store))
for info in work(trials, RunConfig(store=store.path), report=report):
    pass
"""


def plan_sweep(root: Path, **changes: Any) -> tuple[Plan, SweepStore]:
    """A sweep of 24 trials in a store, none of them begun."""
    plan = make_plan(parse_spec(TABLES | changes))
    store = SweepStore(root / plan.spec.name)
    save_plan(plan, store)
    return plan, store


def train(store: SweepStore, victim: str = "", epoch: int = 0) -> int:
    """Train what is left in a process, which dies at a trial's epoch if told to; its exit status."""
    command = [sys.executable, "-c", _WORKER, str(store.path), victim, str(epoch)]
    return subprocess.run(command, cwd=ROOT, timeout=120).returncode


def train_here(store: SweepStore, only: str = "") -> None:
    """Train what is left, or one trial, in this process, which has torch already: what is killed goes elsewhere."""
    trials = [config for config in trials_of(read_plan(store)) if only in ("", config.trial_id)]
    infos = list(work(trials, RunConfig(store=store.path)))
    assert [info.state for info in infos] == ["completed"] * len(trials)


def mirror(
    root: Path, *more: str, environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """`sweep mirror` as a person types it."""
    command = [sys.executable, "-m", "mixsweep", "mirror", "mirrored", "--store", str(root), *more]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=CLEAN | unassigned(root) | (environment or {}),
        capture_output=True,
        text=True,
        timeout=200,
    )


def unassigned(folder: Path) -> dict[str, str]:
    """An environment in which W&B's client finds no key of the person's who runs the tests."""
    return {"HOME": str(folder), "NETRC": str(folder / "netrc")}


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """By file, its bytes and when it was written."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def rows_of(store: SweepStore) -> dict[str, list[dict[str, Any]]]:
    """By trial, what W&B has to show of each epoch."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for record in store.records().sort_by([("trial_id", "ascending"), ("epoch", "ascending")]).to_pylist():
        row = {name: record[name] for name in find_trainable().schema.names if record[name] is not None}
        for test in ("test_loss", "test_accuracy"):  # of a run's summary
            row.pop(test, None)
        trial_id, moment = row.pop("trial_id"), row.pop("recorded_at")
        rows.setdefault(trial_id, []).append(row | {"_timestamp": moment.timestamp(), "_step": row["epoch"]})
    return rows


def as_wandb_has_it(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A run's rows, without the clock of the process that pushed them."""
    return [{key: value for key, value in row.items() if key != "_runtime"} for row in history]


def offline_runs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """By run id, the rows of each offline run."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("offline-run-*/*.wandb")):
        records = inspect(path)
        (run,) = [record["run"] for record in records if record["type"] == "run"]
        assert run["run_id"] not in found, "two segments of one run: a sync of the second erases the first"
        found[run["run_id"]] = [r["history"]["item"] for r in records if r["type"] == "history"]
    return found


def inspect(path: Path) -> list[dict[str, Any]]:
    """The records of an offline run, each by its type, read with W&B's own protocol buffers.

    The commands that W&B has for it differ from version to version. The file is a LevelDB log: blocks of 32 KiB hold
    chunks of a checksum, a length and a place in the record (1: whole, 4: its end).
    """
    data, records, record, at = path.read_bytes(), [], b"", 7  # after the file's header
    while at + 7 <= len(data):
        if (left := _BLOCK - at % _BLOCK) < 7:  # too short for a chunk's header
            at += left
            continue
        length, place = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if place in (1, 4):
            records.append(_plain(Record.FromString(record)))
            record = b""
    return records


def _plain(record: Any) -> dict[str, Any]:
    kind = record.WhichOneof("record_type")
    content = MessageToDict(getattr(record, kind), preserving_proto_field_name=True)
    if kind == "history":
        content["item"] = {
            item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
        }
    return {"type": kind, kind: content}
