"""The house: who may import whom, and that every room can be read in one look."""

import ast
import json
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import mixsweep
from tests.support.package_links import FOLDERS, link_packages

ROOT = Path(__file__).parent.parent
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in MODULES]


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh process has imported after this code."""
    shown = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return set(json.loads(shown.stdout.splitlines()[-1]))


def test_no_import_goes_upward(tmp_path: Path) -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    if not lint.exists():
        pytest.skip("needs import-linter: pip install -e .[dev]")
    words = [lint, "--no-cache", "--config", ROOT / "pyproject.toml"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=link_packages(tmp_path))
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import mixsweep.core.store.store, mixsweep.core.execution.run_config", "torch ray wandb pandas scipy"),
        ("import mixsweep.sweep.cli.app", "torch ray wandb submitit pandas scipy"),
        ("import mixsweep.core.execution.runner", "ray wandb submitit matplotlib pandas scipy typer rich"),
        ("import mixsweep.analysis.report.report", "ray submitit mixsweep.sweep mixsweep.cluster"),
    ],
)  # fmt: skip
def test_what_is_imported_brings_no_more_than_it_needs(code: str, absent: str) -> None:
    assert loaded_by(code) & set(absent.split()) == set()


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_a_module_is_short_says_what_it_is_and_documents_what_it_offers(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 500
    if path.name == "__init__.py" and not tree.body:
        return
    if path.name != "__main__.py":
        assert ast.get_docstring(tree), "no docstring of the module"
    missing = [
        f"{node.name} (line {node.lineno})"
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert missing == []


INITS = [p for p in MODULES if p.name == "__init__.py"]


@pytest.mark.parametrize("path", INITS, ids=lambda path: path.parent.name)
def test_an_init_hands_names_on_and_defines_none(path: Path) -> None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        assert not isinstance(node, ast.ClassDef)
        # Python's own way to hand names on when they are first used.
        assert not isinstance(node, ast.FunctionDef) or node.name == "__getattr__"


def test_every_folder_is_packaged_with_its_data_files() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = [p.parent.relative_to(ROOT) for p in MODULES if p.name == "__init__.py"]
    assert set(setup["packages"]) == {"mixsweep", *(".".join(("mixsweep", *f.parts)) for f in folders)}
    for package, patterns in setup["package-data"].items():
        folder = ROOT / (package.removeprefix("mixsweep.").replace(".", "/"))
        others = [f for f in folder.iterdir() if f.is_file() and f.suffix != ".py"]
        assert others
        assert all(any(f.match(pattern) for pattern in patterns) for f in others)


def test_the_version_is_said_once_and_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == mixsweep.__version__


def imports_of(path: Path) -> set[str]:
    """The modules of ours that a file imports, anywhere in it but for types only."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            found.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return {name for name in found if name.startswith("mixsweep.")}


def test_no_file_imports_itself_by_way_of_others() -> None:
    names = {path: ".".join(("mixsweep", *path.relative_to(ROOT).with_suffix("").parts)) for path in MODULES}
    arrows = {names[path]: imports_of(path) & set(names.values()) - {names[path]} for path in MODULES}
    left = dict(arrows)
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


def test_no_folder_has_more_files_than_a_person_reads_at_a_glance() -> None:
    counts = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    assert {str(folder.relative_to(ROOT)): n for folder, n in counts.items() if n > 13} == {}
