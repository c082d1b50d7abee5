"""core.code.installed: an installed module is its file and a version, one of a checkout also what it imports."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from mixsweep.core.code.installed import installed_files, installed_versions
from mixsweep.core.store.code_copy import installed_code, versions_of

FILES = {
    "strolls/__init__.py": "",
    "strolls/models/__init__.py": "",
    "strolls/models/walk.py": "import json\nfrom strolls import steps\n",
    "strolls/steps.py": "STEP = 1\n",
    "strolls/unused.py": "",
    "strolls_dist.dist-info/METADATA": "Metadata-Version: 2.1\nName: strolls-dist\nVersion: 1.0\n",
    "strolls_dist.dist-info/top_level.txt": "strolls\n",
}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], ModuleType]:
    """Put a package into a folder that modules are imported from, and import one of its modules."""

    def into(folder: Path) -> ModuleType:
        for name, text in FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        monkeypatch.syspath_prepend(folder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "strolls"]:
            monkeypatch.delitem(sys.modules, name)
        return importlib.import_module("strolls.models.walk")

    return into


def test_of_an_installed_package_the_named_file_and_the_version_count(
    install: Callable[[Path], ModuleType], tmp_path: Path
) -> None:
    root = tmp_path / "site-packages"
    module = install(root)
    assert installed_files(module) == {"strolls/models/walk.py": root / "strolls/models/walk.py"}
    assert installed_versions(module) == "strolls-dist 1.0\n"
    first = installed_code(module)
    assert versions_of(first) == "strolls-dist 1.0"
    metadata = root / "strolls_dist.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "1.1"))
    assert installed_code(module).digest != first.digest


def test_of_a_checkout_what_the_module_imports_counts_too(
    install: Callable[[Path], ModuleType], tmp_path: Path
) -> None:
    module = install(tmp_path / "src")
    assert set(installed_files(module)) == {
        "strolls/__init__.py",
        "strolls/models/walk.py",
        "strolls/steps.py",
    }
    first = installed_code(module)
    (tmp_path / "src" / "strolls" / "unused.py").write_text("x = 1\n")
    assert installed_code(module).digest == first.digest
    (tmp_path / "src" / "strolls" / "steps.py").write_text("STEP = 2\n")
    assert installed_code(module).digest != first.digest


def test_a_module_that_is_not_python_has_its_version_alone() -> None:
    import numpy._core._multiarray_umath as compiled

    code = installed_code(compiled)
    assert list(code.files) == ["installed.txt"]
    assert versions_of(code).startswith("numpy ")
