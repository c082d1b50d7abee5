"""The real ArrayDriver against a fake scheduler, on a clock that the test moves."""

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mixsweep.cluster.places import Place, SlurmPlace
from mixsweep.cluster.slurm import client as slurm
from mixsweep.cluster.slurm.client import JobRequest, QueuedTask, SlurmError, SlurmLimits
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import Attempt, TrialInfo
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.sweep.backends.base import Callbacks, SweepRun
from mixsweep.sweep.backends.slurm.array_task import load_work, run_task
from mixsweep.sweep.backends.slurm.driver import ArrayDriver, cancel_waiting, queue_counts
from mixsweep.sweep.backends.slurm.job_request import SlurmBackendError
from mixsweep.sweep.backends.slurm.submissions import read_submission, save_submission
from mixsweep.sweep.planning.parse import load_spec
from mixsweep.sweep.planning.plan import Plan, make_plan, save_plan
from mixsweep.sweep.runtime.worker import make_worker_spec
from tests.support.trials import change_info

SWEEP = """
name = "followed"
question = "Is it followed?"
seeds = 1
[base]
model = "mlp"
dataset = "digits"
train_limit = 256
valid_limit = 100
epochs = 4
[space]
hidden = {{ grid_search = [{widths}] }}
"""

RUNNING = QueuedTask("RUNNING", "None", "n1")
FAILED = QueuedTask("FAILED", "NonZeroExitCode", "n7")


class TooLongError(Exception):
    """The clock has passed its end."""


@dataclass
class Clock:
    """A fake of `time`: sleeping moves it."""

    end: float
    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now > self.end:
            raise TooLongError


@dataclass(frozen=True)
class Job:
    job_id: str
    at: float
    folder: Path
    request: JobRequest


# What squeue shows of a trial's task: by the trial's number in the plan, its job, and the job's age in seconds.
Behaviour = Callable[[int, Job, float], QueuedTask]


@dataclass
class Scheduler:
    """A fake of sbatch, squeue and scancel; `behaviour` sets the states of tasks."""

    store: SweepStore
    plan: Plan
    clock: Clock
    behaviour: Behaviour = lambda number, job, age: RUNNING
    refuses_until: float = -1.0
    jobs: dict[str, Job] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)

    def submit(
        self, place: SlurmPlace, request: JobRequest, module: Sequence[str], folder: Path, *, tasks: int
    ) -> str:
        if self.clock.now < self.refuses_until:
            raise SlurmError("sbatch: Socket timed out on send/recv operation")
        job = Job(str(100 + len(self.jobs)), self.clock.now, folder, request)
        self.jobs[job.job_id] = job
        return job.job_id

    def query_tasks(self, job_ids: Iterable[str]) -> dict[str, QueuedTask]:
        numbers = {config.trial_id: number for number, config in enumerate(self.plan.trials)}
        found = {}
        for job_id in sorted(set(job_ids) & set(self.jobs)):
            job = self.jobs[job_id]
            tasks = read_submission(self.store, job.folder.name).tasks
            for index, trials in enumerate(tasks):
                name = f"{job_id}_{index}" if len(tasks) > 1 else job_id
                task = self.behaviour(numbers[trials[0]], job, self.clock.now - job.at)
                found[name] = replace(task, script=task.script or f"{job.folder}/script.sh")
        return found

    def cancel(self, job_ids: Iterable[str], **options: bool) -> None:
        self.cancelled.extend(job_ids)

    def submissions_of(self, number: int) -> list[Job]:
        """The jobs that a trial was in."""
        trial_id = self.plan.trials[number].trial_id
        return [
            job
            for job in self.jobs.values()
            if trial_id in read_submission(self.store, job.folder.name).trial_ids
        ]


