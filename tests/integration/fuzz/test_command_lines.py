"""Command lines of odd words: exit code 0, 1 or 2 and one line, never a traceback, and nothing is trained."""

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mixsweep.core.errors import UserError
from mixsweep.sweep.cli.app import app
from tests.integration.fuzz.inputs import ODD_WORDS, fuzz

# `run` stands here with --limit 0 or an odd place: what is refused before it trains.
COMMANDS = [
    ["status"], ["show"], ["logs"], ["plan"], ["report"], ["compare"], ["stop"], ["presets"], ["schema"], ["init"],
    ["export", "--to", "x.csv"], ["export"], ["run", "--place", "nowhere"], ["run", "--limit", "0"], [],
]  # fmt: skip
OPTIONS = [
    "--json", "--store", "--place", "--set", "--trial", "--limit", "--data", "--from", "--to", "--out", "--places",
    "--overfit", "--detach", "--version", "-h", "-v",
]  # fmt: skip
WORDS = [word for word in ODD_WORDS if "\0" not in word]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lines")


@fuzz(120)
@given(
    command=st.sampled_from(COMMANDS),
    words=st.lists(st.sampled_from(WORDS) | st.sampled_from(OPTIONS) | st.text(max_size=6), max_size=4),
)
@example(command=["show"], words=["**"])
@example(command=["show"], words=[""])
@example(command=["status"], words=["../x"])
@example(command=["status"], words=["a\0b"])
@example(command=["plan", "demo"], words=["--set", "question=\udcff"])
@example(command=["run", "demo"], words=["--trial", "", "--place", "debug"])
@example(command=["run", "demo"], words=["--limit", "9" * 40, "--place", "nowhere"])
def test_any_command_line_ends_in_an_exit_code_and_no_traceback(
    command: list[str], words: list[str], folder: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = CliRunner().invoke(app, [*command, *words])
    error = done.exception
    if error is None or isinstance(
        error, SystemExit | OSError | BrokenPipeError
    ):  # main prints an OSError's line
        assert done.exit_code in (0, 1, 2)
        return
    assert isinstance(error, UserError), "".join(traceback.format_exception(error))[-2000:]
    assert str(error).strip()


@pytest.mark.parametrize(
    "words",
    [
        ["show", "**"], ["status", "../x"], ["run", "demo", "--trial", ""],
        ["logs", "a" * 5000], ["plan", b"\xff"], ["status", b"\xff"],
    ],
)  # fmt: skip
def test_a_real_process_says_one_line(words: list[str | bytes], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mixsweep", *words],
        cwd=tmp_path, env={**os.environ, "COLUMNS": "200"}, capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"sweep: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
