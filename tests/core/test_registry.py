"""core.registry: what a sweep's files register is in force while it runs, and one name is one thing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mixsweep.core import registry


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
    with pytest.raises(ValueError, match=r"a\.py and .*b\.py both register model 'mine'; rename one of them"):
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