@dataclass
class Following:
    """A command that follows a sweep, with its messages and the trials that ended."""

    store: SweepStore
    plan: Plan
    clock: Clock
    scheduler: Scheduler
    driver: ArrayDriver
    said: list[str]
    ended: list[str]

    def follow(self) -> None:
        self.driver.submit_unassigned()
        self.driver.follow()

    def later_command(self, *settings: str) -> None:
        """Save the plan of a later command, with these settings over the sweep file."""
        save_plan(make_plan(load_spec(str(self.plan.spec.path), settings)), self.store)

    def config(self, number: int) -> ImageConfig:
        return self.plan.trials[number]

    def attempt(
        self, number: int, job: Job, state: str, epoch: int = 0, host: str = "n1", end: str = ""
    ) -> None:
        """Record an attempt of a trial, unless this job has one."""
        folder = self.store.trial(self.config(number).trial_id)
        info = folder.info()
        attempts = info.attempts if info else ()
        if any(attempt.job == job.job_id for attempt in attempts):
            return
        attempt = Attempt(
            number=len(attempts) + 1, place="campus", host=host, pid=1, job=job.job_id, end=end or state
        )
        changed = TrialInfo(
            trial_id=folder.trial_id,
            config=self.config(number),
            state=state,
            epoch=epoch,
            attempts=(*attempts, attempt),
        )
        change_info(folder, changed)

    def completes(self, number: int, job: Job, age: float, seconds: float, host: str = "n1") -> QueuedTask:
        """A task that completes its trial after so many seconds."""
        if age < seconds:
            return QueuedTask("RUNNING", "None", host)
        self.attempt(number, job, "completed", 4, host)
        return QueuedTask("COMPLETED", "None", host)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Following]:
    """Makes a command that follows some trials, on a clock that stops after some seconds."""

    def make(trials: int = 2, seconds: float = 7200, **options: Any) -> Following:
        path = tmp_path / "followed.toml"
        path.write_text(SWEEP.format(widths=", ".join(f"[{8 + n}]" for n in range(trials))))
        plan = make_plan(load_spec(str(path)))
        store = SweepStore(tmp_path / "runs" / "followed")
        save_plan(plan, store)
        clock = Clock(seconds)
        scheduler = Scheduler(store, plan, clock)
        for name in ("submit", "query_tasks", "cancel"):
            monkeypatch.setattr(slurm, name, getattr(scheduler, name))
        monkeypatch.setattr(slurm, "check_partition", lambda place: None)
        monkeypatch.setattr(slurm, "read_limits", lambda place: SlurmLimits(1000, 30))
        monkeypatch.setattr(slurm, "query_final_states", lambda job_ids: {})
        monkeypatch.setattr("mixsweep.sweep.backends.slurm.driver.time", clock)
        run_config = RunConfig(
            store=store.path.absolute(),
            place="campus",
            command_id="this",
            started_at="2026-01-01T00:00:00+00:00",
        )
        place = Place(name="campus", kind="slurm", slurm=SlurmPlace(**{"trials_per_task": 1, **options}))
        said: list[str] = []
        ended: list[str] = []
        sweep_run = SweepRun(
            plan=plan,
            trials=plan.trials,
            worker_spec=make_worker_spec(plan, run_config),
            callbacks=Callbacks(say=said.append, on_end=lambda info: ended.append(info.trial_id)),
        )
        driver = ArrayDriver(sweep_run, place)
        return Following(store, plan, clock, scheduler, driver, said, ended)

    return make


def test_a_task_that_dies_at_each_start_is_reported_once_and_given_up_after_all_others(
    make: Callable[..., Following],
) -> None:
    it = make(trials=2)

    def behave(number: int, job: Job, age: float) -> QueuedTask:
        if number == 0:
            return it.completes(0, job, age, 3600)
        (job.folder / f"{job.job_id}_{'1_' * (job.job_id == '100')}0_log.out").write_text(
            "python: not found\n"
        )
        return FAILED

    it.scheduler.behaviour = behave
    with pytest.raises(
        SlurmBackendError, match=r"times without recording an attempt: python: not found \(.*_log"
    ):
        it.follow()
    assert it.clock.now > 3600
    assert it.ended == [it.config(0).trial_id]
    (line,) = it.said
    assert (
        f"trial {it.config(1).trial_id} ended 2 times without recording an attempt: python: not found" in line
    )
    times = [job.at for job in it.scheduler.submissions_of(1)]
    assert 5 <= len(times) <= 10
    assert times[1] < 10  # at once
    gaps = [after - before for before, after in pairwise(times[1:])]
    assert gaps == sorted(gaps)
    assert 30 <= gaps[0] < 65


