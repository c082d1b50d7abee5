"""core.store.files: a file appears whole or not at all, whatever a file server or another process does meanwhile."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from mixsweep.core.store import files
from mixsweep.core.store.trial import lease as lease_module
from mixsweep.core.store.trial.lease import take_lease


@pytest.mark.parametrize("answer", [errno.ENOENT, errno.EIO, errno.ETIMEDOUT])
def test_a_rename_that_was_done_is_done_whatever_the_file_server_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    real = os.replace

    def replace(made: Path, path: Path) -> None:
        real(made, path)
        raise OSError(answer, os.strerror(answer), str(made))

    (tmp_path / "file").write_text("old")
    monkeypatch.setattr("os.replace", replace)
    files.write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_rename_that_was_not_done_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(made: Path, path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "file").write_text("old")
    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(OSError, match="Input/output"):
        files.write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["replace", "link"])
def test_a_temporary_file_that_another_process_took_for_a_leftover_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = getattr(os, name)

    def sleep(made: Path, path: Path, **more: Any) -> None:
        monkeypatch.setattr(f"os.{name}", real)
        Path(made).unlink()
        real(made, path, **more)

    monkeypatch.setattr(f"os.{name}", sleep)
    if name == "replace":
        files.write_bytes(tmp_path / "file", b"content")
    else:
        assert files.create_exclusive(tmp_path / "file", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_lease_whose_temporary_file_is_removed_while_its_process_sleeps_is_taken_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def sleep(made: Path, path: Path) -> None:
        monkeypatch.setattr(lease_module.os, "link", real)
        Path(made).unlink()
        real(made, path)

    monkeypatch.setattr(lease_module.os, "link", sleep)
    lease = take_lease(tmp_path)
    assert lease is not None
    lease.check()
    lease.release()
    assert list(tmp_path.iterdir()) == []
