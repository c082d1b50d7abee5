"""core.store.trial.checkpoint: whatever dies or is damaged, what loads is a state that was saved whole."""

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

from mixsweep.core.failures import DamagedError
from mixsweep.core.store.retention import remove_checkpoints, remove_previous_checkpoints
from mixsweep.core.store.trial import checkpoint
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.trial.lease import Lease, take_lease
from mixsweep.core.store.trial.term import Term
from mixsweep.core.trainables.image.config import ImageConfig
from tests.support.trials import checkpoint_path

CONFIG = ImageConfig(dataset="digits")


def payload(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "model": {"weight": torch.full((50,), float(epoch))}}


def folder_in(root: Path) -> TrialFolder:
    return TrialFolder(root / CONFIG.trial_id)


def loaded_epoch(folder: TrialFolder) -> int | None:
    """The epoch of what loads; all of it belongs to that epoch."""
    state = folder.load_checkpoint()
    if state is None:
        return None
    assert torch.equal(state["model"]["weight"], payload(state["epoch"])["model"]["weight"])
    epoch: int = state["epoch"]
    return epoch


def save(folder: TrialFolder, *epochs: int) -> None:
    """Save the states of these epochs in one attempt."""
    lease = take_lease(folder.path)
    assert lease is not None
    with lease:
        save_holding(folder, lease, *epochs)


def save_holding(folder: TrialFolder, lease: Lease, *epochs: int) -> None:
    with Term(folder, lease) as term:
        term.begin(TrialInfo(trial_id=CONFIG.trial_id, config=CONFIG, state="running"))
        for epoch in epochs:
            term.save_checkpoint(payload(epoch))


def save_until(root: Path, epoch: int, operation: int) -> None:
    """Save, and be killed just before the so-manieth operation on a file of the folder."""
    seen = itertools.count()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.remove", "os.link") and str(arguments[0]).startswith(str(root)):
            # Reads change nothing, so that dying before one is dying before what follows it.
            is_read = event == "open" and not arguments[2] & os.O_ACCMODE
            if not is_read and next(seen) == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    sys.addaudithook(watch)
    save(folder_in(root), epoch)


@pytest.fixture
def save_killed(processes: ForkServerContext) -> Callable[[Path, int, int], bool]:
    """Saves in another process; False once there is no such operation to be killed before."""

    def save(root: Path, epoch: int, operation: int) -> bool:
        child = processes.Process(target=save_until, args=(root, epoch, operation))
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
    save(folder_in(before), 1, 2)
    found = []
    for operation in itertools.count():
        root = tmp_path / str(operation)
        shutil.copytree(before, root)
        killed = save_killed(root, 3, operation)
        found.append(loaded_epoch(folder_in(root)))
        # A second kill after the first loses nothing either; its place moves with the first one's.
        killed_again = save_killed(root, 4, operation)
        assert loaded_epoch(folder_in(root)) in (2, 3, 4), f"killed twice before operation {operation}"
        save(folder_in(root), 5)
        assert loaded_epoch(folder_in(root)) == 5
        if not (killed or killed_again):
            break
    assert found == sorted(found, key=lambda epoch: epoch or 0)
    assert set(found) == {2, 3}
    assert len(found) >= 8  # the lease, the head and its link, the checkpoint and its rename, what is removed


@pytest.mark.faults
def test_the_first_save_of_all_leaves_nothing_or_the_new_state(
    tmp_path: Path, save_killed: Callable[[Path, int, int], bool]
) -> None:
    found = []
    for operation in itertools.count():
        root = tmp_path / str(operation)
        root.mkdir()
        killed = save_killed(root, 1, operation)
        found.append(loaded_epoch(folder_in(root)))
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


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.9, 1.0])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_two_damaged_ones_to_none(
    tmp_path: Path, damage: Callable[[Path, float], None], place: float
) -> None:
    folder = folder_in(tmp_path)
    save(folder, 1, 2)
    newest, previous = (folder.path / made.name for made in folder.checkpoints())
    damage(newest, place)
    assert loaded_epoch(folder) == 1
    remove_previous_checkpoints(folder)
    assert loaded_epoch(folder) == 1  # the one before is all there is
    damage(previous, place)
    assert loaded_epoch(folder) is None
    assert folder.has_checkpoint()


def test_a_damaged_checkpoint_does_not_displace_the_sound_one_before(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    save(folder, 1, 2)
    flip(checkpoint_path(folder), 0.5)
    save(folder, 3)
    assert loaded_epoch(folder) == 3
    flip(checkpoint_path(folder), 0.5)
    assert loaded_epoch(folder) in (1, None)


def test_the_checkpoint_before_is_kept_until_it_is_dropped(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    assert not folder.has_checkpoint()
    assert loaded_epoch(folder) is None
    save(folder, 1, 2, 3)
    assert [made.epoch for made in folder.checkpoints()] == [3, 2]
    remove_previous_checkpoints(folder)
    assert [made.epoch for made in folder.checkpoints()] == [3]
    assert loaded_epoch(folder) == 3
    remove_checkpoints(folder)
    assert folder.checkpoints() == ()


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    made = checkpoint.write_state(tmp_path, 1, {"epoch": 1, "model": Malicious()})
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load_state(tmp_path, [made])
    assert not (tmp_path / "ran").exists()


def test_a_save_that_fails_leaves_no_file_beside(tmp_path: Path) -> None:
    made = checkpoint.write_state(tmp_path, 1, payload(1))
    with pytest.raises((pickle.PicklingError, AttributeError)):
        checkpoint.write_state(tmp_path, 1, {"epoch": 2, "model": lambda: None})
    assert [path.name for path in tmp_path.iterdir()] == [made.name]


def test_a_folder_is_a_checkpoint_whose_every_file_counts(tmp_path: Path) -> None:
    source, folder, other = tmp_path / "source", tmp_path / "trial", tmp_path / "other"
    (source / "shards").mkdir(parents=True)
    (source / "shards" / "0.bin").write_bytes(b"first")
    (source / "index.json").write_text("{}")
    folder.mkdir()
    made = checkpoint.write_folder(folder, 2, 7, source)
    assert (made.term, made.epoch, made.is_folder) == (2, 7, True)
    content = checkpoint.content_of(folder, made)
    assert content == {"index.json": b"{}", "shards/0.bin": b"first"}
    other.mkdir()
    checkpoint.write_content(other, made, content)
    assert checkpoint.content_of(other, made) == content
    (folder / made.name / "shards" / "0.bin").write_bytes(b"fist")
    with pytest.raises(DamagedError, match="digest does not match"):
        checkpoint.content_of(folder, made)
    (other / made.name / "index.json").unlink()
    assert checkpoint.newest_whole(other, [made]) is None
    checkpoint.remove(folder, [made])
    assert list(folder.iterdir()) == []