def test_a_dying_task_is_submitted_with_growing_delays_while_others_end(
    make: Callable[..., Following],
) -> None:
    it = make(trials=16)
    it.scheduler.behaviour = lambda n, job, age: it.completes(n, job, age, 10 * n) if n else FAILED
    with pytest.raises(SlurmBackendError, match="without recording an attempt"):
        it.follow()
    assert len(it.ended) == 15
    assert len(it.scheduler.submissions_of(0)) <= 5  # in 150 seconds


def test_where_every_task_dies_the_command_ends_soon_and_excludes_no_node(
    make: Callable[..., Following],
) -> None:
    it = make(trials=3)
    it.scheduler.behaviour = lambda number, job, age: FAILED
    with pytest.raises(
        SlurmBackendError, match=r"\(and 2 more\) ended 3 times without recording an attempt: it"
    ):
        it.follow()
    assert it.clock.now < 120
    assert [job.request.exclude for job in it.scheduler.jobs.values()] == [(), (), ()]


def test_a_trial_completes_once_its_node_works_again(make: Callable[..., Following]) -> None:
    it = make(trials=2)
    it.scheduler.behaviour = lambda n, job, age: (
        it.completes(n, job, age, 2000 if n == 0 else 30) if n == 0 or job.at > 200 else FAILED
    )
    it.follow()
    assert set(it.ended) == {config.trial_id for config in it.plan.trials}


def test_a_submission_is_retried_where_the_scheduler_fails_for_minutes(
    make: Callable[..., Following],
) -> None:
    it = make(trials=1)

    def behave(number: int, job: Job, age: float) -> QueuedTask:
        it.scheduler.refuses_until = 300
        return FAILED if job.job_id == "100" else it.completes(number, job, age, 30)

    it.scheduler.behaviour = behave
    it.follow()
    assert it.said == ["sbatch: Socket timed out on send/recv operation; asking again"]
    assert len(it.scheduler.jobs) == 2
    assert it.clock.now < 400


def test_a_node_that_loses_tasks_is_excluded_where_another_works(
    make: Callable[..., Following],
) -> None:
    it = make(trials=3)

    def behave(number: int, job: Job, age: float) -> QueuedTask:
        if number == 0 or "n7" in job.request.exclude:
            return it.completes(number, job, age, 5 if number == 0 else 30)
        if number == 1:  # with several nodes it is unknown which one failed
            return QueuedTask("FAILED", "NonZeroExitCode", "n[8-9]")
        return FAILED if age > 20 else QueuedTask("RUNNING", "None", "n7")

    it.scheduler.behaviour = behave
    it.follow()
    assert {job.request.exclude for job in it.scheduler.submissions_of(1)[:-1]} == {()}
    first, second = it.scheduler.submissions_of(2)
    assert first.request.exclude == ()
    assert second.request.exclude == ("n7",)


def test_trials_behind_one_that_kills_its_task_are_not_given_up(make: Callable[..., Following]) -> None:
    it = make(trials=2, trials_per_task=2)

    def behave(number: int, job: Job, age: float) -> QueuedTask:
        if (
            len(it.scheduler.jobs) <= 4
        ):  # the first trial's process is killed, and the second's turn never comes
            it.attempt(0, job, "interrupted")
            return FAILED
        it.completes(0, job, age, 10)
        return it.completes(1, job, age, 10)

    it.scheduler.behaviour = behave
    it.follow()
    assert len(it.scheduler.jobs) == 5
    assert it.said == []


