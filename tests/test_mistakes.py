"""Typical mistakes in the docs: each is made here, and says what its table says."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mixsweep import RunOptions, make_plan, run_plan
from mixsweep.core import registry
from mixsweep.core.errors import UserError
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.parse import load_spec
from tests.support.commands import ROOT

DOCS = ROOT / "docs"
_HEAD = "| mistake | message |\n|---|---|\n"
_ELSEWHERE = {
    "the copy of the code is deleted while a job waits"
}  # tests/sweep/runtime/test_submitted_code.py

# The change of a file's text that makes each mistake, by the words of its row.
Change = tuple[str, str]
OWN: dict[str, Change] = {
    "the file does not exist": ("walk.py:Walk", "wlak.py:Walk"),
    "the class does not": ("walk.py:Walk", "walk.py:Wakl"),
    "no method": ("def state", "def stat"),
    "`train` without `yield`": ('yield {"loss": self.weights.square().mean()}', "pass"),
    "a field without a default": ('field(8, low=1, doc="units")', 'field(low=1, doc="units")'),
    "a field of another type": ("width: int = field(8, low=1", "width: dict = field(8, low=1"),
    "`Config` can change": ("(frozen=True, kw_only=True)", "(kw_only=True)"),
    "a misspelt field in the sweep file": ("\nlr =", "\nlrr ="),
    "a metric that nobody declares": ("seeds = 3", 'seeds = 3\nmetric = "los"'),
    "seeds without a seed field": ("    seed: int = 0\n", ""),
    "a record that is no number": ('"loss": self.weights.square().mean()', '"loss": "low"'),
    "a state that cannot be kept": ('"weights": self.weights,', '"weights": self.weights.numpy(),'),
    "a checkpoint of code that has changed since": ('state["round"]', 'state["steps"]'),
}
TUNE: dict[str, Change] = {
    "no `[fields]`": ("[fields]", "[base]"),
    "no metric, or no mode": ('mode = "min"\n', ""),
    "a function without `config`": ("descent.py:Descent", "descent.py:descent"),
    "a class without `step`": ("def step", "def stop_"),
    "half of a checkpoint": ("def load_checkpoint", "def load"),
    "a class of another kind": ("Descent(tune.Trainable)", "Descent"),
    "`[fields] epochs`": ("steps = { default = 20, budget = true }", "epochs = 3"),
    "a module of one's own project": ('"descent.py:Descent"', '"descent:Descent"'),
    "a metric that no result has": ('metric = "loss"', 'metric = "los"'),
}
POPULATION = '[search]\nalgorithm = "pbt"\nmutate = ["lr"]\n'
COMMAND: dict[str, Change] = {
    "a placeholder without a field": ("{degree}", "{degre}"),
    "a program that is not found": ("python train.py", "pyhton train.py"),
    "no metric, or no mode": ('mode = "min"\n', ""),
    "code that is not there": ('"points.py"]', '"point.py"]'),
    "data that is not there": ("code = [", 'inputs = ["data"]\ncode = ['),
    "a secret in `env`": ("code = [", 'env = { KEY = "3f9a01bc77de4452" }\ncode = ['),
    "a population without `resume`": (
        'resume = "--resume {checkpoint}"\ncode = ["train.py", "points.py"]\n',
        f'code = ["train.py", "points.py"]\n{POPULATION}',
    ),
    "a population without the budget": ("seeds = 3\n", POPULATION),
    "a metric that is never printed": ('metric = "valid_loss"', 'metric = "loss"'),
    "a script that prints nothing that is a record": ("print(json.dumps(", "print(repr("),
    "a script that ends with an error": ("    args = parser", "    {}['layer']\n    args = parser"),
}


def own(folder: Path) -> tuple[Path, Path]:
    return _from_page(folder, DOCS / "tutorial" / "your-own-training.md", "walk")


def tune(folder: Path) -> tuple[Path, Path]:
    return _from_page(folder, DOCS / "how-to" / "ray-tune-trainables.md", "descent")


def command(folder: Path) -> tuple[Path, Path]:
    shutil.copytree(ROOT / "examples" / "script", folder, dirs_exist_ok=True)
    return folder / "train.py", folder / "script.toml"


def _from_page(folder: Path, page: Path, name: str) -> tuple[Path, Path]:
    """Write a page's class and sweep file, as a reader copies them; return both."""
    text = page.read_text(encoding="utf-8")
    for kind, suffix in (("python", "py"), ("toml", "toml")):
        found = re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)
        assert found is not None
        (folder / f"{name}.{suffix}").write_text(found[1], encoding="utf-8")
    return folder / f"{name}.py", folder / f"{name}.toml"


