"""Whoever uses mixsweep sees its types, from the installed wheel."""

import subprocess
import sys
from pathlib import Path

from tests.support.installed import Installed

USE = """
import mixsweep

plan = mixsweep.make_plan(mixsweep.load_spec("demo"))
wrong: int = plan.spec.question
frame = mixsweep.load("runs/demo", nothing=1)
"""


def test_mypy_of_a_users_file_sees_the_types(light: Installed, tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(USE, encoding="utf-8")
    words = [
        "--python-executable",
        light.python,
        "--config-file=",
        "--no-incremental",
        "--follow-imports=silent",
    ]
    command = [sys.executable, "-m", "mypy", *words, "use.py"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=200)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 2, done.stdout
    assert 'expression has type "str", variable has type "int"' in errors[0]
    assert 'Unexpected keyword argument "nothing" for "load"' in errors[1]
