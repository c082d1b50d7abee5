"""The files of a user's project that train a sweep."""

import importlib
import sys
from pathlib import Path

import pytest

from mixsweep.core import registry
from mixsweep.core.code.project import path_in_copy, project_files


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def found(root: Path, *names: str) -> set[str]:
    files = [root / name for name in names]
    registry.import_files(files, root)
    return set(project_files(files, root).files)


def test_what_is_imported_now_later_or_by_a_name_made_at_run_time_is_of_the_code(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        model="import pa1.now, importlib\nimportlib.import_module('pa1.' + 'made')\n"
        "def f():\n    from pa1 import later\n",
        pa1__now="X = 1\n",
        pa1__made="",
        pa1__later="from . import beside\nfrom .deep.er import Y\n",
        pa1__beside="import torch, os.path\n",
        pa1__deep__er="Y = 1\n",
        pa1__unused="",
        unused="",
    )
    (root / "pa1" / "__init__.py").write_text("")
    parts = ("__init__", "now", "made", "later", "beside", "deep/er")
    assert found(root, "model.py") == {"model.py", *(f"pa1/{part}.py" for part in parts)}


def test_what_the_process_has_loaded_for_itself_is_not(tmp_path: Path) -> None:
    root = write(tmp_path, model_2="import helper_2\n", helper_2="", plots_2="")
    sys.path.insert(0, str(root))
    importlib.import_module("plots_2")
    importlib.import_module("helper_2")  # before the model does
    assert found(root, "model_2.py") == {"model_2.py", "helper_2.py"}


def test_a_module_that_is_imported_through_a_link_to_its_project_is_one_of_its_files(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    write(real, model_3="import helper_3, installed_3\n", helper_3="")
    write(real / "site-packages", installed_3="")
    link.symlink_to(real)
    sys.path[:0] = [str(link), str(link / "site-packages")]
    registry.import_files([link / "model_3.py"], link)
    for root in (link, real):
        files = project_files([root / "model_3.py"], root).files
        assert files == {name: real.resolve() / name for name in ("model_3.py", "helper_3.py")}


def test_a_project_that_keeps_its_packages_below_src_is_imported_from_there(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        train_4="import pa4.now\ndef f():\n    import pa4.later\n",
        src__pa4__now="",
        src__pa4__later="",
    )
    sys.path.append(str(root / "src"))  # as an editable installation does
    registry.import_files([root / "train_4.py"], root)
    code = project_files([root / "train_4.py"], root)
    assert code.roots == (".", "src")
    assert set(code.files) == {"train_4.py", "src/pa4/now.py", "src/pa4/later.py"}


def test_a_named_file_outside_of_the_project_has_a_place_of_its_own(tmp_path: Path) -> None:
    root = write(tmp_path / "project", helper_5="")
    write(tmp_path / "elsewhere", model_5="import helper_5\n", more_5="")
    assert found(root, "../elsewhere/model_5.py") == {"imports/0/model_5.py", "helper_5.py"}
    assert path_in_copy(1, tmp_path / "elsewhere" / "more_5.py", root) == "imports/1/more_5.py"


def test_a_package_named_mixsweep_is_ours_whatever_the_project_has(tmp_path: Path) -> None:
    root = write(tmp_path, model_6="from mixsweep import field\n", mixsweep____init__="")
    assert found(root, "model_6.py") == {"model_6.py"}
