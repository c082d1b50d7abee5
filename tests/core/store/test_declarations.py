"""What a sweep declares before its first trial: claims and seeds, kept over every later run."""

from pathlib import Path
from typing import Any

import pytest

from mixsweep.core.store import declarations
from mixsweep.core.store.declarations import declared_before
from mixsweep.core.store.store import SweepStore

CLAIM = {"text": "a is best", "compare": "lr", "best": 0.1}
OTHER = {"text": "b is better", "compare": "lr", "better": 0.01, "than": 0.1}


def file_with(*claims: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"name": "sweep", "metric": "valid_accuracy", "mode": "max", "claims": list(claims), **keys}


TRIAL, NEW_TRIAL = "0123456789ab", "ba9876543210"


def declare(store: SweepStore, file: dict[str, Any], seeds: int, **planned: set[str]) -> None:
    declarations.declare(store, file, seeds, planned or {"sweep": {TRIAL}})


def begin(store: SweepStore) -> None:
    (store.trials_path / TRIAL).mkdir(parents=True)


def test_a_claim_written_before_the_first_trial_stays_so_whatever_is_run_later(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    declare(store, file_with(CLAIM), 3)
    begin(store)
    for seeds in (3, 5, 10):
        declare(store, file_with(CLAIM), seeds)
    found = declared_before(store, file_with(CLAIM), "sweep")
    assert found == {"declared": 3, "late": (), "error": "own"}


def test_a_claim_written_or_changed_after_the_first_trial_is_late(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    declare(store, file_with(CLAIM), 3)
    begin(store)
    changed = {**OTHER, "better": 0.02}
    now = file_with(OTHER, CLAIM, changed)
    declare(store, now, 3)
    declare(store, now, 3)  # the same command again does not make it an early one
    assert declared_before(store, now, "sweep")["late"] == (0, 2)


def test_a_claim_may_be_reworded_and_change_until_the_first_trial(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    declare(store, file_with(CLAIM), 3)
    declare(store, file_with(OTHER), 4)
    begin(store)
    reworded = {**OTHER, "text": "b beats a"}
    declare(store, file_with(reworded), 4)
    assert declared_before(store, file_with(reworded), "sweep") == {"declared": 4, "late": (), "error": "own"}


def test_a_pooled_error_has_to_be_declared_before_the_first_trial(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    declare(store, file_with(CLAIM), 3)
    begin(store)
    pooled = file_with(CLAIM, error="pooled")
    declare(store, pooled, 3)
    assert declared_before(store, pooled, "sweep") == {"declared": 3, "late": (0,), "error": "own"}


def in_parts(*parts: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"name": "sweep", "parts": list(parts), **keys}


def test_a_part_that_is_added_with_new_trials_declares_its_own_claims(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    one, two = {"name": "one", "claims": [CLAIM]}, {"name": "two", "claims": [OTHER]}
    declare(store, in_parts(one), 3, one={TRIAL})
    begin(store)
    both = in_parts(one, two, error="pooled")
    declare(store, both, 5, one={TRIAL}, two={NEW_TRIAL})
    assert declared_before(store, both, "two") == {"declared": 5, "late": (), "error": "pooled"}


def test_a_part_that_is_renamed_after_the_data_has_late_claims_and_the_seeds_of_before(
    tmp_path: Path,
) -> None:
    store = SweepStore(tmp_path)
    declare(store, in_parts({"name": "one", "claims": [CLAIM]}), 3, one={TRIAL})
    begin(store)
    renamed = in_parts({"name": "uno", "claims": [CLAIM]}, error="pooled")
    declare(store, renamed, 5, uno={TRIAL, NEW_TRIAL})
    assert declared_before(store, renamed, "uno") == {"declared": 3, "late": (0,), "error": "own"}


def test_a_sweep_that_is_divided_into_parts_after_the_data_has_late_claims(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    declare(store, file_with(CLAIM), 3)
    begin(store)
    divided = in_parts({"name": "one", "claims": [CLAIM]})
    declare(store, divided, 4, one={TRIAL})
    assert declared_before(store, divided, "one") == {"declared": 3, "late": (0,), "error": "own"}


ON_ALL = (
    {"best": 0.1},
    {"better": 0.1},
    {"worse": 0.1, "than": "rest"},
    {"alike": "all", "within": 0.1},
    {"monotone": "increasing"},
)


@pytest.mark.parametrize("form", ON_ALL)
def test_a_claim_on_all_values_is_late_once_one_is_taken_away(tmp_path: Path, form: dict[str, Any]) -> None:
    claim = {"compare": "lr", **form}
    space = {"lr": {"grid_search": [0.1, 0.01, 0.001]}}
    store = SweepStore(tmp_path)
    declare(store, file_with(claim, space=space), 3)
    begin(store)
    for fewer in (
        {"space": {"lr": {"grid_search": [0.1, 0.01]}}},
        {"space": space, "combine": {"exclude": [{"lr": 0.001}]}},
    ):
        now = file_with(claim, **fewer)
        declare(store, now, 3)
        assert declared_before(store, now, "sweep")["late"] == (0,)
    assert declared_before(store, file_with(claim, space=space), "sweep")["late"] == ()


def test_a_claim_that_names_its_values_stays_early_with_other_values_beside_them(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    declare(store, file_with(OTHER, space={"lr": {"grid_search": [0.1, 0.01]}}), 3)
    begin(store)
    more = file_with(OTHER, space={"lr": {"grid_search": [0.1, 0.01, 0.001]}})
    declare(store, more, 3)
    assert declared_before(store, more, "sweep")["late"] == ()


def test_a_sweep_of_an_older_version_is_taken_at_the_word_of_its_last_file(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    begin(store)
    assert declared_before(store, file_with(CLAIM), "sweep") == {"declared": 0, "late": (), "error": "own"}
