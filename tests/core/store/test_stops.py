"""core.store.stops: a stop is meant for commands given before it, whatever the clocks, and a signal for one command."""

import os
import time
from pathlib import Path

import pytest

from mixsweep.core.store.stops import (
    forget_command,
    request_stop,
    stop_command,
    stop_requested,
    stop_token,
    stopped_at,
)


def test_a_stop_is_meant_for_commands_given_before_it_and_for_no_later_one(tmp_path: Path) -> None:
    before = stop_token(tmp_path)
    assert not stop_requested(tmp_path, "one", before)
    request_stop(tmp_path)
    assert stop_requested(tmp_path, "one", before)
    after = stop_token(tmp_path)
    assert not stop_requested(tmp_path, "two", after)
    request_stop(tmp_path)
    assert stop_requested(tmp_path, "two", after)


@pytest.mark.parametrize("content", [b"2099-01-01T00:00:00+00:00", b"", b"\xff\xfe\x00", b"soon"])
def test_a_stop_of_any_content_is_an_old_one_for_the_next_command(tmp_path: Path, content: bytes) -> None:
    """Also one of an older version, stamped by a clock that is ahead, and a damaged one."""
    before = stop_token(tmp_path)
    (tmp_path / "stop").write_bytes(content)
    assert stop_requested(tmp_path, "one", before)
    assert not stop_requested(tmp_path, "two", stop_token(tmp_path))
    stopped_at(tmp_path)


def test_a_command_is_stopped_alone(tmp_path: Path) -> None:
    seen = stop_token(tmp_path)
    stop_command(tmp_path, "one")
    assert stop_requested(tmp_path, "one", seen)
    assert not stop_requested(tmp_path, "two", seen)
    forget_command(tmp_path, "one")
    assert not stop_requested(tmp_path, "one", seen)
    assert list(tmp_path.iterdir()) == []


def test_the_request_of_a_killed_command_is_removed_by_a_later_one(tmp_path: Path) -> None:
    stop_command(tmp_path, "killed")
    old = time.time() - 100_000
    os.utime(tmp_path / "stops" / "killed", (old, old))
    stop_command(tmp_path, "fresh")
    forget_command(tmp_path, "another")
    assert [path.name for path in (tmp_path / "stops").iterdir()] == ["fresh"]
