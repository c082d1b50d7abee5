"""Run one array task inside its SLURM job: train its trials, requeue the job where time or a node runs out."""

import time
from collections.abc import Sequence

from mixsweep.cluster.slurm import job_environment
from mixsweep.cluster.slurm.job_environment import JobSignals
from mixsweep.core.config import TrialConfig
from mixsweep.core.execution.remaining import read_info, remaining
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.failures import INTERRUPTIONS, Interruption
from mixsweep.core.records import Record
from mixsweep.core.store.stops import stopped_at
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import Attempt
from mixsweep.core.store.trial.lease import HEARTBEAT_SECONDS, STALE_SECONDS
from mixsweep.sweep.backends.slurm.requeues import nodes_to_exclude, record_error, requeue, requeue_reason
from mixsweep.sweep.backends.slurm.submissions import (
    Submission,
    read_submission,
    read_token,
    trials_as_submitted,
)
from mixsweep.sweep.planning.plan import read_plan, trials_of
from mixsweep.sweep.runtime.worker import WorkerSpec, run_trials

_LEASE_POLL_SECONDS = 2.0


def run_task(store_path: str, submission_id: str, index: int) -> None:
    """Run one task of a submission inside its job.

    Where time runs out or the job is preempted, the trial is paused at its checkpoint and the job is requeued;
    where a device is broken, it is requeued without this node.
    """
    store = SweepStore(store_path)
    submission = read_submission(store, submission_id)
    if submission.run_config.ranks > 1 and not job_environment.export_rank_variables(
        read_token(store, submission_id)
    ):
        job_environment.ignore_warnings()  # rank 0 acts on them
        _follow_rank_0(store, submission, index)
        return
    reason = ""  # why the job must be requeued
    ends_at = job_environment.ends_at(submission.minutes)
    with JobSignals(
        ends_at, submission.warning_seconds, submission.kill_wait_seconds, until_exit=True
    ) as signals:
        try:
            trials, worker_spec = load_work(store, submission, submission.tasks[index])
            policy = PausePolicy(store, worker_spec.run_config, signals)
            _check_device(submission)
            _work_and_wait(worker_spec, trials, policy)
            reason = policy.reason if remaining(trials, store, worker_spec.run_config) else ""
        except Interruption as interruption:  # the store has recorded it
            reason = interruption.reason
        except Exception as error:
            reason = requeue_reason(error, store, submission, index)
            if not reason:
                raise
            print(f"{reason}: {error}", flush=True)
    if reason:
        requeue(reason, exclude=nodes_to_exclude(store, submission, index))


class PausePolicy:
    """Decides when a trial pauses: by warning signals, the time left for one more epoch, and stop requests.

    `reason` is why the job must be requeued, or ''.
    """

    def __init__(self, store: SweepStore, run_config: RunConfig, signals: JobSignals):
        self._store = store
        self._run_config = run_config
        self._signals = signals
        self._trainable = store.trainable
        self._epoch_seconds = 0.0
        self.reason = ""

    def record(self, record: Record) -> None:
        """Estimate the time of the next epoch from this one."""
        self._epoch_seconds = self._trainable.next_record_seconds(record)

    def pause(self) -> str:
        """The reason to pause, '' for none; called after each epoch and before each trial."""
        if self._run_config.stop_requested():
            return "interrupted"
        self.reason = self._signals.reason
        if not self.reason and self._epoch_seconds:
            needed = self._epoch_seconds + job_environment.MARGIN_SECONDS
            self.reason = "timeout" if self._signals.seconds_left < needed else ""
        return self.reason


def load_work(
    store: SweepStore, submission: Submission, trial_ids: Sequence[str]
) -> tuple[tuple[TrialConfig, ...], WorkerSpec]:
    """Trials of a submission, and the worker spec that trains them in this job.

    The worker spec is that of the submission. The epochs come from the plan that the store has now, since a later
    command may have extended a trial; a trial that is no longer in the plan is trained as submitted.
    """
    planned = {config.trial_id: config for config in trials_of(read_plan(store))}
    submitted = trials_as_submitted(store, submission.submission_id)
    known = planned if planned.keys() >= set(trial_ids) else submitted | planned
    trials = tuple(_longest(submitted[trial_id], known[trial_id]) for trial_id in trial_ids)
    epochs = {config.trial_id: config.epochs for config in (*known.values(), *trials)}
    worker_spec = WorkerSpec.from_mapping(submission.worker, epochs).with_run_config(
        store=store.path,
        host=job_environment.node_name(),
        job=job_environment.job_id(),
        restarts=job_environment.restarts(),
    )
    return trials, worker_spec


def _longest(*configs: TrialConfig) -> TrialConfig:
    return max(configs, key=lambda config: config.epochs)


def _follow_rank_0(store: SweepStore, submission: Submission, index: int) -> None:
    """Train as one of the other ranks; rank 0 writes the store and requeues the job."""
    from mixsweep.core.failures import RankError, end_of

    trials, worker_spec = load_work(store, submission, submission.tasks[index])
    try:
        for _ in run_trials(worker_spec, trials):
            pass  # only rank 0 yields
    except Exception as error:
        if end_of(error) == "node" and not isinstance(error, RankError):
            record_error(error, store, submission, index)
        if end_of(error) not in INTERRUPTIONS:  # rank 0 handles those
            raise


def _check_device(submission: Submission) -> None:
    """Check that an allocated GPU works; on the CPU a trial would take far too long."""
    from mixsweep.core.training.device import choose_device

    gpus = submission.run_config.gpus
    if gpus and choose_device(gpus).type == "cpu":
        raise RuntimeError(
            f"CUDA error: {gpus:g} GPUs were allocated on {job_environment.node_name()}, none works"
        )


def _work_and_wait(worker_spec: WorkerSpec, trials: Sequence[TrialConfig], policy: PausePolicy) -> None:
    """Run the free trials; wait for held ones until their leases would be stale or this task has to pause."""
    store = SweepStore(worker_spec.run_config.store)
    patience = STALE_SECONDS + HEARTBEAT_SECONDS
    has_ranks = (
        worker_spec.run_config.ranks > 1
    )  # ranks start their work together and only once, so rank 0 waits before it
    while True:
        holders = _other_holders(trials, store, worker_spec.run_config)
        waits = bool(holders) and patience > 0 and not policy.pause()
        if not (has_ranks and waits):
            for _ in run_trials(worker_spec, trials, policy.record, policy.pause):
                patience = STALE_SECONDS + HEARTBEAT_SECONDS
            holders = _other_holders(trials, store, worker_spec.run_config)
            if has_ranks or not holders or patience <= 0 or policy.pause():
                return
        time.sleep(_LEASE_POLL_SECONDS)
        if not any(
            attempt.started_at < stopped_at(store.path) for attempt in holders
        ):  # they are about to stop
            patience -= _LEASE_POLL_SECONDS


def _other_holders(trials: Sequence[TrialConfig], store: SweepStore, run_config: RunConfig) -> list[Attempt]:
    """The running attempts of other processes at the trials that are left."""
    infos = (read_info(store, config.trial_id) for config in remaining(trials, store, run_config))
    return [info.attempts[-1] for info in infos if info is not None and info.state == "running"]
