"""core.store.trial.artifacts: files that a trial keeps are whole, are the newest, and are no other process's."""

import contextlib
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mixsweep.core.failures import LeaseLostError
from mixsweep.core.store.integrity import check_trial
from mixsweep.core.store.trial import artifacts
from mixsweep.core.store.trial.artifacts import ArtifactsWriter
from mixsweep.core.store.trial.folder import TrialFolder, read_head
from mixsweep.core.store.trial.info import Attempt, TrialInfo
from mixsweep.core.store.trial.lease import Lease, take_lease
from mixsweep.core.store.trial.term import Term, amend
from mixsweep.core.store.trial.transfer import apply_update, collect_changes, remove_replaced
from mixsweep.core.trainables.image.config import ImageConfig

CONFIG = ImageConfig(dataset="digits")
INFO = TrialInfo(
    trial_id=CONFIG.trial_id,
    config=CONFIG,
    state="running",
    attempts=(Attempt(number=1, place="debug", host="h", pid=1),),
)
HOURS = 7200.0


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    return TrialFolder(tmp_path / CONFIG.trial_id)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder with two files to keep."""
    root = tmp_path / "made"
    (root / "samples").mkdir(parents=True)
    (root / "samples" / "1.txt").write_text("one")
    (root / "notes ä.txt").write_text("first")
    return root


def take(folder: TrialFolder) -> Lease:
    lease = take_lease(folder.path)
    assert lease is not None
    return lease


def sources(root: Path) -> dict[str, Path]:
    return {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}


def contents(folder: TrialFolder) -> dict[str, str]:
    return {name: path.read_text() for name, path in folder.kept_files().items()}


def folders(folder: TrialFolder) -> list[str]:
    return sorted(name for name in os.listdir(folder.path) if "artifacts" in name)


def test_what_is_kept_last_counts_and_a_later_term_finds_it(folder: TrialFolder, made: Path) -> None:
    with take(folder) as lease, Term(folder, lease) as term:
        term.begin(INFO)
        assert term.kept_files() == {}
        term.keep_files({})
        assert folders(folder) == []
        term.keep_files(sources(made))
        (made / "samples" / "2.txt").write_text("two")
        (made / "notes ä.txt").write_text("second")
        term.keep_files(sources(made))
        expected = {"samples/1.txt": "one", "samples/2.txt": "two", "notes ä.txt": "second"}
        assert contents(folder) == expected
        assert len(folders(folder)) == 1
        term.seal(replace(INFO, state="failed"))
    with take(folder) as lease:
        amend(folder, lease, replace(INFO, state="failed"))
    assert read_head(folder.path, 2).artifacts == folder.listing().artifacts
    assert contents(folder) == expected
    with take(folder) as lease, Term(folder, lease) as term:
        term.begin(INFO)
        assert set(term.kept_files()) == set(expected)
        term.keep_files({"samples/1.txt": made / "samples" / "1.txt"})
        assert contents(folder) == {"samples/1.txt": "one"}
        term.keep_files({})
        assert contents(folder) == {}
    assert [name.partition(".")[0] for name in folders(folder)] == ["3"]


def test_a_trial_that_keeps_nothing_has_the_head_that_it_had_before(folder: TrialFolder) -> None:
    with take(folder) as lease, Term(folder, lease) as term:
        term.begin(INFO)
    assert b"artifacts" not in (folder.path / "1.json").read_bytes()


def test_a_trial_that_starts_from_scratch_keeps_nothing_of_before(folder: TrialFolder, made: Path) -> None:
    with take(folder) as lease, Term(folder, lease) as term:
        term.begin(INFO)
        term.keep_files(sources(made))
    with take(folder) as lease, Term(folder, lease) as term:
        term.begin(INFO, from_scratch=True)
    assert contents(folder) == {}
    assert folders(folder) == []


def test_what_has_not_changed_is_not_copied_again(folder: TrialFolder, made: Path) -> None:
    folder.path.mkdir()
    writer = ArtifactsWriter(folder.path)
    first = writer.write(1, None, sources(made))
    assert first is not None
    assert writer.write(1, first, sources(made)) == first
    assert ArtifactsWriter(folder.path).write(2, first, sources(made)) == first  # by its content
    (made / "notes ä.txt").write_text("more")
    second = writer.write(1, first, sources(made))
    assert second is not None
    numbers = [(folder.path / one.name / "samples" / "1.txt").stat().st_ino for one in (first, second)]
    assert numbers[0] == numbers[1] != (made / "samples" / "1.txt").stat().st_ino
    assert (folder.path / first.name / "notes ä.txt").read_text() == "first"
    assert (first.number, second.number) == (1, 2)


def test_a_file_that_changes_while_it_is_copied_stays_as_it_was(
    folder: TrialFolder, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.path.mkdir()
    writer = ArtifactsWriter(folder.path)
    before = writer.write(1, None, sources(made))
    (made / "notes ä.txt").write_text("half a")
    copyfile = shutil.copyfile

    def copy_slowly(source: Path, target: Path) -> None:
        copyfile(source, target)
        if source.name == "notes ä.txt":
            with open(source, "a") as file:
                file.write(" line")

    with monkeypatch.context() as patched:
        patched.setattr("shutil.copyfile", copy_slowly)
        during = writer.write(1, before, sources(made))
    assert during == before
    after = writer.write(1, during, sources(made))
    assert after is not None
    assert artifacts.files_in(folder.path, after)["notes ä.txt"].read_text() == "half a line"


@pytest.mark.parametrize("pause", ["before the copy", "at the rename", "at the removal"])
def test_a_process_that_lost_the_trial_keeps_nothing_that_counts(
    folder: TrialFolder, made: Path, pause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = take(folder)
    sleeper = Term(folder, lease)
    sleeper.begin(INFO)
    sleeper.keep_files(sources(made))
    named = dict(contents(folder))

    def sleep() -> None:
        monkeypatch.undo()
        (folder.path / "lease").unlink()
        with take(folder) as other, Term(folder, other) as next_one:
            next_one.begin(INFO)
            named.update(contents(folder))

    if pause == "at the rename":
        replaced = os.replace
        monkeypatch.setattr("os.replace", lambda *paths: (sleep(), replaced(*paths))[1])
    else:
        checks = iter([pause == "before the copy", True])
        monkeypatch.setattr(
            sleeper._lease, "check", lambda: (sleep(), lease.check())[1] if next(checks) else None
        )
    (made / "samples" / "1.txt").write_text("too late")
    with contextlib.suppress(LeaseLostError):
        sleeper.keep_files(sources(made))
    monkeypatch.undo()
    assert contents(folder) == named
    assert list(named) == ["notes ä.txt", "samples/1.txt"]
    sleeper.close()
    lease.release()
    assert contents(folder) == named
    with take(folder) as third, Term(folder, third) as last:
        last.begin(INFO)
    assert len(folders(folder)) == 1
    assert list(check_trial(folder)) == []


def test_a_damaged_file_and_what_counts_no_more_are_found(folder: TrialFolder, made: Path) -> None:
    with take(folder) as lease, Term(folder, lease) as term:
        term.begin(INFO)
        term.keep_files(sources(made))
    (name,) = folders(folder)
    shutil.copytree(folder.path / name, folder.path / "1.artifacts.9.0123456789abcdef")
    (found,) = [str(one) for one in check_trial(folder) if "0123456789abcdef" in str(one)]
    assert "damaged, these are not the files that the trial kept" in found
    assert any(f"{name}: not believed" in str(one) for one in check_trial(folder))
    said: list[str] = []
    with take(folder) as lease, Term(folder, lease) as term:
        term.begin(INFO)
        assert set(term.kept_files(said.append)) == set(sources(made))
    assert len(said) == 1
    assert "these are not the files" in said[0]
    assert folders(folder) == ["1.artifacts.9.0123456789abcdef"]


def test_what_a_killed_process_left_is_named_and_goes(folder: TrialFolder, made: Path) -> None:
    with take(folder) as lease, Term(folder, lease) as term:
        term.begin(INFO)
    old, new = folder.path / ".artifacts.1.0123abcd", folder.path / ".artifacts.2.0123abcd"
    for path in (old, new):
        shutil.copytree(made, path)
    os.utime(old, (time.time() - HOURS,) * 2)
    assert [one.path for one in check_trial(folder) if "killed" in one.message] == [old]
    with take(folder) as lease, Term(folder, lease) as term:
        term.begin(INFO)
    assert folders(folder) == [new.name]


def test_kept_files_reach_a_store_elsewhere(folder: TrialFolder, made: Path, tmp_path: Path) -> None:
    there = TrialFolder(tmp_path / "there" / CONFIG.trial_id)
    lease = take(folder)
    with lease, Term(folder, lease) as term:
        term.begin(INFO)
        term.keep_files(sources(made))
        update, sent = collect_changes(folder, {})
        apply_update(there, update)
        assert contents(there) == contents(folder)
        term.keep_files({"notes ä.txt": made / "notes ä.txt"})
        update, sent = collect_changes(folder, sent)
        assert list(update.artifacts) == folders(folder)
        apply_update(there, update)
        term.keep_files({})
        update, sent = collect_changes(folder, sent)
        apply_update(there, update)
        assert collect_changes(folder, sent)[0].is_empty
        remove_replaced(there)
    assert contents(there) == {}
    assert folders(there) == folders(folder)
    assert list(check_trial(there)) == []
