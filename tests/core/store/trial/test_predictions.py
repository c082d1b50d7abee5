"""Predictions of trials in a store: whole or not at all, of the trial's last end, and no other process's."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixsweep.core.data.datasets import Images
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.failures import DamagedError, LeaseLostError
from mixsweep.core.store import files
from mixsweep.core.store.compaction import compact, tidy
from mixsweep.core.store.integrity import check_sweep
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.lease import take_lease
from mixsweep.core.store.trial.term import Term
from mixsweep.core.store.trial.transfer import apply_update, collect_changes, remove_replaced
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.trainables.predictions import Predictions, to_table
from mixsweep.core.training.trainer import Trial
from tests.support.trials import as_format_1, change_info, head_path

Tiny = Callable[..., ImageConfig]
OTHER = to_table(np.array([0, 1]), np.array([1, 1]), np.array([0.75, 0.5]))


@pytest.fixture
def store(tmp_path: Path) -> SweepStore:
    return SweepStore(tmp_path / "sweep")


def train(store: SweepStore, config: ImageConfig, **values: Any) -> TrialFolder:
    hooks = {name: values.pop(name) for name in ("pause", "decide") if name in values}
    run_config = RunConfig(store=store.path, retention=Retention("all"), checkpoint_share=1.0, **values)
    list(work([config], run_config, **hooks))
    return store.trial(config.trial_id)


def names(folder: TrialFolder) -> list[str]:
    return sorted(name for name in os.listdir(folder.path) if ".predictions." in name)


def predictions_of(folder: TrialFolder) -> Predictions:
    found = folder.predictions()
    assert found is not None
    return found


def same(one: Predictions, other: Predictions) -> bool:
    pairs = ("index", "label", "prediction", "confidence")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in pairs)


def damage(folder: TrialFolder) -> str:
    (name,) = names(folder)
    content = bytearray((folder.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder.path / name).write_bytes(content)
    return name


def test_a_completed_trial_keeps_what_its_model_predicts(
    store: SweepStore, tiny: Tiny, digits: Images
) -> None:
    folder = train(store, tiny())
    found = predictions_of(folder)
    trial = Trial(tiny(), digits, torch.device("cpu"))
    trial.restore(folder.load_checkpoint() or {})
    tested = trial.test()
    logits = trial.model(
        (digits.test_images / 255 - torch.tensor(digits.mean).view(-1, 1, 1))
        / torch.tensor(digits.std).view(-1, 1, 1)
    )
    expected = logits.softmax(1).max(1)
    assert np.array_equal(found.label, digits.test_labels.numpy())
    assert np.array_equal(found.prediction, expected.indices.numpy())
    assert np.abs(found.confidence - expected.values.detach().numpy()).max() < 1e-4
    assert found.classes == digits.class_names
    recorded = folder.records(["test_accuracy"])["test_accuracy"].to_pylist()[-1]
    assert recorded == tested["test_accuracy"] == found.accuracy
    compact(store)
    assert list(check_sweep(store)) == []


def test_a_trial_that_was_killed_and_resumed_keeps_the_same(store: SweepStore, tiny: Tiny) -> None:
    straight = predictions_of(train(store, tiny()))
    asked = iter(["", "", "interrupted", "interrupted"])
    again = SweepStore(store.path.parent / "again")
    folder = train(again, tiny(), pause=lambda: next(asked))
    assert folder.predictions() is None
    assert names(folder) == []
    assert same(straight, predictions_of(train(again, tiny())))


def test_a_kill_between_the_predictions_and_the_end_leaves_none_that_counts(
    store: SweepStore, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*given: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Term, "seal", killed)
        with pytest.raises(Killed):
            train(store, tiny())
    folder = store.trial(tiny().trial_id)
    assert len(names(folder)) == 1
    assert folder.predictions() is None
    train(store, tiny())
    assert len(names(folder)) == 1
    assert names(folder)[0].startswith("2.")
    assert predictions_of(folder).accuracy == folder.records()["test_accuracy"][-1].as_py()


def test_an_extended_trial_shows_those_of_its_last_end_alone(store: SweepStore, tiny: Tiny) -> None:
    first = predictions_of(train(store, tiny(epochs=2)))
    asked = iter(["", "interrupted", "interrupted"])
    folder = train(store, tiny(epochs=4), pause=lambda: next(asked))
    assert folder.predictions() is None
    train(store, tiny(epochs=4))
    assert not same(first, predictions_of(folder))
    assert [name.split(".")[2] for name in names(folder)] == ["4"]
    assert list(check_sweep(store)) == []
    train(store, tiny(epochs=5), keep_predictions=False)
    assert (folder.predictions(), names(folder)) == (None, [])
    assert list(check_sweep(store)) == []


def test_none_are_kept_where_the_sweep_says_so_or_the_trial_has_no_test(
    store: SweepStore, tiny: Tiny
) -> None:
    assert names(train(store, tiny(), keep_predictions=False)) == []
    stopped = train(store, tiny(seed=1), stopping=True, decide=lambda record: record.epoch == 2)
    assert names(stopped) == []
    assert list(check_sweep(store)) == []


@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_a_damaged_or_missing_file_is_named_and_costs_the_trial_nothing_else(
    store: SweepStore, tiny: Tiny, harm: str
) -> None:
    folder = train(store, tiny())
    compact(store)
    name = damage(folder)
    if harm == "gone":
        (folder.path / name).unlink()
    with pytest.raises(DamagedError, match=f"{name}: {harm}"):
        folder.predictions()
    (finding,) = check_sweep(store)
    assert finding.path == folder.path / name
    assert finding.message.startswith(harm)
    info = folder.info(verify=True)
    assert info is not None
    assert (info.state, folder.damages()) == ("completed", ())
    assert list(work([tiny()], RunConfig(store=store.path))) == []  # nothing is trained again


def test_predictions_that_are_not_those_of_the_test_are_found(store: SweepStore, tiny: Tiny) -> None:
    folder = train(store, tiny())
    compact(store)
    content = files.table_bytes(OTHER)
    name = f"1.predictions.3.{files.digest_of(content)}.parquet"
    (folder.path / names(folder)[0]).unlink()
    (folder.path / name).write_bytes(content)
    values = files.read_json(head_path(folder))
    files.write_json(head_path(folder), {**values, "predictions": [name]})
    (finding,) = check_sweep(store)
    assert "its predictions are right in 0.5" in finding.message


def test_an_old_store_has_none_and_nothing_is_wrong(store: SweepStore, tiny: Tiny) -> None:
    folder = train(store, tiny())
    values = files.read_json(head_path(folder))
    del values["predictions"]  # as versions before wrote it
    files.write_json(head_path(folder), values)
    (folder.path / names(folder)[0]).unlink()
    assert folder.predictions() is None
    assert list(check_sweep(store)) == []
    as_format_1(folder)
    assert folder.predictions() is None


def test_a_change_of_state_without_an_attempt_keeps_them(store: SweepStore, tiny: Tiny) -> None:
    folder = train(store, tiny())
    found, info = predictions_of(folder), folder.info()
    assert info is not None
    change_info(folder, replace(info, retries_from=1))
    assert same(found, predictions_of(folder))
    tidy(store)
    assert same(found, predictions_of(folder))


def test_a_process_that_lost_the_trial_writes_none_that_counts(store: SweepStore, tiny: Tiny) -> None:
    folder = train(store, tiny())
    found, info = predictions_of(folder), folder.info()
    assert info is not None
    lease = take_lease(folder.path)
    assert lease is not None
    with lease, Term(folder, lease) as late:
        late.begin(info)
        (folder.path / "lease").unlink()
        other = take_lease(folder.path)
        assert other is not None
        with other, Term(folder, other) as term:
            term.begin(info)
        with pytest.raises(LeaseLostError):
            late.keep_predictions(3, OTHER)
        (folder.path / f"{late.number}.predictions.3.0123456789abcdef.parquet").write_bytes(b"late")
    assert same(found, predictions_of(folder))


def test_they_travel_before_the_head_that_names_them_and_once(
    store: SweepStore, tiny: Tiny, tmp_path: Path
) -> None:
    here, there = train(store, tiny()), TrialFolder(tmp_path / "there" / "trials" / tiny().trial_id)
    update, sent = collect_changes(here, {})
    apply_update(there, replace(update, head=None))  # the upload was cut before the head
    assert there.predictions() is None
    apply_update(there, update)
    remove_replaced(there)
    assert same(predictions_of(here), predictions_of(there))
    assert collect_changes(here, sent)[0].is_empty
    (content,) = update.predictions.values()
    wrong = replace(update, predictions={"1.predictions.3.0123456789abcdef.parquet": content})
    with pytest.raises(DamagedError):
        apply_update(there, wrong)


def test_those_of_an_end_that_is_not_there_yet_are_not_removed(
    store: SweepStore, tiny: Tiny, tmp_path: Path
) -> None:
    here = train(store, tiny())
    there = train(SweepStore(tmp_path / "there"), tiny(), until=2)
    update, _ = collect_changes(here, {})
    apply_update(there, replace(update, head=None, segments={}, checkpoints={}))
    remove_replaced(there)
    assert names(there) == names(here)
