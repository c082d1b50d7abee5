"""State that a command which follows its tasks keeps between polls: stuck pending tasks, and lost trials."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mixsweep.cluster.slurm.client import NEVER_STARTING_REASONS, QueuedTask
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.sweep.backends.slurm.submissions import Submission, submission_folder

_MAX_FAILURES = (
    3  # after this many tasks in a row without an attempt a trial is given up, once no other is left
)
_FIRST_DELAY_SECONDS = 30.0
_LONGEST_DELAY_SECONDS = 3600.0

# Final states of a task for which its node may be at fault: a missing mount, a Python that does not start there.
_BLAMED_STATES = {"FAILED", "NODE_FAIL", "BOOT_FAIL"}

# A task counts as held or unstartable after it has shown that for this long: some show it for a moment, as with one
# of several partitions.
_CONFIRM_SECONDS = 60.0


class PendingWatch:
    """Pending tasks that are held or can never start, and since when."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], float] = {}  # by task and reason
        self._reported: set[tuple[str, str]] = set()

    def update(self, queue: Mapping[str, QueuedTask], now: float) -> None:
        """Note which tasks of the queue are held or can never start."""
        waiting = [
            (task_id, task.reason)
            for task_id, task in queue.items()
            if task.is_held or (task.state == "PENDING" and task.reason in NEVER_STARTING_REASONS)
        ]
        self._since = {key: self._since.get(key, now) for key in waiting}

    def unstartable(self, now: float) -> dict[str, str]:
        """The tasks that can never start, with their reasons."""
        return {
            task_id: reason for task_id, reason in self._confirmed(now) if reason in NEVER_STARTING_REASONS
        }

    def new_messages(self, now: float) -> list[str]:
        """A line for each job with held tasks that was not reported before."""
        held = Counter(
            (task_id.partition("_")[0], reason)
            for task_id, reason in self._confirmed(now)
            if reason not in NEVER_STARTING_REASONS
        )
        new = {key: count for key, count in held.items() if key not in self._reported}
        self._reported = set(held)
        return [
            f"job {job}: {count} of its tasks held ({reason}); "
            + ("its cluster's administrators hold it" if "Admin" in reason else f"scontrol release {job}")
            for (job, reason), count in new.items()
        ]

    def _confirmed(self, now: float) -> list[tuple[str, str]]:
        return [key for key, since in self._since.items() if now - since >= _CONFIRM_SECONDS]


@dataclass(frozen=True)
class _SubmittedTask:
    """A task of a submission, and the number of attempts that its trials had before."""

    submission_id: str
    task_id: str
    trials: tuple[str, ...]
    attempts: int


class LostTrials:
    """Trials whose tasks ended without recording an attempt: how often in a row, and when to submit them again.

    A task that works records an attempt of one of its trials before it trains anything.

    Args:
        store: the sweep's.
        attempts_of: returns the number of attempts that the store has of a trial.
    """

    def __init__(self, store: SweepStore, attempts_of: Callable[[str], int]):
        self._store = store
        self._attempts_of = attempts_of
        self._newest: dict[str, _SubmittedTask] = {}  # the newest task of each trial
        self._counted: set[str] = set()  # trials whose newest task has been counted
        self._failures: dict[str, int] = {}  # tasks in a row without an attempt, by trial
        self._ready_at: dict[str, float] = {}
        self._reported: set[str] = set()
        self._suspects: set[str] = set()

    def note_submission(self, submission: Submission, attempts: Mapping[str, int]) -> None:
        """Note an accepted submission, and the number of attempts that its trials had before."""
        for index, trials in enumerate(submission.tasks):
            before = sum(attempts.get(trial_id, 0) for trial_id in trials)
            task = _SubmittedTask(submission.submission_id, submission.task_id(index), trials, before)
            self._newest |= dict.fromkeys(trials, task)
            self._counted.difference_update(trials)

    def ready(self, lost: Iterable[str], queue: Mapping[str, QueuedTask], now: float) -> set[str]:
        """The lost trials to submit now: at once after the first failure, then with growing delays."""
        lost = list(lost)
        has_new_attempt: dict[str, bool] = {}  # by task, so that the store is read once per task
        for trial_id in lost:
            task = self._newest.get(trial_id)
            if task is None or trial_id in self._counted:
                continue
            if task.task_id not in has_new_attempt:
                has_new_attempt[task.task_id] = sum(map(self._attempts_of, task.trials)) > task.attempts
            self._count_end(trial_id, task, has_new_attempt[task.task_id], queue.get(task.task_id), now)
        return {trial_id for trial_id in lost if now >= self._ready_at.get(trial_id, now)}

    def are_given_up(self, trial_ids: Iterable[str]) -> bool:
        """Whether all of these trials have failed too often."""
        return all(self._failures.get(trial_id, 0) >= _MAX_FAILURES for trial_id in trial_ids)

    def new_message(self, lost: Iterable[str]) -> str:
        """A line about repeatedly lost trials that were not reported before; '' for none."""
        new = [
            trial_id
            for trial_id in lost
            if self._failures.get(trial_id, 0) > 1 and trial_id not in self._reported
        ]
        if not new:
            return ""
        self._reported.update(new)
        return f"{self.describe(new)}; submitting again, with growing delays"

    def describe(self, trial_ids: Sequence[str]) -> str:
        """A line on how these trials were lost, with the last output of the first one's task."""
        first, *others = trial_ids
        more = f" (and {len(others)} more)" if others else ""
        times, output = self._failures.get(first, 0), self._output(first)
        return f"the task of trial {first}{more} ended {times} times without recording an attempt: {output}"

    def suspect_nodes(self, infos: Iterable[TrialInfo], place: str) -> tuple[str, ...]:
        """Nodes on which tasks were lost, if other nodes of the place are known to work; else none."""
        attempts = [attempt for info in infos for attempt in info.attempts]
        working = {attempt.host for attempt in attempts if attempt.place == place and attempt.job}
        return tuple(sorted(self._suspects)) if working - self._suspects else ()

    def _count_end(
        self, trial_id: str, task: _SubmittedTask, has_attempt: bool, end: QueuedTask | None, now: float
    ) -> None:
        """Count the end of a trial's newest task once, and set the delay before its next."""
        self._counted.add(trial_id)
        if has_attempt:
            self._failures.pop(trial_id, None)
            self._ready_at.pop(trial_id, None)
            return
        failures = self._failures[trial_id] = self._failures.get(trial_id, 0) + 1
        delay = _FIRST_DELAY_SECONDS * 2.0 ** min(failures - 2, 16) if failures > 1 else 0.0
        self._ready_at[trial_id] = now + min(delay, _LONGEST_DELAY_SECONDS)
        if end is not None and end.state in _BLAMED_STATES and end.node and not set(end.node) & set("[,"):
            self._suspects.add(end.node)

    def _output(self, trial_id: str) -> str:
        task = self._newest[trial_id]
        files = sorted(submission_folder(self._store, task.submission_id).glob(f"{task.task_id}_*.out"))
        if not files:
            return "it left no output; does every node see the store?"
        lines = [line for line in files[0].read_text(errors="replace").splitlines() if line.strip()]
        return f"{lines[-1] if lines else 'no output'} ({files[0]})"
