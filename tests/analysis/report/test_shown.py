"""What the public objects show of themselves as the value of a notebook's cell."""

from pathlib import Path

import pytest
from matplotlib.image import imread

import mixsweep
from tests.support.synthetic_store import learning_rates


def test_every_figure_is_a_picture_by_itself(tmp_path: Path) -> None:
    store = learning_rates(tmp_path / "lrs")
    frame, trials = mixsweep.load(store), mixsweep.load_trials(store)
    figures = [
        mixsweep.draw_curves(frame, "lr"),
        mixsweep.draw_best(frame, frame["trial_id"][0], "best"),
        mixsweep.draw_heat(trials, ("lr", "seed"), "valid_accuracy"),
    ]
    for number, figure in enumerate(figures):
        path = tmp_path / f"{number}.png"
        path.write_bytes(figure._repr_png_())  # type: ignore[attr-defined]
        assert imread(path).shape[0] > 200
        assert imread(path)[..., :3].std() > 0.05  # something is drawn


@pytest.mark.parametrize("name", ["verdict", "plan", "status"])
def test_objects_with_many_values_are_one_readable_line(tmp_path: Path, name: str) -> None:
    store = learning_rates(tmp_path / "learning-rates")
    if name == "verdict":
        (part,) = mixsweep.parts(store)
        verdicts = mixsweep.evaluate_claims(part, mixsweep.load(store), mixsweep.load_trials(store))
        shown = repr(verdicts[0])
        assert shown.startswith("Verdict('1e-3 is the best learning rate' is ")
        assert verdicts[0].evidence in shown
    elif name == "plan":
        shown = repr(mixsweep.make_plan(mixsweep.load_spec("learning-rates")))
        assert shown == "Plan(learning-rates: 15 trials)"
    else:
        shown = repr(mixsweep.StatusReader(store).read())
        assert shown == "SweepStatus(learning-rates: 15 trials, 3 diverged, 12 completed)"
    assert len(shown.splitlines()) == 1
