"""core.registry: what a sweep's files register is in force while it runs, and one name is one thing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mixsweep.core import registry
from mixsweep.core.errors import UserError


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a file that registers a model which returns a number."""
    monkeypatch.setattr(registry, "_registered", {part: {} for part in registry.BUILT_IN})

    def make(file: str, number: int, name: str = "mine") -> Path:
        path = tmp_path / file
        code = f"def build(shape, classes):\n    return {number}\nregister_model({name!r}, build)\n"
        path.write_text(f"from mixsweep import register_model\n{code}")
        return path

    return make


def built(name: str = "mine") -> object:
    build = registry.registered("model", name)
    assert build is not None
    return build((1, 8, 8), 10)


def test_two_files_that_register_one_name_are_refused_and_both_are_named(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    first, second = write("a.py", 1), write("b.py", 2)
    with pytest.raises(UserError, match=r"a\.py and .*b\.py both register model 'mine'; rename one of them"):
        registry.import_files([first, second], tmp_path)


def test_the_files_of_a_sweep_are_in_force_again_after_those_of_another(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    first, second, other = write("a.py", 1), write("b.py", 2), write("c.py", 3, "other")
    for files, number in (([first, other], 1), ([second], 2), ([first], 1), ([second, other], 2)):
        registry.import_files(files, tmp_path)
        assert built() == number
    assert built("other") == 3


def test_one_file_may_be_named_twice_and_register_a_name_twice(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write("a.py", 1)
    path.write_text(path.read_text() + path.read_text().replace("return 1", "return 2"))
    registry.import_files([path, path], tmp_path)
    assert built() == 2


def import_beside(path: Path, module: str) -> None:
    path.write_text(f"import {module}\n{path.read_text()}")


@pytest.mark.parametrize("order", [("parts", "more"), ("more", "parts")])
def test_a_file_may_import_another_that_is_named_too(
    order: tuple[str, str], write: Callable[..., Path], tmp_path: Path
) -> None:
    names = {"parts": f"parts_{order[0]}", "more": f"more_{order[0]}"}  # modules of this process
    paths = {"parts": write(f"{names['parts']}.py", 1), "more": write(f"{names['more']}.py", 2, "other")}
    import_beside(paths["more"], names["parts"])
    registry.import_files([paths[name] for name in order], tmp_path)
    assert (built(), built("other")) == (1, 2)


def test_a_name_that_an_imported_module_registers_is_refused_in_another_file(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    write("inner_part.py", 1)
    outer, other = write("outer.py", 2, "other"), write("c.py", 3)
    import_beside(outer, "inner_part")
    with pytest.raises(UserError, match=r"inner_part\.py and .*c\.py both register model 'mine'"):
        registry.import_files([outer, other], tmp_path)


def test_a_copy_of_a_file_beside_one_that_imports_it_is_that_file(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    for folder in ("0", "1"):  # as a task has its copies of files from outside the project
        (tmp_path / folder).mkdir()
        write(f"{folder}/copied_part.py", 1)
    outer = write("1/outer.py", 2, "other")
    import_beside(outer, "copied_part")
    registry.import_files([tmp_path / "0" / "copied_part.py", outer], tmp_path, ["1"])
    assert built() == 1


def test_two_files_that_make_a_model_with_one_function_are_refused(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "factory_part.py").write_text("def make(number):\n    return lambda shape, classes: number\n")
    files = []
    for name, number in (("a.py", 1), ("b.py", 2)):
        path = tmp_path / name
        path.write_text(
            "from mixsweep import register_model\nfrom factory_part import make\n"
            f"register_model('mine', make({number}))\n"
        )
        files.append(path)
    with pytest.raises(UserError, match=r"a\.py and .*b\.py both register model 'mine'"):
        registry.import_files(files, tmp_path)


def test_a_file_gets_its_name_back_where_another_has_registered_the_same_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_registered", {part: {} for part in registry.BUILT_IN})
    files = []
    for name, number in (("a.py", "abs"), ("b.py", "abs"), ("c.py", "len")):
        path = tmp_path / name
        path.write_text(f"from mixsweep import register_model\nregister_model('same_function', {number})\n")
        files.append(path)
    for file, function in zip([*files, files[1]], (abs, abs, len, abs)):
        registry.import_files([file], tmp_path)
        assert registry.registered("model", "same_function") is function
