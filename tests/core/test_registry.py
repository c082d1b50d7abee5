"""The files of a user's project that a process has imported."""

import importlib
from pathlib import Path

import pytest

from mixsweep.core import registry


def test_a_module_that_is_imported_through_a_link_to_its_project_is_one_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    for folder in (real, real / "site-packages"):
        folder.mkdir()
    (real / "helper_behind_a_link.py").write_text("WIDTH = 8\n")
    (real / "site-packages" / "installed_behind_a_link.py").write_text("")
    link.symlink_to(real)
    monkeypatch.syspath_prepend(str(link / "site-packages"))
    monkeypatch.syspath_prepend(str(link))
    module = importlib.import_module("helper_behind_a_link")
    importlib.import_module("installed_behind_a_link")
    assert str(module.__file__).startswith(str(link))
    expected = {"helper_behind_a_link.py": real.resolve() / "helper_behind_a_link.py"}
    assert registry.project_files(link) == registry.project_files(real) == expected
