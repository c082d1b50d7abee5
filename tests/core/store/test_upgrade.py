"""core.store.upgrade: an older store is read by every reader, and brought up to date by the first run."""

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mixsweep.core import records
from mixsweep.core.errors import UserError
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.store import FORMAT, SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.trial.lease import take_lease
from mixsweep.core.store.upgrade import bring_up_to_date
from mixsweep.core.trainables.image.config import ImageConfig
from tests.support.trials import as_format_1, log_text

Tiny = Callable[..., ImageConfig]


def run(store: Path, configs: list[ImageConfig], **hooks: Any) -> list[TrialInfo]:
    return list(
        work(
            configs, RunConfig(store=store, retention=Retention("all"), command_id=uuid.uuid4().hex), **hooks
        )
    )


@pytest.fixture
def old(tmp_path: Path, tiny: Tiny) -> SweepStore:
    """A store of format 1: a trial that has completed, one that was interrupted after its first epoch."""
    store = SweepStore(tmp_path / "sweep")
    run(store.path, [tiny(seed=1)])
    asked = iter(["", "interrupted", "interrupted"])
    run(store.path, [tiny(seed=2)], pause=lambda: next(asked))
    for folder in store.trials():
        as_format_1(folder)
    (store.path / "sweep.toml").write_text('name = "sweep"\n')
    return store


def facts(store: SweepStore) -> dict[str, Any]:
    found = {}
    for folder in store.trials():
        info, state = folder.info(verify=True), folder.load_checkpoint()
        assert info is not None
        assert state is not None
        rows = records.from_table(folder.records())
        found[folder.trial_id] = (
            replace(info, updated_at=""),
            rows,
            state["epoch"],
            log_text(folder),
            folder.checkpoint_epoch(),
        )
    return found


def test_an_old_store_reads_as_before_and_after_it_is_brought_up_to_date(old: SweepStore, tiny: Tiny) -> None:
    before = facts(old)
    assert old.format() == 1
    assert [info.state for info, *_ in before.values()] in (
        ["completed", "interrupted"],
        ["interrupted", "completed"],
    )
    assert old.records().num_rows == 4
    bring_up_to_date(old)
    assert old.format() == FORMAT
    assert facts(old) == before
    assert old.records().num_rows == 4
    names = {path.name.partition(".")[0] for folder in old.trials() for path in folder.path.iterdir()}
    assert names == {"1"}
    assert not (old.path / "lease").exists()


def test_an_old_trial_goes_on_from_its_checkpoint_without_having_been_brought_up_to_date(
    old: SweepStore, tiny: Tiny, tmp_path: Path
) -> None:
    run(tmp_path / "straight", [tiny(seed=2)])
    ends = run(old.path, [tiny(seed=1), tiny(seed=2)])
    assert [end.trial_id for end in ends] == [tiny(seed=2).trial_id]
    assert [(a.from_epoch, a.end) for a in ends[0].attempts] == [(0, "interrupted"), (1, "completed")]
    straight = SweepStore(tmp_path / "straight").trial(tiny(seed=2).trial_id).records()
    losses = old.trial(tiny(seed=2).trial_id).records()["train_loss"]
    assert losses.to_pylist() == straight["train_loss"].to_pylist()


@pytest.mark.parametrize("file", ["trial.json", "metrics.parquet", "checkpoint.pt", "checkpoint.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe"])
def test_a_damaged_file_of_an_old_store_costs_its_trial_alone_and_is_mended(
    old: SweepStore, tiny: Tiny, tmp_path: Path, file: str, content: bytes | None
) -> None:
    run(tmp_path / "straight", [tiny(seed=1), tiny(seed=2)])
    path = old.trial(tiny(seed=1).trial_id).path / file
    path.unlink() if content is None else path.write_bytes(content)
    for folder in old.trials():
        folder.info(verify=True)
        folder.records()
        folder.load_checkpoint()
    bring_up_to_date(old)
    run(old.path, [tiny(seed=1), tiny(seed=2)])
    for seed in (1, 2):
        trial_id = tiny(seed=seed).trial_id
        info = old.trial(trial_id).info(verify=True)
        assert info is not None
        assert info.state == "completed"
        straight = SweepStore(tmp_path / "straight").trial(trial_id).records()
        for column in ("train_loss", "valid_accuracy", "test_loss"):
            assert old.trial(trial_id).records()[column].to_pylist() == straight[column].to_pylist()


def test_a_trial_that_an_older_version_still_trains_holds_the_run_back_in_one_line(
    old: SweepStore, tiny: Tiny
) -> None:
    lease = take_lease(old.trial(tiny(seed=2).trial_id).path)
    assert lease is not None
    with lease, pytest.raises(UserError, match="an older version of mixsweep trains this trial"):
        bring_up_to_date(old)
    bring_up_to_date(old)


def test_a_store_of_a_newer_version_is_refused_in_one_line(old: SweepStore) -> None:
    (old.path / "format").write_text("99\n")
    with pytest.raises(UserError, match="has format 99, and this version of mixsweep knows 2"):
        bring_up_to_date(old)


def test_an_old_trial_with_fewer_records_than_it_says_is_not_completed(old: SweepStore, tiny: Tiny) -> None:
    folder = old.trial(tiny(seed=1).trial_id)
    values = json.loads((folder.path / "trial.json").read_text())
    values["epoch"] = 7
    (folder.path / "trial.json").write_text(json.dumps(values))
    info = folder.info()
    assert info is not None
    assert (info.state, info.failure) == ("failed", "disk")
