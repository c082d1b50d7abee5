"""Submit a sweep's trials as array tasks, and follow them.

Tasks need no driver: they stop and requeue themselves by what the store says. Following only reads the queue and the
store, and submits again what was lost.
"""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import pyarrow as pa

from mixsweep.cluster.places import Place
from mixsweep.cluster.slurm import client as slurm
from mixsweep.cluster.slurm.client import JobRequest, QueuedTask
from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import UserError
from mixsweep.core.execution.remaining import read_info, remaining
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.store.trial.lease import take_lease
from mixsweep.sweep.backends.base import SweepRun
from mixsweep.sweep.backends.slurm.exit_status import JobExits, failing_nodes
from mixsweep.sweep.backends.slurm.job_request import SlurmBackendError, group, job_module, request_for
from mixsweep.sweep.backends.slurm.job_tracker import LostTrials, PendingWatch
from mixsweep.sweep.backends.slurm.packing import Packing, choose_packing
from mixsweep.sweep.backends.slurm.submissions import (
    Submission,
    assigned_trials,
    jobs_path,
    next_submission_id,
    save_submission,
    save_token,
    save_trials,
    submission_folder,
    submissions,
    tasks_in_queue,
)
from mixsweep.sweep.planning.forecast import RemainingWork

_log = logging.getLogger(__name__)

_FIRST_POLL_SECONDS = 1.0
_LONGEST_POLL_SECONDS = 30.0
_COST_FACTOR = 10.0  # polls take at most a tenth of the time, up to the longest interval
_TICK_SECONDS = 0.5

_GIVE_UP_SECONDS = 1800.0  # without an answer of the scheduler or the file server


