"""analysis.comparing: two sweeps, trial by trial and value by value."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mixsweep.analysis.comparing.compare import compare_sides, compare_sweeps, concluded
from mixsweep.analysis.comparing.equivalence import equivalence_p, seed_spread, seeds_needed
from mixsweep.analysis.comparing.results import SideFacts, SweepComparison, TrialComparison
from mixsweep.analysis.comparing.sides import read_side
from mixsweep.analysis.comparing.wording import CHANGED, IDENTICAL, UNCHANGED, UNDECIDED
from mixsweep.analysis.exported.tables import one_sweep
from mixsweep.analysis.inference.statistics import paired_difference
from mixsweep.core import records
from mixsweep.core.errors import UserError
from mixsweep.core.store.store import SweepStore
from tests.support.synthetic_store import SyntheticPart, write_sweep
from tests.support.trials import write_trial

LRS = [0.1, 0.01]
PART = SyntheticPart(name="lrs", space={"lr": LRS}, final={0.1: 0.7, 0.01: 0.8}, base={"hidden": (8,)})


@pytest.fixture
def two(tmp_path: Path) -> Callable[..., SweepComparison]:
    """Compares two sweeps of these parts."""

    def compare(
        a: SyntheticPart | Sequence[SyntheticPart] = PART,
        b: SyntheticPart | Sequence[SyntheticPart] = PART,
        change: Callable[[SweepStore], None] = lambda store: None,
        options: Mapping[str, Any] | None = None,
        **of_b: Any,
    ) -> SweepComparison:
        stores = [
            write_sweep(tmp_path / name / "lrs", [p] if isinstance(p, SyntheticPart) else list(p), **more)
            for name, p, more in (("a", a, {}), ("b", b, of_b))
        ]
        change(stores[1])
        return compare_sides(*(read_side(s, n) for s, n in zip(stores, "ab")), **(options or {}))

    return compare


def one_bit_less(store: SweepStore, epoch: int = 7) -> str:
    """Take the last bit off one figure of one trial."""
    trial_id = store.plan()["trial_id"].to_pylist()[0]
    folder = store.trial(trial_id)
    info, rows = folder.info(), records.from_table(folder.records())
    assert info is not None
    loss = float(np.nextafter(rows[epoch - 1]["train_loss"], 0.0))
    rows[epoch - 1] = rows[epoch - 1].with_metrics({"train_loss": loss})
    write_trial(folder, info, rows)
    return str(trial_id)


def test_the_same_records_are_identical_bit_for_bit(two: Any) -> None:
    found = two()
    assert found.kind == IDENTICAL
    assert found.verdict == "identical bit for bit: all 6 pairs of trials"
    assert [trial.first_difference for trial in found.trials] == [0] * 6
    assert (found.only_a, found.only_b, found.changes, found.columns) == ((), (), (), {})
    assert found.is_complete


def test_one_bit_is_found_with_its_trial_its_epoch_and_its_column(two: Any) -> None:
    changed: list[str] = []
    found = two(change=lambda store: changed.append(one_bit_less(store)))
    (differs,) = [trial for trial in found.trials if trial.first_difference]
    assert ([differs.a], differs.first_difference, found.columns) == (changed, 7, {"train_loss": 1})
    assert found.kind == UNCHANGED  # the accuracies are equal
    assert found.verdict == "nothing changed: valid accuracy within ±1 point, for each of 2 values"


def with_column(store: SweepStore, name: str, value: float) -> SweepStore:
    """Give every record this value of a metric."""
    for folder in store.trials():
        info = folder.info()
        assert info is not None
        rows = [row.with_metrics({name: value}) for row in records.from_table(folder.records())]
        write_trial(folder, info, rows)
    return store


@pytest.mark.parametrize(
    ("column", "metric", "is_compared"),
    [
        ("grad_norm", "", True),  # undeclared
        ("grad_norm", "grad_norm", True),
        ("train_seconds", "", False),  # depends on the machine
        ("train_seconds", "train_seconds", True),
    ],
)
def test_undeclared_columns_and_the_judged_one_are_compared(
    tmp_path: Path, column: str, metric: str, is_compared: bool
) -> None:
    stores = [
        with_column(write_sweep(tmp_path / name / "lrs", [PART]), column, value)
        for name, value in (("a", 1.0), ("b", 2.0))
    ]
    found = compare_sides(*(read_side(store, "x") for store in stores), metric=metric)
    assert found.columns == ({column: 6} if is_compared else {})
    assert (found.kind == IDENTICAL) is not is_compared
    assert ("identical" in found.verdict) is not is_compared
    again = compare_sides(*(read_side(stores[0], "x") for _ in "ab"), metric=metric)
    assert again.kind == IDENTICAL


@pytest.mark.parametrize(("final_b", "kind"), [(0.5, IDENTICAL), (0.7, UNDECIDED), (math.nan, UNDECIDED)])
def test_equal_records_with_another_figure_are_not_identical(final_b: float, kind: str) -> None:
    found = concluded(comparison([paired(seed=n, final_b=final_b, differs=0) for n in range(2)]))
    assert found.kind == kind
    assert ("identical" in found.verdict) is (kind == IDENTICAL)


def rows_without_facts(path: Path, **metrics: float | None) -> Path:
    """A table of an older version: three seeds, two epochs, these metrics."""
    rows = [
        {"sweep": "t", "part": "t", "trial_id": f"t{seed}", "point": 0, "replica": seed, "state": "completed"}
        | {"seed": seed, "epoch": epoch, "step": epoch, **metrics, "attempt": 1}
        for seed in range(3)
        for epoch in (1, 2)
    ]
    pd.DataFrame(rows).to_parquet(path, index=False)
    return path


def sides_without_facts(tmp_path: Path, a: Mapping[str, Any], b: Mapping[str, Any]) -> Any:
    tables = [rows_without_facts(tmp_path / f"{name}.parquet", **m) for name, m in (("a", a), ("b", b))]
    return [read_side(one_sweep(table), table.name) for table in tables]


@pytest.mark.parametrize(("other", "kind"), [(1.0, IDENTICAL), (2.0, UNDECIDED)])
def test_tables_without_facts_are_compared_by_a_metric_called_like_a_cost(
    tmp_path: Path, other: float, kind: str
) -> None:
    sides = sides_without_facts(tmp_path, {"energy": 1.0}, {"energy": other})
    assert compare_sides(*sides).kind == kind


@pytest.mark.parametrize("metrics", [{}, {"loss": None}, {"seconds": 1.0}])
def test_tables_without_a_metric_are_not_compared(tmp_path: Path, metrics: Any) -> None:
    with pytest.raises(UserError, match="no metric has values in the records of both"):
        compare_sides(*sides_without_facts(tmp_path, metrics, metrics))


def test_a_field_that_differs_between_the_sides_pairs_trials_and_is_named(two: Any) -> None:
    found = two(b=replace(PART, base={"hidden": (8,), "label_smoothing": 0.1}))
    assert len(found.trials) == 6
    assert all(trial.a != trial.b for trial in found.trials)
    (change,) = found.changes
    assert (change.field, change.a, change.b, change.pairs) == ("label_smoothing", (0.0,), (0.1,), 6)
    assert [value.label for value in found.values] == ["1e-1", "1e-2"]


def test_a_field_that_differs_in_one_part_only_pairs_the_trials_of_that_part(two: Any) -> None:
    other = replace(PART, name="wide", base={"hidden": (16,)})
    found = two(a=[PART, other], b=[PART, replace(other, base={"hidden": (16,), "batch_size": 64})])
    assert len(found.trials) == 12
    assert [change.pairs for change in found.changes] == [6]
    assert [value.kind for value in found.values[:2]] == [IDENTICAL, IDENTICAL]
    assert found.values[2].label.startswith("wide: ")


def test_values_of_one_side_alone_have_no_partner(two: Any) -> None:
    found = two(b=replace(PART, space={"lr": [0.1, 0.001]}))
    assert (len(found.trials), len(found.only_a), len(found.only_b)) == (3, 3, 3)
    assert found.kind == IDENTICAL


def test_a_large_difference_is_a_change_with_its_size(two: Any) -> None:
    b = replace(PART, final={0.1: 0.9, 0.01: 0.8}, base={"hidden": (8,), "batch_size": 64})
    found = two(b=b)
    assert found.kind == CHANGED
    assert found.values[0].kind == CHANGED
    assert found.verdict.startswith("changed: 1e-1 +")
    assert found.values[0].difference.interval.mean == pytest.approx(0.2, abs=0.03)


def test_too_few_seeds_are_undecided_and_it_says_how_many_it_takes(two: Any) -> None:
    noisy = replace(PART, noise=0.02)
    found = two(a=noisy, b=replace(noisy, base={"hidden": (8,), "batch_size": 64}))
    assert found.kind == UNDECIDED
    assert "seeds needed" in found.verdict
    assert max(value.seeds_needed or 0 for value in found.values) > 3


def test_a_trial_that_diverges_on_one_side_alone_is_named_and_nothing_is_unchanged(two: Any) -> None:
    found = two(b=replace(PART, states={0.01: ("completed", "diverged", "completed")}))
    (apart,) = [trial for trial in found.trials if trial.ends_apart]
    assert (apart.state_a, apart.state_b, apart.first_difference) == ("completed", "diverged", 1)
    assert found.kind == UNDECIDED
    assert "1 diverges in B alone" in found.verdict
    assert "completed → diverged" in found.to_markdown()


def test_trials_that_diverge_alike_are_identical(two: Any) -> None:
    part = replace(PART, states={0.1: ("diverged",) * 3})
    assert two(part, part).kind == IDENTICAL


def test_divergence_on_one_side_decides_from_six_seeds_on(two: Any) -> None:
    def found_with(seeds: int) -> SweepComparison:
        def trials() -> list[TrialComparison]:
            return [paired(seed=n, state_b="diverged", final_b=math.nan, differs=2) for n in range(seeds)]

        return concluded(comparison(trials()))

    assert found_with(5).kind == UNDECIDED
    assert found_with(6).kind == CHANGED
    assert "6 diverges in B alone" in found_with(6).verdict


def test_stopped_trials_are_compared_bit_for_bit_alone(two: Any) -> None:
    stopped = replace(PART, states={0.1: ("stopped",) * 3})
    assert two(stopped, stopped).kind == IDENTICAL


def test_a_trial_stopped_early_decides_nothing_about_the_last_epoch(two: Any) -> None:
    found = two(
        replace(PART, states={0.1: ("stopped",) * 3}),
        replace(PART, states={0.1: ("stopped",) * 3}, base={"hidden": (8,), "batch_size": 64}),
    )
    assert found.kind == UNDECIDED
    assert found.values[0].difference is None
    assert "3 stopped at epoch 3" in found.values[0].note


def test_unfinished_and_failed_trials_have_their_place(two: Any) -> None:
    found = two(b=replace(PART, states={0.01: ("failed", "waiting", "interrupted")}))
    assert not found.is_complete
    assert found.verdict == (
        "identical bit for bit so far (3 of 6 pairs finished): 1 fails in B alone, 2 not finished"
    )
    assert [trial.message for trial in found.trials if trial.state_b == "failed"] == ["bug"]


def test_a_trial_that_was_trained_on_is_compared_where_both_have_records(two: Any) -> None:
    longer = replace(PART, base={"hidden": (8,), "epochs": 20}, curves={lr: [0.5] * 20 for lr in LRS})
    found = two(a=replace(PART, curves={lr: [0.5] * 12 for lr in LRS}), b=longer)
    assert [(trial.epochs_a, trial.epochs_b) for trial in found.trials] == [(12, 20)] * 6
    assert all(trial.final_a == trial.final_b == 0.5 for trial in found.trials)
    assert [change.field for change in found.changes] == ["epochs"]
    assert "test_accuracy" not in found.columns  # the longer one has none at epoch 12


@pytest.mark.parametrize(
    ("options", "b", "said"),
    [
        ({"metric": "valid_acuracy"}, {}, "did you mean 'valid_accuracy'?"),
        ({"margin": 0.0}, {}, "it has to be above 0"),
        ({}, {"space": {"lr": [0.5]}}, "no trials in common: they share no value of lr"),
    ],
)
def test_nonsense_is_one_line(two: Any, options: Any, b: Any, said: str) -> None:
    with pytest.raises(UserError) as error:
        two(b=replace(PART, **b), options=options)
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_only_the_trials_that_one_code_has_trained(tmp_path: Path) -> None:
    store = write_sweep(tmp_path / "lrs", [PART])
    for number, folder in enumerate(store.trials()):
        info = folder.info()
        assert info is not None
        attempt = replace(info.attempts[0], code="ab" * 10 if number else "cd" * 10, to_epoch=12)
        write_trial(folder, replace(info, attempts=(attempt,)), records.from_table(folder.records()))
    assert len(read_side(store, "x", "abab").trials) == 5
    assert len(read_side(store, "x", "cdc").trials) == 1
    with pytest.raises(UserError, match="known: 01234567, abababab, cdcdcdcd"):
        read_side(store, "x", "ef")


def test_a_notebook_shows_a_comparison_as_markdown_and_a_terminal_in_one_line(tmp_path: Path) -> None:
    stores = [write_sweep(tmp_path / name / "lrs", [PART]) for name in ("a", "b")]
    found = compare_sweeps(stores[0].path, str(stores[1].path))
    assert found._repr_markdown_() == found.to_markdown()
    assert "| value | pairs |" in found.to_markdown()
    assert repr(found).endswith("identical bit for bit: all 6 pairs of trials)")
    assert len(repr(found).splitlines()) == 1


def test_json_has_null_for_a_figure_that_there_is_none_of(two: Any) -> None:
    values = two(b=replace(PART, states={0.1: ("diverged",) * 3})).to_mapping()
    assert values["values"][0]["difference"] is None
    assert values["kind"] == UNDECIDED
    assert len(values["trials"]) == 6


# Statistics, on made-up pairs.


def paired(
    seed: int,
    final_a: float = 0.5,
    final_b: float = 0.5,
    label: str = "",
    state_b: str = "completed",
    differs: int = 1,
) -> TrialComparison:
    return TrialComparison(
        a="a", b="b", label=label, seed=seed, state_a="completed", state_b=state_b, epochs_a=5, epochs_b=5,
        first_difference=differs, final_a=final_a, final_b=final_b,
    )  # fmt: skip


def comparison(trials: Sequence[TrialComparison], margin: float = 0.01) -> SweepComparison:
    side = SideFacts(label="x", trials=len(trials), codes=(), revisions=(), devices=())
    return SweepComparison(
        a=side, b=side, metric="valid_accuracy", mode="max", margin=margin, margin_basis="", changes=(),
        trials=tuple(trials), only_a=(), only_b=(), columns={},
    )  # fmt: skip


def simulated(
    rng: np.random.Generator, seeds: int, shift: float, diverging: float = 0.0, values: int = 4
) -> list[TrialComparison]:
    """Pairs whose differences have a standard deviation of 0.85 points, as measured on CIFAR-10."""
    found = []
    for value in range(values):
        for seed in range(seeds):
            a, b = 0.5, 0.5 + shift + rng.normal(0, 0.0085)
            pair = paired(seed, a, b, str(value))
            for name in ("a", "b"):
                if rng.random() < diverging:
                    pair = replace(pair, **{f"state_{name}": "diverged", f"final_{name}": math.nan})
            found.append(pair)
    return found


def share(kind: str, runs: int, make: Callable[[np.random.Generator], list[TrialComparison]]) -> float:
    """The lower end of the 95 % interval of how often made-up comparisons have this verdict."""
    rng = np.random.default_rng(20261128)
    count = sum(concluded(comparison(make(rng))).kind == kind for _ in range(runs))
    return float(stats.binomtest(count, runs).proportion_ci(method="exact").low)


@pytest.mark.parametrize(("seeds", "diverging"), [(3, 0.0), (5, 0.0), (5, 0.3), (8, 0.6)])
def test_without_a_change_five_percent_of_comparisons_at_most_say_changed(
    seeds: int, diverging: float
) -> None:
    assert share(CHANGED, 400, lambda rng: simulated(rng, seeds, 0.0, diverging)) <= 0.05


@pytest.mark.parametrize("seeds", [3, 10])
def test_with_a_change_as_large_as_the_margin_five_percent_at_most_say_nothing_changed(seeds: int) -> None:
    assert share(UNCHANGED, 600, lambda rng: simulated(rng, seeds, 0.01, values=1)) <= 0.05


def test_as_many_seeds_as_it_says_decide_in_four_of_five_cases() -> None:
    rng = np.random.default_rng(1)
    probe = paired_difference(rng.normal(0, 0.0085, 5000), np.zeros(5000))
    needed = seeds_needed(probe, 0.01)
    assert needed is not None
    assert 7 <= needed <= 9
    drawn = [paired_difference(rng.normal(0, 0.0085, needed), np.zeros(needed)) for _ in range(1000)]
    assert np.mean([equivalence_p(one, 0.01) < 0.05 for one in drawn]) == pytest.approx(0.8, abs=0.08)


def test_equivalence_is_that_of_two_one_sided_t_tests() -> None:
    a, b = [0.51, 0.53, 0.52, 0.50], [0.50, 0.53, 0.53, 0.49]
    differences = np.subtract(a, b)
    low = stats.ttest_1samp(differences, -0.02, alternative="greater").pvalue
    high = stats.ttest_1samp(differences, 0.02, alternative="less").pvalue
    assert equivalence_p(paired_difference(a, b), 0.02) == pytest.approx(max(low, high))
    assert math.isnan(equivalence_p(paired_difference(a[:2], b[:2]), 0.02))


def test_the_spread_between_seeds_is_pooled_over_values() -> None:
    assert seed_spread([[1.0, 3.0], [10.0, 12.0], [5.0]]) == pytest.approx(math.sqrt(2))
    assert math.isnan(seed_spread([[1.0]]))
