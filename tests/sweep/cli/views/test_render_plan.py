"""`sweep plan` and `sweep show` say which axes are zipped, which points are left out and what is derived."""

import json
from io import StringIO
from pathlib import Path

from rich.console import Console

from mixsweep.analysis.frames import read_sweep
from mixsweep.analysis.report.methods import axes
from mixsweep.cluster.places import find_place
from mixsweep.sweep.cli.views.render_plan import describe_plan, plan_mapping
from mixsweep.sweep.cli.views.render_trial import describe_trial, trial_mapping
from mixsweep.sweep.planning.parse import load_spec
from mixsweep.sweep.planning.plan import make_plan
from tests.support.synthetic_store import SyntheticPart, write_sweep

TEXT = """
[space]
lr = { grid_search = [0.1, 0.01] }
batch_size = { grid_search = [32, 64] }
optimizer = { grid_search = ["sgd", "adam"] }
[combine]
zip = [["lr", "batch_size"]]
exclude = [{ lr = 0.1, optimizer = ["sgd", "momentum"] }]
[derive]
weight_decay = "0.1  * lr"
"""


def console() -> tuple[Console, StringIO]:
    text = StringIO()
    return Console(file=text, width=200), text


def test_a_plan_says_what_was_zipped_left_out_and_derived(tmp_path: Path) -> None:
    (tmp_path / "axes.toml").write_text(TEXT)
    plan = make_plan(load_spec(tmp_path / "axes.toml"))
    out, text = console()
    describe_plan(plan, tmp_path / "runs", find_place("debug"), out)
    lines = text.getvalue().splitlines()
    assert [line for line in lines if line.startswith(("zipped", "excluded", "derived", "1 point"))] == [
        "zipped: lr with batch_size",
        "excluded: lr = 0.1, optimizer = 'sgd' or 'momentum'",
        "derived: weight_decay = 0.1 * lr",
        "1 point left out by [combine] exclude",
    ]
    assert "3 trials: 3 new" in lines
    values = json.loads(json.dumps(plan_mapping(plan, tmp_path / "runs", find_place("debug"))))
    assert values["excluded"] == 1
    assert values["axes"][2] == "derived: weight_decay = 0.1 * lr"


def test_a_plan_of_parts_names_the_part(tmp_path: Path) -> None:
    part = TEXT.replace("[space]", "[[parts]]\nname = 'one'\n[parts.space]").replace(
        "\n[combine]", "\n[parts.combine]"
    )
    (tmp_path / "axes.toml").write_text(part.replace("\n[derive]", "\n[parts.derive]"))
    out, text = console()
    describe_plan(make_plan(load_spec(tmp_path / "axes.toml")), tmp_path / "runs", find_place("debug"), out)
    assert "one: derived: weight_decay = 0.1 * lr" in text.getvalue().splitlines()


def test_a_trial_and_a_report_say_what_was_derived(tmp_path: Path) -> None:
    part = SyntheticPart(
        name="axes",
        space={"lr": [0.1, 0.01], "batch_size": [32, 64]},
        final={(0.1, 32): 0.5, (0.01, 64): 0.6},
        zipped=[["lr", "batch_size"]],
        derive={"weight_decay": "0.1 * lr"},
    )
    other = SyntheticPart(name="other", space={"lr": [0.3]}, final={0.3: 0.5})
    store = write_sweep(tmp_path / "axes", [part, other])
    folders = {folder.info().config["lr"]: folder for folder in store.trials()}  # type: ignore[union-attr]
    out, text = console()
    describe_trial(folders[0.1], out)
    assert "derived: weight_decay = 0.1 * lr" in text.getvalue().splitlines()
    assert trial_mapping(folders[0.1])["derived"] == {"weight_decay": "0.1 * lr"}
    assert "derived" not in trial_mapping(folders[0.3])
    assert axes([read_sweep(store)]) == [
        "Axes of axes: zipped: lr with batch_size; derived: weight_decay = 0.1 * lr."
    ]
