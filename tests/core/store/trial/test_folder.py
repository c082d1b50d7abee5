"""core.store.trial.folder: what is whole is believed, and nothing else; a damaged file costs at most its own trial."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from mixsweep.core import records
from mixsweep.core.store import files
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.info import Attempt, TrialInfo
from mixsweep.core.trainables.image.config import ImageConfig
from tests.support.records import make_record
from tests.support.trials import checkpoint_path, head_path, record_paths, write_trial

CONFIG = ImageConfig(dataset="digits")


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    """A trial that has completed three epochs."""
    folder = TrialFolder(tmp_path / CONFIG.trial_id)
    attempt = Attempt(number=1, place="debug", host="h", pid=1, end="completed")
    info = TrialInfo(trial_id=CONFIG.trial_id, config=CONFIG, state="completed", epoch=3, attempts=(attempt,))
    rows = [
        make_record(
            trial_id=CONFIG.trial_id,
            epoch=epoch,
            step=epoch,
            attempt=1,
            recorded_at=records.now(),
            train_loss=1 / epoch,
        )
        for epoch in (1, 2, 3)
    ]
    write_trial(folder, info, rows, {"epoch": 3})
    return folder


def flip(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: b"\0" * len(content),
    "not UTF-8": lambda content: b"\xff\xfe" + content,
    "more": lambda content: content + b"\0",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_completed_trial_with_damaged_records_has_failed_by_the_disk(
    folder: TrialFolder, kind: str
) -> None:
    (path,) = record_paths(folder)
    path.write_bytes(DAMAGES[kind](path.read_bytes()))
    info = folder.info(verify=True)
    assert info is not None
    assert (info.state, info.failure) == ("failed", "disk")
    assert str(path) in info.attempts[-1].message
    assert folder.records().num_rows == 0
    assert folder.damages() == (info.attempts[-1].message,)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_head_is_not_believed(folder: TrialFolder, kind: str) -> None:
    path = head_path(folder)
    path.write_bytes(DAMAGES[kind](path.read_bytes()))
    assert folder.info() is None
    assert len(folder.damages()) == 1
    assert folder.records().num_rows == 3  # whole, and named by their own digest
    assert folder.load_checkpoint() == {"epoch": 3}


def test_every_flipped_bit_is_found(folder: TrialFolder, tmp_path: Path) -> None:
    """No single changed bit of any file changes a value that a reader shows."""
    random, expected = Random(1), folder.info(verify=True)
    table = folder.records()
    for path in (head_path(folder), *record_paths(folder), checkpoint_path(folder)):
        content = path.read_bytes()
        for _ in range(150):
            path.write_bytes(flip(content, random))
            info = folder.info(verify=True)
            assert info in (None, expected) or info.failure == "disk"
            rows = folder.records()
            assert rows.num_rows == 0 or rows.equals(table)
            assert folder.load_checkpoint() in (None, {"epoch": 3})
            changed = path.suffix != ".pt" and path.read_bytes() != content
            assert not changed or folder.damages()
        path.write_bytes(content)
    assert folder.info(verify=True) == expected


def test_records_that_are_gone_make_a_completed_trial_failed_without_reading_them(
    folder: TrialFolder,
) -> None:
    (path,) = record_paths(folder)
    path.unlink()
    info = folder.info()
    assert info is not None
    assert (info.state, info.failure) == ("failed", "disk")
    assert info.attempts[-1].message == f"{path}: gone"


def test_a_config_of_another_trial_is_not_believed(folder: TrialFolder) -> None:
    other = folder.path.with_name(ImageConfig(dataset="digits", seed=7).trial_id)
    shutil.copytree(folder.path, other)
    assert TrialFolder(other).info() is None
    assert "its config is not that of trial" in TrialFolder(other).damages()[0]


@pytest.mark.parametrize(
    "change",
    [
        {"state": "excited"},
        {"attempts": [{"number": 1}]},
        {"config": {"model": "mlp"}},
        {"config": {"model": "mlp", "dataset": "digits", "lr": "high"}},
        {"base": ["1.json"]},
        {"base": 3},
        {"attempts": None},
    ],
    ids=str,
)
def test_values_that_this_version_does_not_know_are_damage_in_one_line(
    folder: TrialFolder, change: dict[str, object]
) -> None:
    path = head_path(folder)
    files.write_json(path, files.read_json(path) | change)
    assert folder.info() is None
    (line,) = folder.damages()
    assert str(path) in line
    assert "\n" not in line


def test_what_only_a_newer_version_knows_is_left_out(folder: TrialFolder) -> None:
    path = head_path(folder)
    values = files.read_json(path)
    attempts = [{**values["attempts"][0], "weather": "fine", "end": "abducted"}]
    files.write_json(path, values | {"mood": "fine", "attempts": attempts, "state": "failed"})
    info = folder.info()
    assert info is not None
    assert (info.state, info.failure, info.may_retry) == ("failed", "abducted", False)


def test_a_registered_name_that_is_not_imported_here_is_no_damage(folder: TrialFolder) -> None:
    path = head_path(folder)
    values = files.read_json(path)
    values["config"]["model"] = "somebodys-model"
    files.write_json(path, values)
    assert "its config is not that of trial" in folder.damages()[0]  # readable, but another trial's
    values["trial_id"] = find_id(values["config"])
    files.write_json(path, values)
    moved = folder.path.with_name(values["trial_id"])
    folder.path.rename(moved)
    info = TrialFolder(moved).info(verify=True)
    assert info is not None
    assert info.state == "completed"


def find_id(config: dict[str, object]) -> str:
    return ImageConfig.from_store(config).trial_id


def test_the_head_before_counts_where_the_newest_is_damaged(folder: TrialFolder) -> None:
    info = folder.info()
    assert info is not None
    attempts = (*info.attempts, replace(info.attempts[0], number=2, end=""))
    write_trial(folder, replace(info, state="running", attempts=attempts))
    assert [path.name for path in sorted(folder.path.glob("*.json"))] == ["1.json", "2.json"]
    (folder.path / "2.json").write_bytes(b"")
    read = folder.info()
    assert read is not None
    assert (read.state, read.failure, len(read.attempts)) == ("failed", "disk", 1)
    assert folder.records().num_rows == 3


def test_a_folder_in_the_place_of_a_file_is_damage(folder: TrialFolder) -> None:
    (path,) = record_paths(folder)
    path.unlink()
    path.mkdir()
    assert folder.damages()[0].endswith("not a file")
    head = head_path(folder)
    head.unlink()
    head.mkdir()
    assert folder.info() is None
    assert folder.damages()
    assert folder.records().num_rows == 0