class ArrayDriver:
    """Submits the unassigned trials of one command, and follows its tasks.

    Args:
        sweep_run: the command's run.
        place: of kind `slurm`.
    """

    def __init__(self, sweep_run: SweepRun, place: Place):
        assert place.slurm is not None
        self._spec = sweep_run.plan.spec
        self._place = place
        self._slurm = place.slurm
        self._trials = sweep_run.trials
        self._worker_spec = sweep_run.worker_spec
        self._callbacks = sweep_run.callbacks
        self._stop_requested = sweep_run.stop_requested
        self._run_config = sweep_run.worker_spec.run_config
        self._store = sweep_run.store
        self._exits = JobExits(self._store)
        self._pending = PendingWatch()
        self._lost_trials = LostTrials(self._store, self._attempts_of)
        self._done: set[str] = set()  # ids of done trials; they stay done within one command
        self._has_read_store = False

    def submit_unassigned(self) -> list[Submission]:
        """Submit the trials that are left and assigned to no live task; return the submissions.

        Raises:
            slurm.SlurmError: the scheduler refused; nothing of this call stays queued.
        """
        with self._submit_lock():
            poll = self._poll()
            # An ending task may still hold the leases of `leaving` trials; the new tasks wait for them.
            return self._submit([*poll.unassigned, *poll.leaving])

    def follow(self) -> None:
        """Wait until no trial is left; submit lost trials again.

        Raises:
            SlurmBackendError: the tasks of all trials that are left ended repeatedly without recording an attempt, or
                a task can never start, or the scheduler or file server has not answered for half an hour.
        """
        say, on_tick = self._callbacks.say, self._callbacks.on_tick
        reported = set(self._done)
        interval = _FIRST_POLL_SECONDS
        before: object = None
        silent_since: float | None = None
        suspects: set[str] = set()
        while True:
            began = time.monotonic()
            try:
                poll = self._poll()
                for trial_id in [c.trial_id for c in self._trials if c.trial_id in self._done - reported]:
                    if info := self._info(trial_id):
                        reported.add(trial_id)
                        self._callbacks.on_end(info)
                self._cancel_unstartable(poll.queue, say)
                # A file server may show an end late: a trial counts as lost once two polls in a row find it so.
                unassigned = [config.trial_id for config in poll.unassigned]
                lost = [trial_id for trial_id in unassigned if trial_id in suspects]
                is_new = len(lost) < len(unassigned)
                suspects = set(unassigned)
                stopped = self._stop_requested()
                if lost and not stopped:
                    suspects -= self._resubmit(lost, poll, say)
                silent_since = None
            except (slurm.SlurmError, OSError) as error:  # a file server may fail for a while too
                if silent_since is None:
                    say(f"{error}; asking again")
                    silent_since = began
                if began - silent_since > _GIVE_UP_SECONDS:
                    raise SlurmBackendError(
                        f"{error} (for half an hour now); the jobs keep running; the same command follows them again"
                    ) from error
                _wait(_LONGEST_POLL_SECONDS, on_tick)
                continue
            if not poll.left or stopped:
                return
            now = (len(poll.left), sorted((job, task.state) for job, task in poll.queue.items()))
            interval = _FIRST_POLL_SECONDS if now != before or is_new else interval * 1.5
            before = now
            _log.debug(
                "%d trials left, %d tasks in the queue; next poll in %.0f s",
                len(poll.left),
                len(poll.queue),
                interval,
            )
            cost = time.monotonic() - began
            _wait(min(max(interval, _COST_FACTOR * cost), _LONGEST_POLL_SECONDS), on_tick)

    def _resubmit(self, lost: Sequence[str], poll: "_Snapshot", say: Callable[[str], None]) -> set[str]:
        """Submit the lost trials whose delay is over; return their ids."""
        ready = self._lost_trials.ready(lost, poll.queue, time.monotonic())
        left = [config.trial_id for config in poll.left]
        # Given up only when nothing else is left: until then the end of another trial's task may be progress.
        if set(left) <= set(lost) and self._lost_trials.are_given_up(left):
            raise SlurmBackendError(self._lost_trials.describe(left))
        if message := self._lost_trials.new_message(lost):
            say(message)
        if not ready:
            return set()
        with self._submit_lock():
            trials = [config for config in self._poll().unassigned if config.trial_id in ready]
            self._submit(trials)
        return {config.trial_id for config in trials}

    def _poll(self) -> "_Snapshot":
        """Query the queue once, and read each trial that is not done once."""
        ids = {config.trial_id for config in self._left()}
        relevant = [s for s in submissions(self._store) if s.trial_ids & ids]
        if any(not submission.job_id for submission in relevant):
            relevant = self._with_job_ids(relevant)
        # The queue before the store: a task that has left the queue has finished writing the store.
        queue = tasks_in_queue(relevant, self._store)
        infos = {config.trial_id: self._info(config.trial_id) for config in self._left()}
        if self._exits.record(filter(None, infos.values()), queue):
            infos = {config.trial_id: self._info(config.trial_id) for config in self._left()}
        left = self._left(infos)
        assigned = assigned_trials(relevant, queue, self._store)
        unassigned, leaving = [], []
        for config in left:
            info = infos[config.trial_id]
            if config.trial_id in assigned:
                continue
            if info is None or info.state != "running":
                unassigned.append(config)
            elif info.attempts[-1].job:
                leaving.append(config)
        return _Snapshot(left, queue, unassigned, leaving)

    def _with_job_ids(self, found: Sequence[Submission]) -> list[Submission]:
        """Complete submissions of a command that was killed before it saved their job ids."""
        jobs = slurm.jobs_by_folder()
        completed = []
        for submission in found:
            folder = str(submission_folder(self._store, submission.submission_id))
            if not submission.job_id and folder in jobs:
                submission = replace(submission, job_id=jobs[folder])
                save_submission(self._store, submission)
            completed.append(submission)
        return completed

    @contextmanager
    def _submit_lock(self) -> Iterator[None]:
        """Let one command at a time determine the unassigned trials and submit them."""
        while (lease := take_lease(jobs_path(self._store))) is None:
            time.sleep(_TICK_SECONDS)
        with lease:
            yield

    def _submit(self, trials: Sequence[TrialConfig]) -> list[Submission]:
        """Submit trials, in as many array jobs as the cluster's limit requires."""
        if not trials:
            return []
        place = self._slurm
        infos = [i for config in self._trials if (i := self._info(config.trial_id)) is not None]
        attempts = {info.trial_id: len(info.attempts) for info in infos}
        where = self._place.name
        failing = {*failing_nodes(infos, where), *self._lost_trials.suspect_nodes(infos, where)}
        request = request_for(self._spec.name, place, self._spec.resources, tuple(sorted(failing)))
        slurm.check_partition(place)
        limits = slurm.read_limits(place)
        in_one_job = place.launch == "ray"
        tasks = group(
            [config.trial_id for config in trials],
            len(trials) if in_one_job else self._packing(request, trials).trials_per_task,
        )
        at_once = place.trials_per_node if in_one_job else 1
        worker = self._worker_spec.with_copy().with_run_config(
            cpus=request.cpus // at_once, gpus=float(request.gpus // at_once)
        )
        submitted: list[Submission] = []
        for first in range(0, len(tasks), limits.array_tasks):
            submission = Submission(
                submission_id=next_submission_id(self._store),
                place=self._place.name,
                tasks=tasks[first : first + limits.array_tasks],
                worker=worker.to_mapping(),
                exclude=request.exclude,
                minutes=place.time,
                warning_seconds=place.warning_seconds,
                kill_wait_seconds=limits.kill_wait_seconds,
            )
            # Both files must exist before a task starts.
            ids = submission.trial_ids
            of_these = [config for config in trials if config.trial_id in ids]
            save_trials(self._store, submission.submission_id, of_these)
            save_submission(self._store, submission)
            folder = submission_folder(self._store, submission.submission_id)
            if worker.run_config.ranks > 1:
                save_token(self._store, submission.submission_id)
            module = job_module(place, self._store, submission.submission_id)
            try:
                job_id = slurm.submit(place, request, module, folder, tasks=len(submission.tasks))
            except slurm.SlurmError:
                shutil.rmtree(folder)
                slurm.cancel(earlier.job_id for earlier in submitted)
                raise
            submitted.append(replace(submission, job_id=job_id))
            save_submission(self._store, submitted[-1])
        for submission in submitted:
            self._lost_trials.note_submission(submission, attempts)
        return submitted

    def _packing(self, request: JobRequest, trials: Sequence[TrialConfig]) -> Packing:
        work = [RemainingWork(config, self._epochs_left(config)) for config in trials]
        return choose_packing(self._slurm, request, work, self._store.path.parent)

    def _epochs_left(self, config: TrialConfig) -> int:
        info = self._info(config.trial_id)
        return max(1, config.epochs - max(config.begins_after, info.epoch if info else 0))

    def _cancel_unstartable(self, queue: Mapping[str, QueuedTask], say: Callable[[str], None]) -> None:
        """Cancel tasks that can never start, and raise; say which jobs are held."""
        now = time.monotonic()
        self._pending.update(queue, now)
        if stuck := self._pending.unstartable(now):
            slurm.cancel(stuck, waiting_only=True)
            job, reason = next(iter(stuck.items()))
            raise SlurmBackendError(f"job {job} can never start: {reason} (squeue); cancelled")
        for line in self._pending.new_messages(now):
            say(line)

    def _left(self, infos: Mapping[str, TrialInfo | None] | None = None) -> list[TrialConfig]:
        """The trials that are not done, by `infos` if given."""
        left = [config for config in self._trials if config.trial_id not in self._done]
        if infos is not None or not self._has_read_store:
            self._has_read_store = True
            undone = {c.trial_id for c in remaining(left, self._store, self._run_config, infos)}
            self._done.update(c.trial_id for c in left if c.trial_id not in undone)
            left = [config for config in left if config.trial_id in undone]
        return left

    def _attempts_of(self, trial_id: str) -> int:
        info = self._info(trial_id)
        return len(info.attempts) if info is not None else 0

    def _info(self, trial_id: str) -> TrialInfo | None:
        return read_info(self._store, trial_id)


@dataclass(frozen=True)
class _Snapshot:
    """A command's trials and tasks at one poll.

    `unassigned` trials are left and no process has them; `leaving` ones are held by a task that is ending.
    """

    left: list[TrialConfig]
    queue: dict[str, QueuedTask]
    unassigned: list[TrialConfig]
    leaving: list[TrialConfig]


def cancel_waiting(store: SweepStore) -> int:
    """Cancel those of a sweep's tasks that are pending or held; return how many."""
    queue = tasks_in_queue(list(submissions(store)), store)
    waiting = [task_id for task_id, task in queue.items() if task.is_waiting]
    slurm.cancel({task_id.partition("_")[0] for task_id in waiting}, waiting_only=True)
    return len(waiting)


def queue_counts(store: SweepStore) -> dict[str, int]:
    """The number of a sweep's live tasks by queue state; held ones with the reason."""
    tasks = tasks_in_queue(list(submissions(store)), store).values()
    return dict(Counter(f"held ({t.reason})" if t.is_held else t.state.lower() for t in tasks if t.is_live))


def _wait(seconds: float, on_tick: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(
            OSError, UserError, pa.ArrowInvalid
        ):  # a live view that fails must not end the following
            on_tick()
        time.sleep(_TICK_SECONDS)