def test_polling_continues_where_the_file_server_fails_for_a_while(
    make: Callable[..., Following], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = make(trials=2)
    it.scheduler.behaviour = lambda number, job, age: it.completes(number, job, age, 100)
    read_text = Path.read_text

    def fails_for_a_while(path: Path, *words: Any, **options: Any) -> str:
        if 20 < it.clock.now < 40 and path.name == "submission.json":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return read_text(path, *words, **options)

    monkeypatch.setattr(Path, "read_text", fails_for_a_while)
    it.follow()
    assert len(it.ended) == 2
    (line,) = it.said
    assert "Stale file handle" in line
    assert line.endswith("; asking again")


def test_following_ends_where_the_file_server_fails_for_half_an_hour(
    make: Callable[..., Following], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = make(trials=1)

    read_text = Path.read_text

    def fails(path: Path, *words: Any, **options: Any) -> str:
        if it.clock.now > 20 and path.name == "submission.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read_text(path, *words, **options)

    monkeypatch.setattr(Path, "read_text", fails)
    with pytest.raises(SlurmBackendError, match=r"Input/output error.*for half an hour now"):
        it.follow()
    assert 1800 < it.clock.now < 2000
    assert len(it.said) == 1


def test_a_damaged_trial_does_not_hold_up_the_others_of_its_task(
    make: Callable[..., Following], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = make(trials=3, trials_per_task=3)
    it.driver.submit_unassigned()
    damaged = it.store.trial(it.config(1).trial_id)
    damaged.path.mkdir(parents=True)
    (damaged.path / "1.json").write_text("{")
    odd = it.store.trial(it.config(2).trial_id)
    (odd.path / "1.json").mkdir(parents=True)
    monkeypatch.setenv("SLURM_JOB_ID", "100")
    run_task(str(it.store.path), "0001", 0)
    for number in range(3):  # what is damaged is trained anew
        info = it.store.trial(it.config(number).trial_id).info()
        assert info is not None
        assert info.state == "completed"


def test_a_later_command_with_fewer_and_shorter_trials_changes_no_pending_task(
    make: Callable[..., Following], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = make(trials=3)
    it.driver.submit_unassigned()
    it.later_command("space.hidden.grid_search=[[8]]", "base.epochs=2", 'question="Another?"')
    monkeypatch.setenv("SLURM_JOB_ID", "100")
    for index in range(3):
        run_task(str(it.store.path), "0001", index)
    infos = [it.store.trial(it.config(number).trial_id).info() for number in range(3)]
    assert [info and (info.state, info.epoch) for info in infos] == [("completed", 4)] * 3
    submission = read_submission(it.store, "0001")
    _, worker_spec = load_work(it.store, submission, submission.tasks[2])
    assert set(worker_spec.epochs) == {
        config.trial_id for config in it.plan.trials
    }  # those that a rule compares


def test_a_later_command_with_more_epochs_extends_the_trials_of_pending_tasks(
    make: Callable[..., Following], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = make(trials=2)
    it.driver.submit_unassigned()
    it.later_command("base.epochs=6", 'question="Longer?"')
    monkeypatch.setenv("SLURM_JOB_ID", "100")
    run_task(str(it.store.path), "0001", 1)
    info = it.store.trial(it.config(1).trial_id).info()
    assert info is not None
    assert (info.state, info.epoch) == ("completed", 6)


def test_following_submits_lost_trials_of_its_own_command(make: Callable[..., Following]) -> None:
    it = make(trials=2)

    def behave(number: int, job: Job, age: float) -> QueuedTask:
        it.later_command("space.hidden.grid_search=[[8]]", 'question="Another?"')
        return FAILED if job.job_id == "100" else it.completes(number, job, age, 30)

    it.scheduler.behaviour = behave
    it.follow()
    submission = read_submission(it.store, "0002")
    trials, _ = load_work(it.store, submission, submission.tasks[1])
    assert trials == (it.config(1),)


WAITING = QueuedTask("PENDING", "Priority")


@pytest.mark.parametrize("why", ["more epochs", "a retry"])
def test_stop_and_status_include_tasks_whose_trials_ended_before(
    why: str, make: Callable[..., Following]
) -> None:
    it = make(trials=2)
    for number in range(2):
        earlier = Job("7", 0.0, it.store.path, JobRequest(name="earlier", cpus=1))
        if why == "more epochs":
            it.attempt(number, earlier, "completed", epoch=2)
        else:
            it.attempt(number, earlier, "failed", end="node")
    it.scheduler.behaviour = lambda number, job, age: (WAITING, RUNNING)[number]
    assert [len(made.tasks) for made in it.driver.submit_unassigned()] == [2]
    assert queue_counts(it.store) == {"pending": 1, "running": 1}
    assert cancel_waiting(it.store) == 1
    assert it.scheduler.cancelled == ["100"]


def test_a_foreign_job_with_the_same_id_is_ignored_and_not_cancelled(
    make: Callable[..., Following],
) -> None:
    it = make(trials=1)
    it.scheduler.behaviour = lambda number, job, age: replace(WAITING, script="/home/someone/else/run.sh")
    it.driver.submit_unassigned()
    assert queue_counts(it.store) == {}
    assert cancel_waiting(it.store) == 0
    assert it.scheduler.cancelled == []
    assert len(it.driver.submit_unassigned()) == 1  # the foreign job does not hold our trial


def test_restarted_job_ids_do_not_assign_a_trial_to_another_submission(
    make: Callable[..., Following],
) -> None:
    it = make(trials=2)
    it.scheduler.behaviour = lambda number, job, age: it.completes(number, job, age, 30)
    (first,) = it.driver.submit_unassigned()
    save_submission(it.store, replace(first, job_id="101", tasks=first.tasks[:1]))
    save_submission(it.store, replace(first, submission_id="0002", job_id="101", tasks=first.tasks[1:]))
    del it.scheduler.jobs["100"]
    it.scheduler.jobs["101"] = Job("101", 0.0, it.store.path / "jobs" / "0002", JobRequest(name="x", cpus=1))
    (made,) = it.driver.submit_unassigned()
    assert made.tasks == ((it.config(0).trial_id,),)


def test_a_store_behind_a_link_has_the_same_jobs(make: Callable[..., Following], tmp_path: Path) -> None:
    it = make(trials=1)
    it.scheduler.behaviour = lambda number, job, age: WAITING
    it.driver.submit_unassigned()
    (tmp_path / "link").symlink_to(it.store.path.parent)
    assert queue_counts(SweepStore(tmp_path / "link" / "followed")) == {"pending": 1}


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (
            QueuedTask("PENDING", "launch failed requeued held"),
            "(launch failed requeued held); scontrol release 100",
        ),
        (QueuedTask("SPECIAL_EXIT", "job requeued in held state"), "state); scontrol release 100"),
        (QueuedTask("PENDING", "JobHeldUser"), "(JobHeldUser); scontrol release 100"),
        (QueuedTask("PENDING", "JobHeldAdmin"), "(JobHeldAdmin); its cluster's administrators hold it"),
    ],
)
def test_held_tasks_are_reported_once_and_run_when_released(
    held: QueuedTask, message: str, make: Callable[..., Following]
) -> None:
    it = make(trials=3)
    reported_at: list[float] = []

    def behave(number: int, job: Job, age: float) -> QueuedTask:
        reported_at.extend([it.clock.now] if it.said and not reported_at else [])
        return held if number and age < 3000 else it.completes(number, job, age, 3100)

    it.scheduler.behaviour = behave
    made = it.driver.submit_unassigned()
    assert queue_counts(it.store) == {"running": 1, f"held ({held.reason})": 2}
    it.driver.follow()
    assert len(made) == len(it.scheduler.jobs) == 1
    (line,) = it.said
    assert line.startswith("job 100: 2 of its tasks held (")
    assert line.endswith(message)
    assert 60 <= reported_at[0] < 150


def test_a_stop_cancels_held_tasks(make: Callable[..., Following]) -> None:
    it = make(trials=1)
    it.scheduler.behaviour = lambda number, job, age: QueuedTask("SPECIAL_EXIT", "job requeued in held state")
    it.driver.submit_unassigned()
    assert cancel_waiting(it.store) == 1
    assert it.scheduler.cancelled == ["100"]


@pytest.mark.parametrize("reason", ["BadConstraints", "PartitionTimeLimit"])
def test_a_task_that_can_never_start_is_cancelled_after_a_minute(
    reason: str, make: Callable[..., Following]
) -> None:
    it = make(trials=2)
    never = QueuedTask("PENDING", reason)
    it.scheduler.behaviour = lambda number, job, age: never if number else it.completes(0, job, age, 10)
    with pytest.raises(SlurmBackendError, match=f"job 100_1 can never start: {reason}"):
        it.follow()
    assert 60 <= it.clock.now < 150
    assert it.scheduler.cancelled == ["100_1"]


def test_a_reason_that_is_shown_for_a_moment_is_ignored(make: Callable[..., Following]) -> None:
    it = make(trials=1)

    def behave(number: int, job: Job, age: float) -> QueuedTask:
        in_passing = age < 40 or 80 < age < 120
        waiting = QueuedTask("PENDING", "BadConstraints" if in_passing else "Priority")
        return waiting if age < 200 else it.completes(number, job, age, 300)

    it.scheduler.behaviour = behave
    it.follow()
    assert len(it.ended) == 1
    assert it.said == []
