"""cluster.slurm.client: what SLURM's commands print is read whatever its bytes are."""

import os
from pathlib import Path

import pytest

from mixsweep.cluster.slurm.client import SlurmError, jobs_by_folder, query


def command(folder: Path, name: str, script: bytes) -> None:
    """A program of this name that prints bytes, as a job of somebody with another encoding makes SLURM do."""
    path = folder / name
    path.write_bytes(b"#!/bin/sh\n" + script)
    path.chmod(0o755)


def test_a_folder_that_is_no_utf_8_does_not_end_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    command(tmp_path, "squeue", b"printf '7|/home/r\\351sum\\351/jobs\\n8|/home/me/jobs\\n'\n")
    found = jobs_by_folder()
    assert len(found) == 2
    assert "8" in (*found, *found.values())


def test_an_error_that_is_no_utf_8_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    command(tmp_path, "scontrol", b"printf 'pas trouv\\351\\n' >&2; exit 1\n")
    with pytest.raises(SlurmError, match=r"^scontrol show: pas trouv"):
        query("scontrol", "show")
