"""What a sweep declares before its first trial: claims and seeds, kept over every later run."""

from pathlib import Path
from typing import Any

from mixsweep.core.store.declarations import declare, declared_before
from mixsweep.core.store.store import SweepStore

CLAIM = {"text": "a is best", "compare": "lr", "best": 0.1}
OTHER = {"text": "b is better", "compare": "lr", "better": 0.01, "than": 0.1}


def file_with(*claims: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"name": "sweep", "metric": "valid_accuracy", "mode": "max", "claims": list(claims), **keys}


def begin(store: SweepStore) -> None:
    (store.trials_path / "0123456789ab").mkdir(parents=True)


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


def test_a_part_that_is_added_later_declares_its_own_claims(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    first = {"name": "sweep", "parts": [{"name": "one", "claims": [CLAIM]}]}
    declare(store, first, 3)
    begin(store)
    both = {
        "name": "sweep",
        "parts": [{"name": "one", "claims": [CLAIM]}, {"name": "two", "claims": [OTHER]}],
    }
    declare(store, both, 3)
    assert declared_before(store, both, "two")["late"] == ()


def test_a_sweep_of_an_older_version_is_taken_at_the_word_of_its_last_file(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    begin(store)
    assert declared_before(store, file_with(CLAIM), "sweep") == {"declared": 0, "late": (), "error": "own"}
