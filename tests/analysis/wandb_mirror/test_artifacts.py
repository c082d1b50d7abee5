"""analysis.wandb_mirror.artifacts: W&B has the best model and the report as the store has them, once."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mixsweep.analysis.wandb_mirror.artifacts import best_model, written_report
from mixsweep.analysis.wandb_mirror.mirror import Mirror, SyncPass, once
from mixsweep.analysis.wandb_mirror.payload import run_id_of
from mixsweep.analysis.wandb_mirror.sinks import OfflineSink
from mixsweep.core.store.retention import remove_checkpoints
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.parse import parse_spec
from mixsweep.sweep.planning.plan import make_plan, save_plan
from tests.support.mirrored_sweeps import (
    CLEAN,
    TABLES,
    files_of,
    inspect,
    mirror,
    plan_sweep,
    train_here,
    unassigned,
)
from tests.support.trials import checkpoint_path
from tests.support.wandb_server import Faults, WandbServer

SMALL: dict[str, Any] = {
    "seeds": 1,
    "base": {**TABLES["base"], "epochs": 2},
    "space": {"lr": {"grid_search": [0.03, 0.001]}},
}
LONGER: dict[str, Any] = SMALL | {"base": {**TABLES["base"], "epochs": 3}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trials, completed."""
    root = tmp_path_factory.mktemp("trained")
    _, store = plan_sweep(root, **SMALL)
    train_here(store)
    return root


def a_copy(trained: Path, tmp_path: Path) -> SweepStore:
    shutil.copytree(trained, tmp_path / "runs")
    return SweepStore(tmp_path / "runs" / "mirrored")


def best_trial(store: SweepStore) -> str:
    """The trial whose last record has the best valid accuracy."""
    lasts = {folder.trial_id: folder.records().to_pylist()[-1] for folder in store.trials()}
    ranked = sorted(lasts, key=lambda trial_id: lasts[trial_id]["valid_accuracy"])
    assert lasts[ranked[-1]]["valid_accuracy"] > lasts[ranked[0]]["valid_accuracy"]
    return ranked[-1]


def expected(store: SweepStore) -> dict[str, dict[str, bytes]]:
    """By artifact, its files as they lie in the store."""
    report = {path.name: path.read_bytes() for path in (store.path / "report").iterdir()}
    report.pop("files.json")
    assert {path.rpartition(".")[2] for path in report} == {"html", "csv", "tex", "png", "svg", "md"}
    checkpoint = checkpoint_path(store.trial(best_trial(store))).read_bytes()
    return {"mirrored-model": {"checkpoint.pt": checkpoint}, "mirrored-report": report}


def held(server: WandbServer) -> dict[str, dict[str, bytes]]:
    return {one.name: server.artifacts.files(one.name) for one in server.artifacts.versions}


def artifacts_in(store: SweepStore) -> dict[str, list[dict[str, Any]]]:
    """By offline run, the artifacts in it."""
    return {
        path.stem.removeprefix("run-"): [r["artifact"] for r in inspect(path) if r["type"] == "artifact"]
        for path in (store.path / "wandb").glob("offline-run-*/*.wandb")
    }


