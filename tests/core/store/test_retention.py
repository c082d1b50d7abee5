"""core.store.retention: the best few checkpoints are kept, every record and log is."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixsweep.core import records
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.records import Record
from mixsweep.core.store.retention import Retention, is_policy
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.trial.lease import take_lease
from mixsweep.core.trainables.image.config import ImageConfig
from tests.support.records import make_record
from tests.support.trials import log_text, write_trial

Tiny = Callable[..., ImageConfig]


def run(store: Path, configs: list[ImageConfig], retention: Retention, **hooks: Any) -> list[TrialInfo]:
    return list(work(configs, RunConfig(store=store, retention=retention, stopping=True), **hooks))


def kept(store: Path, configs: list[ImageConfig]) -> list[bool]:
    return [SweepStore(store).trial(config.trial_id).has_checkpoint() for config in configs]


def last_row(store: Path, config: ImageConfig) -> Record:
    return records.from_table(SweepStore(store).trial(config.trial_id).records())[-1]


@pytest.mark.parametrize(("policy", "mode", "metric"), [
    ("best:2", "max", "valid_accuracy"),
    ("best:2", "min", "valid_loss"),
    ("best:1", "min", "train_loss"),
    ("best:9", "max", "valid_accuracy"),
])  # fmt: skip
def test_the_best_few_keep_their_checkpoints_and_all_keep_records_and_logs(
    tmp_path: Path, tiny: Tiny, policy: str, mode: str, metric: str
) -> None:
    configs = [tiny(lr=lr, epochs=2) for lr in (1e-2, 1e-5, 3e-3, 1e-4, 1e-3)]
    run(tmp_path, configs, Retention(policy, metric, mode))
    values = [last_row(tmp_path, config)[metric] for config in configs]
    count = int(policy.partition(":")[2])
    kept_values = [value for value, is_kept in zip(values, kept(tmp_path, configs)) if is_kept]
    assert sorted(kept_values) == sorted(sorted(values, reverse=mode == "max")[:count])
    for config in configs:
        folder = SweepStore(tmp_path).trial(config.trial_id)
        assert folder.records().num_rows == 2
        assert log_text(folder)
        assert len(folder.checkpoints()) <= 1


@pytest.mark.parametrize(("policy", "expected"), [("all", True), ("none", False)])
def test_all_or_none_are_kept(tmp_path: Path, tiny: Tiny, policy: str, expected: bool) -> None:
    configs = [tiny(seed=seed) for seed in range(3)]
    run(tmp_path, configs, Retention(policy))
    assert kept(tmp_path, configs) == [expected] * 3
    assert all(last_row(tmp_path, config)["test_accuracy"] is not None for config in configs)


def test_a_metric_with_a_slash_ranks_trials_and_releases_them(tmp_path: Path, tiny: Tiny) -> None:
    store, ranked = SweepStore(tmp_path), Retention("best:1", "valid/loss", "min")
    configs = [tiny(seed=seed) for seed in range(2)]
    for value, config in enumerate(configs):
        end = TrialInfo(trial_id=config.trial_id, config=config, state="completed", epoch=1)
        facts = {
            "trial_id": config.trial_id,
            "epoch": 1,
            "step": 1,
            "attempt": 1,
            "recorded_at": records.now(),
        }
        row = make_record(**facts).with_metrics({"valid/loss": float(value)})  # type: ignore[arg-type]
        write_trial(store.trial(config.trial_id), end, [row], {"epoch": 1})
        ranked.apply(store, end)
    assert kept(tmp_path, configs) == [True, False]
    (folder,) = (tmp_path / "kept").iterdir()
    ranked.release(store, configs[0].trial_id)
    assert list(folder.iterdir()) == []


def test_stopped_and_diverged_trials_keep_no_checkpoint(tmp_path: Path, tiny: Tiny) -> None:
    stopped, diverged = tiny(), tiny(optimizer="sgd", lr=1e8)
    ends = run(tmp_path, [stopped, diverged], Retention("best:5"), decide=lambda record: record.epoch == 2)
    assert [end.state for end in ends] == ["stopped", "diverged"]
    assert kept(tmp_path, [stopped, diverged]) == [False, False]


def test_an_interrupted_trial_keeps_its_checkpoint_whatever_the_policy(tmp_path: Path, tiny: Tiny) -> None:
    asked = iter(["", "interrupted", "interrupted"])
    run(tmp_path, [tiny()], Retention("none"), pause=lambda: next(asked))
    assert kept(tmp_path, [tiny()]) == [True]


def test_a_trial_being_extended_keeps_its_checkpoint_from_those_that_would_displace_it(
    tmp_path: Path, tiny: Tiny
) -> None:
    poor, good = tiny(lr=1e-6, epochs=2), tiny(lr=1e-2, epochs=2)
    best = Retention("best:1", "valid_loss", "min")
    run(tmp_path, [poor], best)
    longer = poor.with_values(epochs=6)
    asked = iter(["", "interrupted", "interrupted"])
    run(tmp_path, [longer], best, pause=lambda: next(asked))
    run(tmp_path, [good], best)
    assert kept(tmp_path, [poor, good]) == [True, True]
    (end,) = run(tmp_path, [longer], best)
    assert [attempt.from_epoch for attempt in end.attempts] == [0, 2, 3]
    assert kept(tmp_path, [poor, good]) == [False, True]


def test_forgetting_what_is_kept_only_keeps_checkpoints_longer(tmp_path: Path, tiny: Tiny) -> None:
    best = Retention("best:1", "valid_loss", "min")
    configs = [tiny(lr=lr, epochs=2) for lr in (1e-2, 1e-5)]
    run(tmp_path, configs[:1], best)
    shutil.rmtree(tmp_path / "kept")
    run(tmp_path, configs, best)
    assert kept(tmp_path, configs) == [True, True]


def test_no_value_ranks_below_any_value(tmp_path: Path, tiny: Tiny) -> None:
    configs = [tiny(seed=seed) for seed in range(3)]
    store = SweepStore(tmp_path)
    for mode in ("max", "min"):
        for config, value in zip(configs, [math.nan, -5.0, 1e-9]):
            folder = store.trial(config.trial_id)
            end = TrialInfo(trial_id=config.trial_id, config=config, state="completed", epoch=1)
            row = make_record(
                trial_id=config.trial_id, epoch=1, step=1, train_loss=0.0, train_accuracy=0.0, valid_loss=0.0,
                valid_accuracy=0.0, lr=0.1, train_seconds=1, valid_seconds=1, images_per_second=1,
                peak_memory_bytes=1, attempt=1, recorded_at=records.now(),
            )  # fmt: skip
            row = row.with_metrics({"valid_loss": value})
            write_trial(folder, end, [row], {"epoch": 1})
            Retention("best:2", "valid_loss", mode).apply(store, end)
        assert kept(tmp_path, configs) == [False, True, True]


@pytest.mark.parametrize("policy", ["best", "best:0", "best:-1", "best:2.5", "some", "", "best:2\n"])
def test_an_unknown_policy_is_refused(policy: str) -> None:
    assert not is_policy(policy)
    with pytest.raises(ValueError, match="allowed: all, none, best:N"):
        Retention(policy)


def test_another_trials_checkpoint_is_left_alone_while_a_process_holds_it(tmp_path: Path, tiny: Tiny) -> None:
    poor, good = tiny(lr=1e-6, epochs=2), tiny(lr=1e-2, epochs=2)
    best = Retention("best:1", "valid_loss", "min")
    run(tmp_path, [poor], best)
    lease = take_lease(SweepStore(tmp_path).trial(poor.trial_id).path)
    assert lease is not None
    with lease:
        run(tmp_path, [good], best)
        assert kept(tmp_path, [poor, good]) == [True, True]
    run(tmp_path, [tiny(lr=1e-7, epochs=2)], best)  # the next one clears up
    assert kept(tmp_path, [poor, good]) == [False, True]


def test_metrics_are_ranked_apart(tmp_path: Path, tiny: Tiny) -> None:
    configs = [tiny(seed=seed, epochs=2) for seed in range(2)]
    run(tmp_path, configs[:1], Retention("best:1", "valid_loss", "min"))
    run(tmp_path, configs[1:], Retention("best:1", "valid_accuracy", "max"))
    assert kept(tmp_path, configs) == [True, True]
