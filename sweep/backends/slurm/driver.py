"""A sweep at a place of kind `slurm`: units become tasks of array jobs, the store says what became of them.

No driver has to live: tasks decide, stop and requeue themselves by the store. Following them is reading.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa

from mixsweep.cluster.places import Place
from mixsweep.cluster.slurm import client as slurm
from mixsweep.cluster.slurm.client import QueuedTask
from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import UserError
from mixsweep.core.execution.remaining import read_info, remaining
from mixsweep.core.store.lease import take_lease
from mixsweep.core.store.store import SweepStore, TrialInfo
from mixsweep.sweep.backends.base import SweepRun
from mixsweep.sweep.backends.slurm.array_task import run_task
from mixsweep.sweep.backends.slurm.exit_status import JobExits, failing_nodes
from mixsweep.sweep.backends.slurm.job_request import SlurmBackendError, group, request_for
from mixsweep.sweep.backends.slurm.job_tracker import LostTrials, PendingWatch
from mixsweep.sweep.backends.slurm.ray_in_job import run_ray_in_job
from mixsweep.sweep.backends.slurm.submissions import (
    Submission,
    assigned_trials,
    jobs_path,
    next_submission_id,
    save_submission,
    save_trials,
    submission_folder,
    submissions,
    tasks_in_queue,
)

_FIRST_POLL_SECONDS = 1.0
_LONGEST_POLL_SECONDS = 30.0
_COST_FACTOR = 10.0  # a poll takes a tenth of the time at most, short of the longest interval
_TICK_SECONDS = 0.5

_GIVE_UP_SECONDS = 1800.0  # of a scheduler or a file server that does not answer


class ArrayDriver:
    """One command's sweep at a scheduler: submits what nobody has, and follows it.

    Args:
        sweep_run: what the command asks for.
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
        self._done: set[str] = set()  # within one command, what is done stays done
        self._has_read_store = False

    def submit_unassigned(self) -> list[Submission]:
        """Submit the trials that are left and that no live task has.

        Raises:
            slurm.SlurmError: the scheduler refused; nothing of this is left in its queue.
        """
        with self._submit_lock():
            poll = self._poll()
            # A task of ours that is about to end may still hold some: the new ones wait for them.
            return self._submit([*poll.unassigned, *poll.leaving])

    def follow(self) -> None:
        """Wait until nothing is left, and submit anew what was lost.

        Raises:
            SlurmBackendError: all that is left ended again and again without a word in the store, or a task can never
                start; or the scheduler, or the store's file server, has not answered for half an hour.
        """
        say, on_tick = self._callbacks.say, self._callbacks.on_tick
        told = set(self._done)
        interval = _FIRST_POLL_SECONDS
        before: object = None
        silent_since: float | None = None
        suspects: set[str] = set()
        while True:
            began = time.monotonic()
            try:
                poll = self._poll()
                for trial_id in [c.trial_id for c in self._trials if c.trial_id in self._done - told]:
                    if info := self._info(trial_id):
                        told.add(trial_id)
                        self._callbacks.on_end(info)
                self._cancel_unstartable(poll.queue, say)
                # A file server may show an end late: what looks lost is looked at twice.
                unassigned = [config.trial_id for config in poll.unassigned]
                lost = [trial_id for trial_id in unassigned if trial_id in suspects]
                is_new = len(lost) < len(unassigned)
                suspects = set(unassigned)
                stopped = self._stop_requested()
                if lost and not stopped:
                    suspects -= self._submit_anew(lost, poll, say)
                silent_since = None
            except (slurm.SlurmError, OSError) as error:  # so does a file server now and then
                if silent_since is None:
                    say(f"{error}; asking again")
                    silent_since = began
                if began - silent_since > _GIVE_UP_SECONDS:
                    raise SlurmBackendError(
                        f"{error} (for half an hour now); the jobs go on, and the same command follows them again"
                    ) from error
                _wait(_LONGEST_POLL_SECONDS, on_tick)
                continue
            if not poll.left or stopped:
                return
            now = (len(poll.left), sorted((job, task.state) for job, task in poll.queue.items()))
            interval = _FIRST_POLL_SECONDS if now != before or is_new else interval * 1.5
            before = now
            cost = time.monotonic() - began
            _wait(min(max(interval, _COST_FACTOR * cost), _LONGEST_POLL_SECONDS), on_tick)

    def _submit_anew(self, lost: Sequence[str], poll: "_Snapshot", say: Callable[[str], None]) -> set[str]:
        """Submit those of the lost trials for which it is time; return which."""
        due = self._lost_trials.ready(lost, poll.queue, time.monotonic())
        left = [config.trial_id for config in poll.left]
        # Another one's end may still lead on; what never gets anywhere must not hold that up.
        if set(left) <= set(lost) and self._lost_trials.are_given_up(left):
            raise SlurmBackendError(self._lost_trials.describe(left))
        if news := self._lost_trials.new_message(lost):
            say(news)
        if not due:
            return set()
        with self._submit_lock():
            trials = [config for config in self._poll().unassigned if config.trial_id in due]
            self._submit(trials)
        return {config.trial_id for config in trials}

    def _poll(self) -> "_Snapshot":
        """Ask the queue once, and read each trial that is not done once."""
        maybe = {config.trial_id for config in self._left()}
        asked = [s for s in submissions(self._store) if s.trial_ids & maybe]
        if any(not submission.job_id for submission in asked):
            asked = self._with_ids(asked)
        # The queue first, then the store: a task that the queue no longer has has said its last word there.
        queue = tasks_in_queue(asked, self._store)
        infos = {config.trial_id: self._info(config.trial_id) for config in self._left()}
        if self._exits.record(filter(None, infos.values()), queue):
            infos = {config.trial_id: self._info(config.trial_id) for config in self._left()}
        left = self._left(infos)
        have = assigned_trials(asked, queue, self._store)
        unassigned, leaving = [], []
        for config in left:
            info = infos[config.trial_id]
            if config.trial_id in have:
                continue
            if info is None or info.state != "running":
                unassigned.append(config)
            elif info.attempts[-1].job:
                leaving.append(config)
        return _Snapshot(left, queue, unassigned, leaving)

    def _with_ids(self, asked: Sequence[Submission]) -> list[Submission]:
        """Find the jobs of a command that was killed before it had written their ids down."""
        jobs = slurm.jobs_by_folder()
        found = []
        for submission in asked:
            folder = str(submission_folder(self._store, submission.submission_id))
            if not submission.job_id and folder in jobs:
                submission = replace(submission, job_id=jobs[folder])
                save_submission(self._store, submission)
            found.append(submission)
        return found

    @contextmanager
    def _submit_lock(self) -> Iterator[None]:
        """One command at a time looks at what nobody has and submits it."""
        while (lease := take_lease(jobs_path(self._store))) is None:
            time.sleep(_TICK_SECONDS)
        with lease:
            yield

    def _submit(self, trials: Sequence[TrialConfig]) -> list[Submission]:
        if not trials:
            return []
        place = self._slurm
        infos = [i for config in self._trials if (i := self._info(config.trial_id)) is not None]
        attempts = {info.trial_id: len(info.attempts) for info in infos}
        where = self._place.name
        failing = {*failing_nodes(infos, where), *self._lost_trials.suspect_nodes(infos, where)}
        request = request_for(self._spec.name, place, self._spec.resources, tuple(sorted(failing)))
        slurm.check_partition(place)
        allowed = slurm.read_limits(place)
        in_one_job = place.launch == "ray"
        tasks = group(
            [config.trial_id for config in trials], len(trials) if in_one_job else place.trials_per_task
        )
        at_once = place.trials_per_node if in_one_job else 1
        worker = self._worker_spec.with_run_config(
            cpus=request.cpus // at_once, gpus=float(request.gpus // at_once)
        )
        made: list[Submission] = []
        for first in range(0, len(tasks), allowed.array_tasks):
            submission = Submission(
                submission_id=next_submission_id(self._store),
                place=self._place.name,
                tasks=tasks[first : first + allowed.array_tasks],
                worker=worker.to_mapping(),
                exclude=request.exclude,
                minutes=place.time,
                warning_seconds=place.warning_seconds,
                kill_wait_seconds=allowed.kill_wait_seconds,
            )
            # Both before any of its tasks can start.
            ids = submission.trial_ids
            of_these = [config for config in trials if config.trial_id in ids]
            save_trials(self._store, submission.submission_id, of_these)
            save_submission(self._store, submission)
            folder = submission_folder(self._store, submission.submission_id)
            made_of = str(self._store.path.absolute()), submission.submission_id
            calls = [partial(run_task, *made_of, index) for index in range(len(submission.tasks))]
            if in_one_job:
                calls = [partial(run_ray_in_job, *made_of)]
            try:
                job_id = slurm.submit(place, request, calls, folder)
            except slurm.SlurmError:
                shutil.rmtree(folder)
                slurm.cancel(one.job_id for one in made)
                raise
            made.append(replace(submission, job_id=job_id))
            save_submission(self._store, made[-1])
        for submission in made:
            self._lost_trials.submitted(submission, attempts)
        return made

    def _cancel_unstartable(self, queue: Mapping[str, QueuedTask], say: Callable[[str], None]) -> None:
        """End what was accepted but can never run, instead of waiting for ever; tell of what is held."""
        now = time.monotonic()
        self._pending.update(queue, now)
        if stuck := self._pending.unstartable(now):
            slurm.cancel(stuck, waiting_only=True)
            job, reason = next(iter(stuck.items()))
            raise SlurmBackendError(f"job {job} can never start: {reason} (squeue); cancelled")
        for line in self._pending.new_messages(now):
            say(line)

    def _left(self, infos: Mapping[str, TrialInfo | None] | None = None) -> list[TrialConfig]:
        left = [config for config in self._trials if config.trial_id not in self._done]
        if infos is not None or not self._has_read_store:
            self._has_read_store = True
            still = {c.trial_id for c in remaining(left, self._store, self._run_config, infos)}
            self._done.update(c.trial_id for c in left if c.trial_id not in still)
            left = [config for config in left if config.trial_id in still]
        return left

    def _attempts_of(self, trial_id: str) -> int:
        info = self._info(trial_id)
        return len(info.attempts) if info is not None else 0

    def _info(self, trial_id: str) -> TrialInfo | None:
        return read_info(self._store, trial_id)


