"""Names that no sweep and no trial can have are one line, whatever a file system would make of them."""

from pathlib import Path

import pytest

from mixsweep.core.errors import UserError
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.cli.arguments import find_sweep, find_trial

ODD = [
    "",
    " ",
    ".",
    "..",
    "**",
    "*",
    "?",
    "[a]",
    "../x",
    "a/b/c",
    "/",
    "//",
    "a\0b",
    "a\nb",
    "é" * 400,
    "a" * 5000,
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store of two sweeps, which share a trial."""
    for sweep in ("one", "two"):
        for trial in ("0123456789ab", "0123ffffffff") if sweep == "one" else ("0123456789ab",):
            (tmp_path / "runs" / sweep / "trials" / trial).mkdir(parents=True)
        (tmp_path / "runs" / sweep / "sweep.toml").write_text(f'name = "{sweep}"\n')
    return tmp_path / "runs"


@pytest.mark.parametrize("name", [*ODD, "one/", "one/*", "../runs/0123"])
def test_an_odd_name_of_a_trial_is_one_line(name: str, root: Path) -> None:
    with pytest.raises(UserError) as caught:
        find_trial(name, root)
    assert "not a trial's id or the start of one" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", ODD)
def test_an_odd_name_of_a_sweep_is_one_line(name: str, root: Path) -> None:
    with pytest.raises(UserError) as caught:
        find_sweep(name, root)
    assert "no such sweep in" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300


def test_a_sweep_is_found_by_its_name_and_by_its_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_sweep("one", root).path == root / "one"
    assert find_sweep(str(root / "one"), root).name == "one"
    monkeypatch.chdir(root / "one" / "trials")
    assert find_sweep("..", Path("runs")).name == "one"
    monkeypatch.chdir(root / "one")
    assert find_sweep(".", Path("runs")).name == "one"


def test_a_trial_is_found_by_a_prefix_that_matches_it_alone(root: Path) -> None:
    assert find_trial("0123f", root).path == SweepStore(root / "one").trial("0123ffffffff").path
    with pytest.raises(UserError, match="no such trial"):
        find_trial("*/0123456789ab", root)
    assert find_trial("two/01", root).trial_id == "0123456789ab"
    with pytest.raises(UserError, match="2 trials have ids that begin with it"):
        find_trial("0123", root)
