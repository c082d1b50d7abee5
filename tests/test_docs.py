"""The README is true: its links lead somewhere, its commands exist, its examples run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from mixsweep import make_plan, parse_spec
from mixsweep.core.config import TrialConfig
from mixsweep.sweep.cli.app import app
from tests.support.commands import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_command_exists_with_its_options() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = [
        line.partition("#")[0]
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.splitlines()
    ]
    used = [shlex.split(line) for line in lines if line.startswith("sweep ")]
    assert len(used) >= 8
    for _, name, *words in used:
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, (name, words)


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {
        word for page in PAGES for word in re.findall(r"make ([a-z]+)", page.read_text(encoding="utf-8"))
    }
    named -= {"the", "room"}
    assert {"demo", "test", "check", "install"} <= named <= targets


def test_the_sweep_file_plans_fifteen_trials() -> None:
    import tomllib

    (text,) = [block for block in blocks(ROOT / "README.md", "toml") if "[base]" in block]
    assert len(make_plan(parse_spec(tomllib.loads(text))).trials) == 15


def test_the_page_on_sweep_files_lists_every_field_with_its_default() -> None:
    text = (ROOT / "docs" / "reference" / "sweep-files.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)`.*\| (\S[^|]*?) \|$", text, flags=re.MULTILINE))
    default = TrialConfig().to_mapping() | {"activation": None}
    for name, value in default.items():
        assert rows[name] == ("–" if value in (None, "") else str(value)), name


def test_the_python_example_runs(tmp_path: Path) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "activations.png").stat().st_size > 10_000
