"""core.store.checkpoint: whatever dies or is damaged, what loads is a state that was saved whole."""

import itertools
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch

from mixsweep.core.store.checkpoint import (
    drop_previous,
    has_checkpoint,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)

NEWEST, PREVIOUS, DIGESTS = "checkpoint.pt", "checkpoint.previous.pt", "checkpoint.json"


def payload(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "model": {"weight": torch.full((50,), float(epoch))}}


def loaded_epoch(folder: Path) -> int | None:
    """The epoch of what loads; all of it belongs to that epoch."""
    state = load_checkpoint(folder)
    if state is None:
        return None
    assert torch.equal(state["model"]["weight"], payload(state["epoch"])["model"]["weight"])
    return state["epoch"]


def save_until(folder: Path, epoch: int, operation: int) -> None:
    """Save, and be killed just before the so-manieth operation on a file of the folder."""
    seen = itertools.count()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(str(folder)):
            # Reads change nothing, so that dying before one is dying before what follows it.
            is_read = event == "open" and not arguments[2] & os.O_ACCMODE
            if not is_read and next(seen) == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    sys.addaudithook(watch)
    save_checkpoint(folder, payload(epoch))


@pytest.fixture
def save_killed(processes: ForkServerContext) -> Callable[[Path, int, int], bool]:
    """Saves in another process; False once there is no such operation to be killed before."""

    def save(folder: Path, epoch: int, operation: int) -> bool:
        child = processes.Process(target=save_until, args=(folder, epoch, operation))
        child.start()
        child.join(60)
        assert child.exitcode in (0, -signal.SIGKILL)
        return child.exitcode != 0

    return save


@pytest.mark.faults
def test_a_process_killed_before_any_of_its_operations_leaves_the_old_or_the_new_state(
    tmp_path: Path, save_killed: Callable[[Path, int, int], bool]
) -> None:
    before = tmp_path / "before"
    before.mkdir()
    save_checkpoint(before, payload(1))
    save_checkpoint(before, payload(2))
    found = []
    for operation in itertools.count():
        folder = tmp_path / str(operation)
        shutil.copytree(before, folder)
        killed = save_killed(folder, 3, operation)
        found.append(loaded_epoch(folder))
        # And a second kill after the first, anywhere, loses nothing either.
        for second in itertools.count():
            twice = tmp_path / f"{operation}-{second}"
            shutil.copytree(folder, twice)
            killed_again = save_killed(twice, 4, second)
            assert loaded_epoch(twice) in (2, 3, 4), f"killed before operations {operation} and {second}"
            save_checkpoint(twice, payload(5))
            assert loaded_epoch(twice) == 5
            assert not list(twice.glob(".checkpoint.pt.*"))  # a killed save's half file is not kept for ever
            if not killed_again:
                break
        if not killed:
            break
    assert found == sorted(found, key=lambda epoch: epoch or 0)
    assert set(found) == {2, 3}
    assert len(found) >= 5  # temporary file, digests, their rename, two renames


@pytest.mark.faults
def test_the_first_save_of_all_leaves_nothing_or_the_new_state(
    tmp_path: Path, save_killed: Callable[[Path, int, int], bool]
) -> None:
    found = []
    for operation in itertools.count():
        folder = tmp_path / str(operation)
        folder.mkdir()
        killed = save_killed(folder, 1, operation)
        found.append(loaded_epoch(folder))
        if not killed:
            break
    assert found[0] is None
    assert found[-1] == 1


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def cut(path: Path, place: float) -> None:
    os.truncate(path, int(place * (path.stat().st_size - 1)))


@pytest.mark.faults
@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.9, 1.0])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_two_damaged_ones_to_none(
    tmp_path: Path, damage: Callable[[Path, float], None], place: float
) -> None:
    save_checkpoint(tmp_path, payload(1))
    save_checkpoint(tmp_path, payload(2))
    damage(tmp_path / NEWEST, place)
    assert loaded_epoch(tmp_path) == 1
    drop_previous(tmp_path)
    assert loaded_epoch(tmp_path) == 1  # the one before is all there is
    damage(tmp_path / PREVIOUS, place)
    assert loaded_epoch(tmp_path) is None
    assert has_checkpoint(tmp_path)


@pytest.mark.faults
def test_a_damaged_checkpoint_does_not_displace_the_sound_one_before(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path, payload(epoch))
    flip(tmp_path / NEWEST, 0.5)
    save_checkpoint(tmp_path, payload(3))
    assert loaded_epoch(tmp_path) == 3
    flip(tmp_path / NEWEST, 0.5)
    assert loaded_epoch(tmp_path) == 1


@pytest.mark.faults
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{}"])
def test_without_sound_digests_nothing_is_trusted_and_the_next_save_is(
    tmp_path: Path, content: bytes
) -> None:
    save_checkpoint(tmp_path, payload(1))
    (tmp_path / DIGESTS).write_bytes(content)
    assert loaded_epoch(tmp_path) is None
    save_checkpoint(tmp_path, payload(2))
    assert loaded_epoch(tmp_path) == 2


def test_the_checkpoint_before_is_kept_until_it_is_dropped(tmp_path: Path) -> None:
    assert not has_checkpoint(tmp_path)
    assert loaded_epoch(tmp_path) is None
    for epoch in (1, 2, 3):
        save_checkpoint(tmp_path, payload(epoch))
    assert {path.name for path in tmp_path.iterdir()} == {NEWEST, PREVIOUS, DIGESTS}
    assert torch.load(tmp_path / PREVIOUS, weights_only=True)["epoch"] == 2
    drop_previous(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {NEWEST, DIGESTS}
    assert loaded_epoch(tmp_path) == 3
    remove_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    save_checkpoint(tmp_path, {"epoch": 1, "model": Malicious()})
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_save_that_fails_leaves_no_file_beside(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, payload(1))
    with pytest.raises((pickle.PicklingError, AttributeError)):
        save_checkpoint(tmp_path, {"epoch": 2, "model": lambda: None})
    assert {path.name for path in tmp_path.iterdir()} == {NEWEST, DIGESTS}
    assert loaded_epoch(tmp_path) == 1
