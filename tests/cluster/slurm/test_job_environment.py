"""cluster.slurm.job_environment: warnings are handled once and in time. Also: which nodes count as failing."""

import os
import signal
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from mixsweep.cluster.slurm.job_environment import MARGIN_SECONDS, JobSignals, ends_at
from mixsweep.core.failures import Interruption
from mixsweep.core.records import now
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import Attempt, TrialInfo
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.sweep.backends.slurm.exit_status import failing_nodes
from mixsweep.sweep.backends.slurm.requeues import PlaceFailure, place_failures, record_place_failure


def wait_in(warnings: JobSignals, seconds: float = 3.0) -> str:
    """Wait some seconds; return the reason of an interruption, or ''."""
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.01)
    except Interruption as interruption:
        return interruption.reason
    return ""


def test_sigterm_interrupts_the_epoch_within_the_grace_period() -> None:
    with JobSignals(time.time() + 3600, 120, grace_seconds=1.0) as warnings:
        assert warnings.reason == ""
        os.kill(os.getpid(), signal.SIGTERM)
        assert warnings.reason == "preempted"
        began = time.monotonic()
        assert wait_in(warnings) == "preempted"
        assert 0.3 < time.monotonic() - began < 1.0


def test_a_warning_of_the_time_limit_sets_no_reason_and_interrupts_a_long_epoch() -> None:
    with JobSignals(time.time() + MARGIN_SECONDS + 1, 120, grace_seconds=30) as warnings:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert warnings.reason == ""
        assert wait_in(warnings) == "timeout"


def test_a_second_warning_raises_nothing() -> None:
    with JobSignals(time.time() + 3600, 120, grace_seconds=0.2) as warnings:
        os.kill(os.getpid(), signal.SIGTERM)
        assert wait_in(warnings) == "preempted"
        os.kill(os.getpid(), signal.SIGTERM)
        assert wait_in(warnings, 0.5) == ""


def test_handlers_are_restored_unless_the_process_exits_next() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGALRM)}
    try:
        with JobSignals(time.time() + 3600, 120, 30):
            pass
        assert {number: signal.getsignal(number) for number in before} == before
        with JobSignals(time.time() + 3600, 120, 30, until_exit=True):
            pass
        os.kill(os.getpid(), signal.SIGUSR2)  # by default it would end the process
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_end_of_a_job_comes_from_the_scheduler_or_is_counted_from_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SWEEP_JOB_STARTED_AT", "1000")
    assert ends_at(minutes=10) == 1600
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1500")
    assert ends_at(minutes=10) == 1500


def info_of(*attempts: tuple[str, str, int, str], started_at: str = "") -> TrialInfo:
    recorded = tuple(
        Attempt(
            number=number,
            place="cluster",
            host=host,
            pid=1,
            job=job,
            restarts=restarts,
            end=end,
            started_at=started_at,
        )
        for number, (host, job, restarts, end) in enumerate(attempts, start=1)
    )
    return TrialInfo(trial_id="x", config=ImageConfig(), state="running", attempts=recorded)


def test_a_node_fails_by_its_recorded_end_or_by_a_kill_after_which_its_job_was_requeued() -> None:
    broken = info_of(("n1", "7_0", 0, "node"), ("n1", "7_0", 1, "killed"), ("n2", "7_0", 2, "completed"))
    assert failing_nodes([broken], "cluster") == ("n1",)
    assert failing_nodes([broken], "elsewhere") == ()
    once = info_of(("n1", "7_0", 0, "node"), ("n2", "7_0", 1, "completed"))
    assert failing_nodes([once], "cluster") == ()
    assert failing_nodes([once, once], "cluster") == ("n1",)


def test_a_killed_process_whose_job_was_not_requeued_does_not_blame_its_node() -> None:
    killed = info_of(("n1", "7_0", 0, "killed"), ("n1", "8_0", 0, "killed"), ("n1", "9_0", 0, "completed"))
    assert failing_nodes([killed], "cluster") == ()
    no_job = replace(killed, attempts=tuple(replace(a, job="", end="node") for a in killed.attempts))
    assert failing_nodes([no_job], "cluster") == ()
    inside_one_job = info_of(("n1", "7", 0, "killed"), ("n1", "7", 0, "killed"), ("n1", "7", 0, "completed"))
    assert failing_nodes([inside_one_job], "cluster") == ()


def test_a_node_on_which_most_attempts_end_well_is_not_blamed_for_unrecorded_preemptions() -> None:
    hard = info_of(("n1", "7_0", 0, "killed"), ("n1", "7_0", 1, "killed"), ("n1", "7_0", 2, "completed"))
    well = info_of(("n1", "7_1", 0, "preempted"), ("n1", "7_1", 1, "completed"))
    assert failing_nodes([hard], "cluster") == ("n1",)
    assert failing_nodes([hard, well], "cluster") == ()


def test_failures_of_days_ago_are_ignored() -> None:
    words = ("n1", "7_0", 0, "node"), ("n1", "7_0", 1, "node"), ("n2", "7_0", 2, "completed")
    assert failing_nodes([info_of(*words, started_at=now().isoformat())], "cluster") == ("n1",)
    days_ago = (now() - timedelta(days=3)).isoformat()
    assert failing_nodes([info_of(*words, started_at=days_ago)], "cluster") == ()


def test_a_tasks_place_failures_add_up_over_its_jobs_restarts(tmp_path: Path) -> None:
    store = SweepStore(tmp_path)
    assert place_failures(store, "0001", 3) == []
    (tmp_path / "jobs" / "0001").mkdir(parents=True)
    for failure in (PlaceFailure("node", "gpu a"), PlaceFailure("rendezvous"), PlaceFailure("node", "n2")):
        record_place_failure(store, "0001", 3, failure)
    assert place_failures(store, "0001", 3) == [
        PlaceFailure("node", "gpu a"), PlaceFailure("rendezvous"), PlaceFailure("node", "n2"),
    ]  # fmt: skip
    assert place_failures(store, "0001", 4) == []
