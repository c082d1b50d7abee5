"""The shipped sweep files: each loads, plans, says what it asks and costs, and runs in miniature."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.store.store import SweepStore
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.sweep.planning.parse import PRESETS, load_spec, preset_names
from mixsweep.sweep.planning.plan import Plan, make_plan, save_plan

STUDY = ("activations", "best-mixer", "best-resnet18", "learning-rates", "patch-sizes")
TRIALS = {
    "activations": 9, "best-mixer": 6, "best-resnet18": 6, "demo": 45, "learning-rates": 15,
    "mixer-widths": 12, "patch-sizes": 12,
}  # fmt: skip


@pytest.fixture(params=preset_names())
def plan(request: pytest.FixtureRequest) -> Plan:
    return make_plan(load_spec(request.param))


def test_the_presets_are_those_of_the_study_its_miniature_and_one_beyond() -> None:
    assert set(preset_names()) == {*STUDY, "demo", "mixer-widths"} == set(TRIALS)


def test_a_preset_is_named_as_its_file_and_says_what_it_asks_costs_and_reaches(plan: Plan) -> None:
    spec = plan.spec
    assert spec.path == PRESETS / f"{spec.name}.toml"
    assert spec.question.endswith("?")
    assert len(plan.trials) == TRIALS[spec.name]
    assert spec.cost.startswith(f"{len(plan.trials)} trials of ")
    epochs = sorted({config.epochs for config in plan.trials})
    said = [int(number) for number in re.findall(r"\d+", spec.cost.split(" epochs")[0])[1:]]
    assert said == [epochs[0], epochs[-1]][: len(epochs)]
    assert spec.reaches or spec.name == "demo"
    for part in spec.parts:
        assert part.question.endswith("?")
        assert part.claims
        assert all(claim.text for claim in part.claims)


def test_a_presets_trials_are_distinct_and_nothing_in_its_file_is_without_effect(plan: Plan) -> None:
    from mixsweep.sweep.cli.views.render_plan import ineffective

    assert plan.duplicates == 0
    assert ineffective(plan) == []
    assert len(set(plan.labels.values())) == len(plan.trials)
    for config in plan.trials:
        assert ImageConfig.from_mapping(config.to_mapping()) == config


def test_a_presets_comment_says_where_in_the_study_it_stands(plan: Plan) -> None:
    assert plan.spec.path is not None
    text = plan.spec.path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert tomllib.loads(text)["name"] == plan.spec.name


def miniature(config: ImageConfig, varied: set[str]) -> ImageConfig:
    """The trial on few images, narrow where its width is not what the sweep asks about."""
    small: dict[str, Any] = {
        "dataset": "digits",
        "epochs": 1,
        "train_limit": 64,
        "valid_limit": 32,
        "batch_size": 32,
    }
    if config.model == "mixer":
        narrow = {"blocks": 1, "embed_dim": 16, "patch_size": 16}
        small |= {name: value for name, value in narrow.items() if name not in varied}
    return config.with_values(**small)


def test_every_part_of_a_preset_runs_in_miniature(plan: Plan, tmp_path: Path) -> None:
    store = SweepStore(tmp_path / plan.spec.name)
    save_plan(plan, store)
    trials = []
    for part in plan.spec.parts:
        points = [row.config for row in plan.rows if row.part == part.name and row.replica == 0]
        # A ResNet18 cannot be narrowed, so one of its points stands for all.
        chosen = points[-1:] if points[0].model == "resnet18" else points[:: len(points) - 1]
        trials += [miniature(config, set(part.space)) for config in chosen]
    ended = list(work(trials, RunConfig(store=store.path)))
    assert [info.state for info in ended] == ["completed"] * len(trials)
    rows = store.records().to_pylist()
    assert [row["trial_id"] for row in rows] == sorted(config.trial_id for config in trials)
    assert all(row["step"] == 2 and 0 <= row["test_accuracy"] <= 1 for row in rows)
