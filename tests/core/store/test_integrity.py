"""core.store.integrity: whatever is not as it has to be is found, and nothing else."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.store import files
from mixsweep.core.store.compaction import compact, tidy
from mixsweep.core.store.integrity import check_sweep
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial import checkpoint
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.segments import write_segment
from mixsweep.core.trainables.image.config import ImageConfig

Tiny = Callable[..., ImageConfig]
HOURS = 7200.0


@pytest.fixture
def store(tmp_path: Path, tiny: Tiny) -> SweepStore:
    """Two completed trials, compacted."""
    made = SweepStore(tmp_path / "sweep")
    list(work([tiny(seed=1), tiny(seed=2)], RunConfig(store=made.path, retention=Retention("all"))))
    made.write_sweep_file('name = "sweep"\n')
    compact(made)
    return made


def messages(store: SweepStore) -> list[str]:
    return [str(finding) for finding in check_sweep(store)]


def first(store: SweepStore) -> TrialFolder:
    return next(store.trials())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def only(folder: TrialFolder, pattern: str) -> Path:
    (path,) = folder.path.glob(pattern)
    return path


def rewrite(folder: TrialFolder, **values: object) -> None:
    """Change a head as a defect of ours would: the digest fits."""
    path = only(folder, "1.json")
    files.write_json(path, {**files.read_json(path), **values})


def age(path: Path) -> None:
    then = time.time() - HOURS
    os.utime(path, (then, then))


def leave_lease(store: SweepStore) -> None:
    held = {"token": "t" * 32, "host": "elsewhere", "pid": 1, "born": "1"}
    (first(store).path / "lease").write_text(json.dumps(held))
    age(first(store).path / "lease")


def leave_temporary_file(store: SweepStore) -> None:
    (first(store).path / ".1.json.0123abcd").touch()
    age(first(store).path / ".1.json.0123abcd")


def leave_segment(store: SweepStore) -> None:
    write_segment(first(store).path, 1, 9, 9, first(store).records())


def edit_attempts(store: SweepStore) -> None:
    attempts = files.read_json(only(first(store), "1.json"))["attempts"]
    rewrite(first(store), attempts=[*attempts, *attempts])


def cut_records(store: SweepStore) -> None:
    folder = first(store)
    segment = write_segment(folder.path, 1, 1, 3, folder.records().slice(0, 1))
    for path in folder.path.glob("*.records.*"):
        if path.name != segment.name:
            path.unlink()
    rewrite(folder, base=[segment.name])


DEFECTS: dict[str, tuple[Callable[[SweepStore], object], str]] = {
    "a record": (lambda s: flip(only(first(s), "*.records.*")), "damaged, its digest does not match"),
    "a head": (lambda s: flip(only(first(s), "1.json")), "damaged"),
    "a checkpoint": (lambda s: flip(only(first(s), "*.pt")), "damaged"),
    "no records": (lambda s: only(first(s), "*.records.*").unlink(), "gone"),
    "fewer records": (cut_records, "completed at epoch 3, with records up to 1"),
    "too few epochs": (lambda s: rewrite(first(s), epoch=2), "completed at epoch 2 of 3"),
    "identity": (lambda s: rewrite(first(s), identity={"lr": 5}), "its identity is not that of its config"),
    "attempts": (edit_attempts, "attempts are numbered [1, 1]"),
    "a lease": (leave_lease, "its holder is gone"),
    "a temporary file": (leave_temporary_file, "left by a process that was killed"),
    "a segment": (leave_segment, "not believed"),
    "an empty sweep file": (lambda s: (s.path / "sweep.toml").write_bytes(b""), "it names no sweep"),
    "the sweep file": (lambda s: flip(s.path / "sweep.toml"), "damaged"),
}


def test_a_whole_store_has_no_findings(store: SweepStore) -> None:
    assert messages(store) == []


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_is_found_where_it_is(store: SweepStore, defect: str) -> None:
    make, expected = DEFECTS[defect]
    make(store)
    found = messages(store)
    assert any(expected in line for line in found), found
    assert not any(list(store.trials())[1].trial_id in line for line in found), found


@pytest.mark.parametrize("defect", ["a lease", "a temporary file", "a segment"])
def test_what_killed_processes_have_left_goes_at_the_end_of_a_run(store: SweepStore, defect: str) -> None:
    DEFECTS[defect][0](store)
    (store.path / ".plan.parquet.0123abcd").touch()
    age(store.path / ".plan.parquet.0123abcd")
    tidy(store)
    assert messages(store) == []
    assert [info.state for folder in store.trials() if (info := folder.info(verify=True))] == [
        "completed"
    ] * 2


def test_what_a_live_process_writes_is_no_leftover(store: SweepStore, tiny: Tiny) -> None:
    seen: list[list[str]] = []

    def look(record: object) -> None:
        temporary = store.trial(tiny(seed=3).trial_id).path / ".checkpoint.1.0123abcd"
        temporary.touch()
        age(temporary)
        tidy(store)
        assert temporary.exists()
        seen.append(messages(store))
        temporary.unlink()

    list(work([tiny(seed=3)], RunConfig(store=store.path, retention=Retention("all")), report=look))
    assert seen == [[], [], []]


def test_a_damaged_checkpoint_of_an_interrupted_trial_is_named(store: SweepStore, tiny: Tiny) -> None:
    asked = iter(["", "interrupted", "interrupted"])
    list(work([tiny(seed=4)], RunConfig(store=store.path), pause=lambda: next(asked)))
    folder = store.trial(tiny(seed=4).trial_id)
    flip(only(folder, "*.pt"))
    assert checkpoint.newest_whole(folder.path, folder.checkpoints()) is None
    assert any(".checkpoint." in line for line in messages(store))


@pytest.mark.parametrize("name", ["declared.json", "evidence/0001.json"])
def test_what_was_declared_and_which_seeds_were_added_is_checked(store: SweepStore, name: str) -> None:
    path = store.path / name
    path.parent.mkdir(exist_ok=True)
    files.write_json(path, {"number": 1, "points": [], "because": []})
    assert messages(store) == []
    flip(path)
    (found,) = messages(store)
    assert name in found
    assert "damaged" in found