PAGES: dict[str, tuple[Path, Callable[[Path], tuple[Path, Path]], dict[str, Change]]] = {
    "own": (DOCS / "tutorial" / "your-own-training.md", own, OWN),
    "tune": (DOCS / "how-to" / "ray-tune-trainables.md", tune, TUNE),
    "command": (DOCS / "how-to" / "commands.md", command, COMMAND),
}


def rows_of(page: Path) -> dict[str, str]:
    """The messages of a page's table of mistakes."""
    table = page.read_text(encoding="utf-8").partition(_HEAD)[2].partition("\n\n")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:3] for line in table.splitlines() if line.startswith("|")]
    return {mistake.strip(): message.strip() for mistake, message in rows}


def pattern_of(message: str) -> str:
    """A message of a table as a pattern: what its code says, where … is any text."""
    spans = [span[1].strip() for span in re.findall(r"(`+)(.*?)(?<!`)\1(?!`)", message)]
    text = re.sub(r"^(config|bug): ", "", " ".join(spans).replace("\\|", "|"))
    return ".*".join(map(re.escape, text.split("…")))


CASES = [(name, mistake) for name, (_, _, changes) in PAGES.items() for mistake in changes]


@pytest.mark.parametrize("name", PAGES)
def test_all_mistakes_of_a_table_are_made_here(name: str) -> None:
    page, _, changes = PAGES[name]
    assert set(rows_of(page)) - _ELSEWHERE == set(changes)


@pytest.mark.parametrize(("name", "mistake"), CASES, ids=[f"{n}-{m}" for n, m in CASES])
def test_a_mistake_says_what_the_docs_say(
    name: str, mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, write, changes = PAGES[name]
    before, after = changes[mistake]
    message = rows_of(page)[mistake]
    files = write(tmp_path)
    assert any(before in file.read_text() for file in files)
    if mistake == "a checkpoint of code that has changed since":
        failure_of(files[1].parent, files[1], ("seeds = 3", "seeds = 1\nbase.rounds = 2"))
        monkeypatch.delitem(sys.modules, registry._module_of(files[0].resolve()))
        files[1].write_text(files[1].read_text().replace("base.rounds = 2", "base.rounds = 3"))
    for file in files:
        file.write_text(file.read_text().replace(before, after))
    if mistake == "a function without `config`":
        files[0].write_text(files[0].read_text().replace("def descent(config)", "def descent()"))
    if mistake == "a module of one's own project":
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "descent", raising=False)
    if found := re.match(r"trial fails, `(\w+): ", message):
        said = failure_of(tmp_path, files[1])
        assert said.startswith(f"{found[1]}: ")
    else:
        with pytest.raises(UserError) as caught:
            make_plan(load_spec(files[1]))
        said = str(caught.value)
        assert "\n" not in said
    assert re.search(pattern_of(message), said), f"{said}\nis not\n{message}"


def failure_of(folder: Path, file: Path, change: Change = ("", "")) -> str:
    """Run the first trial of a sweep; return the kind and the message of its failure, '' if it has none."""
    file.write_text(file.read_text().replace(*change) if change[0] else file.read_text())
    plan = make_plan(load_spec(file))
    run_plan(plan, place="debug", store_root=folder / "runs", options=RunOptions(limit=1))
    infos = [
        info for trial in SweepStore(folder / "runs" / plan.spec.name).trials() if (info := trial.info())
    ]
    (info,) = infos
    return f"{info.failure}: {info.attempts[-1].message}" if info.failure else ""
