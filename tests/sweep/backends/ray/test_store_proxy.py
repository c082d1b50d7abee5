"""core.store.trial.transfer and sweep.backends.ray.store_proxy: trials on nodes without a shared folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.failures import LeaseLostError
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.crash_recovery import record_killed_attempt
from mixsweep.core.store.trial.lease import holder_of, take_lease
from mixsweep.core.store.trial.term import Term
from mixsweep.core.store.trial.transfer import FolderUpdate, apply_update, collect_changes
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.sweep.backends.ray import store_proxy
from mixsweep.sweep.backends.ray.store_proxy import DONE, GIVEN, HELD, StoreProxy
from mixsweep.sweep.runtime.worker import WorkerSpec
from tests.support.trials import change_info, log_text

NODE = "0123456789abcdef"


@pytest.fixture
def config(tiny: Callable[..., ImageConfig]) -> ImageConfig:
    return tiny()


@pytest.fixture
def proxy(tmp_path: Path, config: ImageConfig) -> StoreProxy:
    run_config = RunConfig(store=tmp_path / "s", retention=Retention("none"))
    worker_spec = WorkerSpec(
        run_config=run_config,
        metric="valid_accuracy",
        mode="max",
        epochs={config.trial_id: config.epochs},
    )
    return StoreProxy(worker_spec, [config])


def trained(store: SweepStore, config: ImageConfig, epochs: int) -> SweepStore:
    """A store in which a trial has paused after `epochs` epochs, or has ended."""
    seen: list[int] = []
    run_config = RunConfig(store=store.path, retention=Retention("all"), checkpoint_share=1.0)
    pause = lambda: "interrupted" if len(seen) >= epochs else ""  # noqa: E731
    list(work([config], run_config, pause=pause, report=lambda record: seen.append(record.epoch)))
    return store


def test_an_update_copies_a_trial_and_the_next_one_holds_only_what_has_changed(
    tmp_path: Path, config: ImageConfig
) -> None:
    here = trained(SweepStore(tmp_path / "here"), config, 2).trial(config.trial_id)
    there = SweepStore(tmp_path / "there").trial(config.trial_id)
    update, sent = collect_changes(here, {})
    apply_update(there, update)
    assert there.info() == here.info()
    assert there.records().equals(here.records())
    assert log_text(there) == log_text(here)
    saved = there.load_checkpoint()
    assert saved is not None
    assert saved["epoch"] == 2
    assert collect_changes(here, sent) == (FolderUpdate(), sent)
    (path,) = here.logs()
    with open(path, "a") as log:
        log.write("more\n")
    again, _ = collect_changes(here, sent)
    assert again == FolderUpdate(logs={path.name: path.read_bytes()})


def test_a_trial_is_granted_to_one_worker_and_its_end_reaches_the_store_with_retention_applied(
    tmp_path: Path, proxy: StoreProxy, config: ImageConfig
) -> None:
    grant = proxy.request_trial(config.trial_id, NODE)
    assert grant.state == GIVEN
    assert proxy.request_trial(config.trial_id, "another").state == HELD
    remote = trained(SweepStore(tmp_path / "remote"), config, 9).trial(config.trial_id)
    reply = proxy.upload(config.trial_id, grant.token, NODE, None, collect_changes(remote, {})[0])
    assert not reply.lost
    proxy.release(config.trial_id, grant.token)
    store = SweepStore(tmp_path / "s").trial(config.trial_id)
    info = store.info()
    assert info is not None
    assert info.state == "completed"
    assert store.records().equals(remote.records())
    assert not store.has_checkpoint()  # by the retention "none"
    kept, sent = store.predictions(), remote.predictions()
    assert kept is not None
    assert sent is not None
    assert kept.confidence.tolist() == sent.confidence.tolist()
    assert proxy.request_trial(config.trial_id, "another").state == DONE


def test_the_newest_kept_files_of_a_worker_reach_the_store_and_come_back_with_the_next_grant(
    tmp_path: Path, proxy: StoreProxy, config: ImageConfig
) -> None:
    grant = proxy.request_trial(config.trial_id, NODE)
    remote = trained(SweepStore(tmp_path / "remote"), config, 1).trial(config.trial_id)
    store = SweepStore(tmp_path / "s").trial(config.trial_id)
    info, lease = remote.info(), take_lease(remote.path)
    assert info is not None
    assert lease is not None
    with lease, Term(remote, lease) as term:
        term.begin(info)
        update, sent = collect_changes(remote, {})
        assert not proxy.upload(config.trial_id, grant.token, NODE, None, update).lost
        for text in ("one", "two"):
            (tmp_path / "drawn.txt").write_text(text)
            term.keep_files({"deep/drawn.txt": tmp_path / "drawn.txt"})
            update, sent = collect_changes(remote, sent)
            assert update.head is None
            assert not proxy.upload(config.trial_id, grant.token, NODE, None, update).lost
            assert [path.read_text() for path in store.kept_files().values()] == [text]
            assert len(store.listing().artifacts) == 1
    proxy.release(config.trial_id, grant.token)
    again = SweepStore(tmp_path / "again").trial(config.trial_id)
    apply_update(again, proxy.request_trial(config.trial_id, "another").update)
    assert {name: path.read_text() for name, path in again.kept_files().items()} == {"deep/drawn.txt": "two"}


def test_a_worker_that_was_silent_too_long_has_lost_its_trial_and_uploads_nothing_more(
    tmp_path: Path, proxy: StoreProxy, config: ImageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = proxy.request_trial(config.trial_id, NODE)
    monkeypatch.setattr(store_proxy, "STALE_SECONDS", 0.0)
    second = proxy.request_trial(config.trial_id, "another")
    assert second.state == GIVEN
    remote = trained(SweepStore(tmp_path / "remote"), config, 1).trial(config.trial_id)
    assert proxy.upload(config.trial_id, first.token, NODE, None, collect_changes(remote, {})[0]).lost
    assert SweepStore(tmp_path / "s").trial(config.trial_id).records().num_rows == 0
    assert not proxy.upload(config.trial_id, second.token, "another", None, FolderUpdate()).lost


def test_a_dead_node_releases_its_trials_at_once(
    tmp_path: Path, proxy: StoreProxy, config: ImageConfig
) -> None:
    grant = proxy.request_trial(config.trial_id, NODE)
    proxy.release_lost_nodes({"another": "gone"})
    assert proxy.request_trial(config.trial_id, "third").state == HELD
    proxy.release_lost_nodes({NODE: "gone"})
    assert proxy.request_trial(config.trial_id, "third").state == GIVEN
    assert proxy.upload(config.trial_id, grant.token, NODE, None, FolderUpdate()).lost


def test_a_recorded_death_breaks_the_lease_of_that_holder_and_of_no_other(
    tmp_path: Path, config: ImageConfig
) -> None:
    store = trained(SweepStore(tmp_path / "s"), config, 1)
    folder = store.trial(config.trial_id)
    info = folder.info()
    assert info is not None
    running = type(info).from_json(
        info.to_json().replace('"end": "interrupted"', '"end": ""').replace('"job": ""', '"job": "j@node"')
    )
    change_info(folder, running)
    lease = take_lease(folder.path)
    assert lease is not None
    with lease, Term(folder, lease) as term:
        term.begin(running)
        assert not record_killed_attempt(folder, "j@node", "killed", "gone", dead_holder="somebody else")
        term.write_info(running)
        assert record_killed_attempt(folder, "j@node", "killed", "gone", dead_holder=holder_of(folder.path))
        with pytest.raises(LeaseLostError):
            term.write_info(running)
    dead = folder.info()
    assert dead is not None
    assert (dead.state, dead.attempts[-1].end, dead.attempts[-1].message) == ("interrupted", "killed", "gone")
    assert trained(store, config, 9).trial(config.trial_id).records().num_rows == config.epochs