def test_offline_each_artifact_is_there_once_and_a_sync_uploads_the_stores_own_bytes(
    trained: Path, tmp_path: Path
) -> None:
    store = a_copy(trained, tmp_path)
    root = tmp_path / "runs"
    done = mirror(root, "--offline", "--artifacts")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "W&B: 2 runs, 2 of them pushed, 4 epochs.\nArtifacts: 2, 2 of them pushed.\n"
    )

    found = artifacts_in(store)
    logged = {name: ones for name, ones in found.items() if ones}
    assert set(found) - set(logged) == {run_id_of("mirrored", f.trial_id) for f in store.trials()}
    assert {name: ones[0]["type"] for name, ones in logged.items()} == {
        "mirrored-model": "model",
        "mirrored-report": "report",
    }
    for name, files in expected(store).items():
        (one,) = logged[name]
        md5s = {entry["path"]: entry["digest"] for entry in one["manifest"]["contents"]}
        assert md5s == {
            path: base64.b64encode(hashlib.md5(content).digest()).decode() for path, content in files.items()
        }
    metadata = json.loads(logged["mirrored-model"][0]["metadata"])
    assert (metadata["trial_id"], metadata["epoch"]) == (best_trial(store), 2)

    before = files_of(store.path / "wandb")
    done = mirror(root, "--offline", "--artifacts")
    assert done.stdout.startswith(
        "W&B: 2 runs, 0 of them pushed, 0 epochs.\nArtifacts: 2, 0 of them pushed.\n"
    )
    assert files_of(store.path / "wandb") == before

    with WandbServer() as server:
        command = [Path(sys.executable).with_name("wandb"), "sync"]
        synced = subprocess.run(
            [*command, *(store.path / "wandb").glob("offline-run-*")],
            env=CLEAN | unassigned(tmp_path) | server.environment(),
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert synced.returncode == 0, synced.stderr
        assert server.unknown == []
        assert held(server) == expected(store)


def test_offline_a_better_model_takes_the_place_of_the_former_and_its_copy(
    trained: Path, tmp_path: Path
) -> None:
    store = a_copy(trained, tmp_path)
    target = OfflineSink(store.path / "wandb", "p")

    def push() -> SyncPass:
        return once(Mirror([(store, target)], lambda store: {}, artifacts=True))

    assert push().artifacts_changed == 2
    _lengthen(store)
    assert push().artifacts_changed == 2
    copies = {
        run: {path.name: path.read_bytes() for path in folder.iterdir()}
        for run in ("mirrored-model", "mirrored-report")
        for folder in (store.path / "wandb" / "artifacts" / run).iterdir()
    }
    assert copies == expected(store)
    assert sorted(len(ones) for ones in artifacts_in(store).values()) == [0, 0, 1, 1]
    next((store.path / "wandb" / "artifacts" / "mirrored-report").rglob("*.csv")).unlink()  # a copy was lost
    assert push().artifacts_changed == 1
    assert push().artifacts_changed == 0


@pytest.mark.faults
def test_online_the_server_has_the_stores_own_bytes_and_a_version_only_where_they_changed(
    trained: Path, tmp_path: Path
) -> None:
    store = a_copy(trained, tmp_path)
    root = tmp_path / "runs"
    with WandbServer(Faults(refuse=0.1, after_taking=True)) as server:

        def push() -> str:
            done = mirror(root, "--artifacts", environment=server.environment())
            assert done.returncode == 0, done.stdout + done.stderr
            assert server.unknown == []
            assert held(server) == expected(store)
            return done.stdout.splitlines()[1]

        assert push() == "Artifacts: 2, 2 of them pushed."
        server.faults = Faults()
        first = [one.id for one in server.artifacts.versions]
        puts = server.counts["artifact_file"]
        assert push() == "Artifacts: 2, 0 of them pushed."
        assert server.counts["artifact_file"] == puts
        # Somebody deleted the model there; of the report the record of what was pushed is lost, and W&B knows it.
        server.artifacts.versions = [one for one in server.artifacts.versions if one.kind == "report"]
        next((store.path / "mirror").rglob("mirrored-report.json")).unlink()
        assert push() == "Artifacts: 2, 2 of them pushed."
        assert [one.id in first for one in server.artifacts.versions] == [False, True]
        assert server.counts["artifact_file"] == puts + 2  # the checkpoint and a manifest

        _lengthen(store)
        assert push() == "Artifacts: 2, 2 of them pushed."
        assert (
            sorted(one.name for one in server.artifacts.versions)
            == ["mirrored-model"] * 2 + ["mirrored-report"] * 2
        )


def test_artifacts_that_a_server_refuses_are_one_line_and_the_runs_are_there(
    trained: Path, tmp_path: Path
) -> None:
    a_copy(trained, tmp_path)
    with WandbServer() as server:
        server.artifacts.full = True
        done = mirror(tmp_path / "runs", "--artifacts", environment=server.environment())
        assert (done.returncode, done.stderr) == (1, "")
        runs, artifacts, line = done.stdout.splitlines()
        assert runs == "W&B: 2 runs, 2 of them pushed, 4 epochs."
        assert artifacts == "Artifacts: 2, 0 of them pushed."
        assert line.startswith("2 runs or artifacts were not pushed (artifact mirrored-model: ")
        assert line.endswith("; run the same command again.")
        assert len(server.runs) == 4


def test_what_is_not_there_is_no_artifact(trained: Path, tmp_path: Path) -> None:
    store = a_copy(trained, tmp_path)
    model = best_model(store)
    assert model is not None
    (content,) = model.files.values()
    assert content == checkpoint_path(store.trial(best_trial(store))).read_bytes()
    remove_checkpoints(store.trial(best_trial(store)))
    assert best_model(store) is None  # not the second best one's
    empty = SweepStore(tmp_path / "empty")
    save_plan(make_plan(parse_spec(TABLES | SMALL | {"name": "empty"})), empty)
    assert best_model(empty) is None
    assert written_report(empty) is None
    done = mirror(tmp_path / "runs", "--offline", "--artifacts", "--watch")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "sweep: --artifacts: not with --watch, which would push a version at every pass; "
        "run it once the sweep has ended"
    ]


def _lengthen(store: SweepStore) -> None:
    """Train the sweep one epoch further, so that its model and its report change."""
    plan_sweep(store.path.parent, **LONGER)
    train_here(store)
