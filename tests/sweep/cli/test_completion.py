"""sweep.cli.completion: what TAB offers, asked for as a shell asks."""

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mixsweep.sweep.presets.catalog import preset_names
from tests.support.commands import ROOT

# The console script without its file: what a shell calls `sweep`.
CALL = "import sys; sys.argv[0] = 'sweep'; from mixsweep.sweep.cli.app import main; main()"
IDS = ("0123456789ab", "01ffffffffff", "abcdefabcdef")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with sweep files, a places.toml, and a store of two sweeps that share a trial."""
    for name in ("mine.toml", "my other.toml", "places.toml", "notes.txt", "deep/inner.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "places.toml").write_text("[lab]\nkind = 'ray'\n[local]\ncpus = 2\n")
    for sweep, trials in {"first": IDS, "second": IDS[:1]}.items():
        for trial in (*trials, ".tmp"):
            (tmp_path / "runs" / sweep / "trials" / trial).mkdir(parents=True)
        (tmp_path / "runs" / sweep / "sweep.toml").write_text("")
    (tmp_path / "runs" / "no-sweep").mkdir()
    return tmp_path


def offered(line: str, folder: Path, shell: str = "bash", **environment: str) -> list[str]:
    """What the program tells a shell whose cursor stands at the end of this line."""
    words = line.split(" ")
    asked = {
        "_SWEEP_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = subprocess.run(
        [sys.executable, "-c", CALL],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(folder), **asked, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [word for word in done.stdout.splitlines() if word]


def test_a_command_is_completed(folder: Path) -> None:
    assert offered("sweep pl", folder) == ["plan"]
    assert {"init", "run", "status", "schema"} <= set(offered("sweep ", folder))


def test_a_file_is_a_preset_or_a_toml_file_that_may_be_a_sweeps(folder: Path) -> None:
    assert offered("sweep plan ", folder) == [*preset_names(), "mine.toml", "my other.toml"]
    assert offered("sweep run m", folder) == ["mixer-widths", "mine.toml", "my other.toml"]
    assert offered("sweep run deep/", folder) == ["deep/inner.toml"]
    assert offered("sweep run ./mi", folder) == ["./mine.toml"]
    assert offered("sweep run gone/", folder) == []
    assert offered("sweep init --from pat", folder) == ["patch-sizes"]


def test_a_sweep_is_one_of_the_store_that_the_line_names(folder: Path) -> None:
    for command in ("status", "stop", "report", "mirror", "export"):
        assert offered(f"sweep {command} ", folder) == ["first", "second"]
    assert offered("sweep status s", folder) == ["second"]
    assert offered("sweep report first ", folder) == ["second"]
    assert offered("sweep compare first ", folder) == ["second"]
    (folder / "runs").rename(folder / "elsewhere")
    assert offered("sweep status ", folder) == []
    assert offered("sweep status --store elsewhere f", folder) == ["first"]


def test_a_trial_is_completed_by_its_id_or_by_its_sweep_and_its_id(folder: Path) -> None:
    for command in ("show", "logs", "run mine.toml --trial"):
        assert offered(f"sweep {command} ", folder) == list(IDS)
        assert offered(f"sweep {command} a", folder) == [IDS[2]]
    assert offered("sweep show first/01", folder) == [f"first/{IDS[0]}", f"first/{IDS[1]}"]
    assert offered("sweep show second/", folder) == [f"second/{IDS[0]}"]


def test_a_place_is_built_in_or_of_places_toml(folder: Path) -> None:
    assert offered("sweep run mine.toml --place ", folder) == ["debug", "lab", "local"]
    assert offered("sweep status --place l", folder) == ["lab", "local"]


def test_shells_that_show_help_show_what_a_word_is(folder: Path) -> None:
    assert "lab\ta place of kind ray" in offered("sweep run mine.toml --place ", folder, "fish")
    assert '"second":"a sweep"' in "".join(offered("sweep status ", folder, "zsh"))


@pytest.mark.parametrize("line", ["sweep show ", "sweep status ", "sweep run x --place ", "sweep plan d\0/"])
def test_what_cannot_be_read_offers_less_and_never_complains(line: str, folder: Path) -> None:
    (folder / "places.toml").write_bytes(b"\xff\xfe = broken")
    shutil.rmtree(folder / "runs")
    (folder / "runs").write_text("a file")
    if "\0" in line:
        from mixsweep.sweep.cli.completion import complete_file

        assert complete_file("d\0/") == []
        return
    assert offered(line, folder) == (["debug", "local"] if "--place" in line else [])


def test_bash_itself_completes_by_the_script_that_is_installed(folder: Path) -> None:
    program = folder / "bin" / "sweep"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{CALL}" "$@"\n')
    program.chmod(0o755)
    environment = {
        **os.environ,
        "HOME": str(folder),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    ask = (
        "sweep --install-completion bash >&2 && source ~/.bashrc && complete -p sweep >&2 && "
        "COMP_WORDS=(sweep show 01); COMP_CWORD=2; _sweep_completion sweep; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", ask], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == list(IDS[:2])


def test_completion_imports_nothing_slow(folder: Path) -> None:
    heavy = "{'torch', 'ray', 'numpy', 'pyarrow', 'pandas', 'wandb', 'submitit'}"
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('loaded', sorted({heavy} & sys.modules.keys()), file=sys.stdout))\n{CALL}"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "_SWEEP_COMPLETE": "complete_bash",
        "COMP_WORDS": "sweep show 0",
        "COMP_CWORD": "2",
    }
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        seconds.append(time.perf_counter() - start)
    assert done.stdout.splitlines() == [*IDS[:2], "loaded []"]
    print(f"a completion: median {statistics.median(seconds):.2f} s of {len(seconds)}")
    assert statistics.median(seconds) < 2  # 0.2 on an idle machine