@dataclass(frozen=True)
class _Snapshot:
    """A command's trials and jobs, as one poll found them.

    `unassigned` trials are left and nobody has them; `leaving` ones are held by a task that will not go on.
    """

    left: list[TrialConfig]
    queue: dict[str, QueuedTask]
    unassigned: list[TrialConfig]
    leaving: list[TrialConfig]


def cancel_waiting(store: SweepStore) -> int:
    """Cancel a sweep's tasks that wait in the queue, and no others; return how many there were."""
    queue = tasks_in_queue(list(submissions(store)), store)
    waiting = [task_id for task_id, task in queue.items() if task.is_waiting]
    slurm.cancel({task_id.partition("_")[0] for task_id in waiting}, waiting_only=True)
    return len(waiting)


def queue_counts(store: SweepStore) -> dict[str, int]:
    """A sweep's live tasks by their state in the queue; of those that are held, with the reason."""
    tasks = tasks_in_queue(list(submissions(store)), store).values()
    return dict(Counter(f"held ({t.reason})" if t.is_held else t.state.lower() for t in tasks if t.is_live))


def _wait(seconds: float, on_tick: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError, UserError, pa.ArrowInvalid):  # a view that fails must not end the following
            on_tick()
        time.sleep(_TICK_SECONDS)
