"""Locales, terminals and folders that are not UTF-8: every command works or says in a line why not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = """
name = "läufe"
question = "Größe → Wirkung?"
seeds = 2
[base]
dataset = "digits"
train_limit = 64
batch_size = 32
epochs = 1
[space]
hidden = { grid_search = [[8], [16]] }
"""
ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}


@pytest.fixture
def folder(tmp_path: Path) -> bytes:
    """A folder whose name is not UTF-8."""
    made = os.path.join(os.fsencode(tmp_path), b"l\xe4ufe")
    os.mkdir(made)
    with open(os.path.join(made, b"s.toml"), "w", encoding="utf-8") as file:
        file.write(SWEEP)
    return made


def sweep(folder: bytes, *words: str | bytes, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "mixsweep", *words],
        cwd=folder, env=os.environ | environment, capture_output=True, timeout=120,
    )  # fmt: skip


def test_every_command_works_in_such_a_folder_and_on_an_ascii_terminal(folder: bytes) -> None:
    for words in (
        ["plan", "s.toml"],
        ["run", "s.toml", "--place", "debug"],
        ["status"],
        ["status", "läufe"],
        ["report", "läufe"],
        ["export", "läufe", "--to", "t.csv"],
        ["mirror", "läufe", "--offline"],
        ["doctor", "--store", "runs"],
        ["presets"],
    ):
        done = sweep(folder, *words, **ASCII)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        done.stdout.decode("ascii")
    assert b"all files are as they have to be" in sweep(folder, "doctor", "--store", "runs").stdout


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["run", "s.toml", "--place", "local"], ASCII, b"not UTF-8, and schedulers take no other paths"),
        (["run", b"a\xff.toml"], ASCII, b"no such sweep file or preset"),
        (["plan", "s.toml", "--set", b"base.lr=\xff"], ASCII, b"--set base.lr: not UTF-8"),
        (["show", b"\xff"], ASCII, b"not a trial's id or the start of one"),
        (
            ["status"],
            {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
            b"the locale's encoding is ascii, a store's is UTF-8; set PYTHONUTF8=1",
        ),
    ],
)
def test_what_cannot_be_done_there_is_one_line(
    folder: bytes, words: list[str | bytes], environment: dict[str, str], said: bytes
) -> None:
    done = sweep(folder, *words, **environment)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count(b"\n") == 1
