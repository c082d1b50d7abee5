"""Find out from the scheduler how attempts ended that recorded no end, and which nodes to exclude."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise

from mixsweep.cluster.slurm import client as slurm
from mixsweep.cluster.slurm.client import QueuedTask
from mixsweep.core.store.store import SweepStore, since
from mixsweep.core.store.trial.crash_recovery import record_killed_attempt
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.sweep.backends.slurm.submissions import jobs_path

# The end of an attempt by the final state of its job.
_ENDS = {
    "OUT_OF_MEMORY": "oom",
    "NODE_FAIL": "node",
    "BOOT_FAIL": "node",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "PREEMPTED": "preempted",
    "CANCELLED": "interrupted",
}

# Printed into a job's output by an out-of-memory kill, for which not every cluster has a state.
_KILLED_FOR_MEMORY = re.compile(r"oom[-_ ]kill|out of memory|exceeded (job )?memory limit", re.IGNORECASE)
_TAIL_BYTES = 4096

# A node with this many failures within this time is excluded from a sweep's next submission.
_NODE_FAILURES = 2
_RECENT_SECONDS = 24 * 3600.0


class JobExits:
    """Records how the scheduler ended a sweep's attempts; queries each attempt once."""

    def __init__(self, store: SweepStore):
        self._store = store
        self._queried: set[tuple[str, int]] = set()

    def record(self, infos: Iterable[TrialInfo], queue: Mapping[str, QueuedTask]) -> bool:
        """Record the ends of lost attempts that the scheduler knows; return whether any was written."""
        dead = {}
        for info in infos:
            job, number = info.attempts[-1].job, info.attempts[-1].number
            task = queue.get(job)
            if info.state != "lost" or not job or (task is not None and task.is_live):
                continue  # not lost, or its job runs or is requeued
            if (info.trial_id, number) not in self._queried:
                dead[info.trial_id] = (job, number)
        states = {job: task.state for job, task in queue.items()}
        if forgotten := {job.partition("_")[0] for job, _ in dead.values() if job not in states}:
            states |= slurm.query_final_states(forgotten)
        written = False
        for trial_id, (job, number) in dead.items():
            self._queried.add((trial_id, number))
            state = states.get(job, "")
            if state in ("", "FAILED") and self._was_killed_for_memory(job):
                state = "OUT_OF_MEMORY"
            if end := _ENDS.get(state):
                folder = self._store.trial(trial_id)
                written |= record_killed_attempt(folder, job, end, f"job {job} ended {state}")
        return written

    def _was_killed_for_memory(self, job: str) -> bool:
        for path in jobs_path(self._store).glob(f"*/{job}_0_log.out"):
            tail = path.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
            if _KILLED_FOR_MEMORY.search(tail):
                return True
        return False


def failing_nodes(infos: Iterable[TrialInfo], place: str) -> tuple[str, ...]:
    """The nodes of a place that are at fault for repeated recent failures, and for most of their attempts.

    A node is at fault for an attempt that ended with `node`, or that was killed before the scheduler requeued the job.
    A preemption can look the same, so nodes on which most attempts end well are not blamed.
    """
    faults: Counter[str] = Counter()
    attempts: Counter[str] = Counter()
    for info in infos:
        for attempt, after in pairwise([*info.attempts, None]):
            if attempt is None or attempt.place != place or not attempt.job:
                continue
            if attempt.started_at and since(attempt.started_at) > _RECENT_SECONDS:
                continue
            attempts[attempt.host] += 1
            requeued = after is not None and after.job == attempt.job and after.restarts > attempt.restarts
            # With several ranks the node is not known here; their job excludes it itself.
            is_node_failure = attempt.end == "node" and attempt.ranks == 1
            faults[attempt.host] += is_node_failure or (attempt.end == "killed" and requeued)
    return tuple(
        sorted(
            host for host, count in faults.items() if count >= _NODE_FAILURES and 2 * count > attempts[host]
        )
    )
