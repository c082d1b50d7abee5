"""The places of a campaign of random faults: one process's, this machine's Ray, a Ray cluster of hosts, SLURM."""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import tomli_w

from tests.faults.kills import MARK, Place
from tests.support.ray_cluster import RayCluster, networked_cluster, session
from tests.support.slurm_cluster import SlurmCluster

_STEP_SECONDS = "0.05"
_NODES = (1, 1, 1, 1, 1)  # CPUs; the head's first


class Debug(Place):
    """Two commands on one store, one of which mirrors."""

    name = "debug"
    commands = 2

    def words(self, number: int) -> list[str]:
        return ["--place", "debug", *["--mirror"] * (number == 0)]


class Local(Place):
    """A command that starts Ray on this machine."""

    name = "local"

    def words(self, number: int) -> list[str]:
        return ["--place", "local", *["--mirror"] * (number == 0)]


class Ray(Place):
    """A Ray cluster whose nodes are hosts of their own, which can be cut off; its head stays.

    Args:
        cluster: the cluster.
        shared: whether the nodes see the store.
    """

    def __init__(self, cluster: RayCluster, mark: str, shared: bool):
        self.name = "ray" if shared else "ray-apart"
        self._cluster, self._shared = cluster, shared
        self._alive = set(range(len(cluster.nodes)))
        place = {
            "kind": "ray",
            "address": cluster.address,
            "token_path": str(cluster.token_path),
            "shared": shared,
            "environment": {"STEP_SECONDS": _STEP_SECONDS, MARK: mark},
        }
        write_places(cluster=place)

    def prefix(self) -> list[str]:
        return list(self._cluster.inside)

    def words(self, number: int) -> list[str]:
        return ["--place", "cluster", *["--mirror"] * (number == 0)]

    def faults(self) -> Mapping[str, Callable[[random.Random], bool]]:
        return {"node killed": self._kill, "network cut": self._cut, "node stopped": self._stop}

    def _kill(self, rng: random.Random) -> bool:
        if len(self._alive) <= 2:
            return False
        number = rng.choice(sorted(self._alive))
        self._alive.discard(number)
        self._cluster.kill(number)
        return True

    def _cut(self, rng: random.Random) -> bool:
        number = rng.choice(sorted(self._alive))
        self._cluster.cut(number)
        time.sleep(rng.uniform(0.5, 5.0))  # a longer one ends the node
        self._cluster.join_again(number)
        return True

    def _stop(self, rng: random.Random) -> bool:
        pids = session(self._cluster.nodes[rng.choice(sorted(self._alive))].pid)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        time.sleep(rng.uniform(0.5, 5.0))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return True


class Slurm(Place):
    """A SLURM of two nodes; a command submits and follows."""

    name = "slurm"

    def __init__(self, cluster: SlurmCluster):
        self._cluster = cluster
        self._down: dict[str, float] = {}  # nodes, and when they are started again
        place = {
            "kind": "slurm",
            "trials_per_task": 1,
            "partition": "debug",
            "time": 10,
            "environment": {"STEP_SECONDS": _STEP_SECONDS},
        }
        write_places(cluster=place)

    def words(self, number: int) -> list[str]:
        return ["--place", "cluster", *["--mirror"] * (number == 0)]

    def faults(self) -> Mapping[str, Callable[[random.Random], bool]]:
        return {
            "step killed": lambda rng: self._signal_step(rng, signal.SIGKILL),
            "step ended": lambda rng: self._signal_step(rng, signal.SIGTERM),
            "step stopped": lambda rng: self._signal_step(rng, signal.SIGSTOP),
            "job requeued": lambda rng: self._tell(rng, "requeue"),
            "job cancelled": lambda rng: self._tell(rng, "cancel"),
            "node killed": self._kill_node,
            "slurmd stopped": self._stop_slurmd,
            "slurmctld killed": self._restart_controller,
        }

    def help_on(self) -> None:
        for node, at in list(self._down.items()):
            if time.monotonic() >= at:
                del self._down[node]
                try:
                    self._cluster.start_node(node)
                except TimeoutError:  # SLURM has drained it: a step could not be ended in time
                    print(
                        f"{node} is {self._cluster.sinfo('--noheader', f'--nodes={node}', '--format=%T %E').strip()}"
                    )
                    self._cluster.scontrol("update", f"NodeName={node}", "State=RESUME")
        with contextlib.suppress(subprocess.CalledProcessError):
            self._cluster.release_all()

    def mend(self) -> None:
        self._down = dict.fromkeys(self._down, 0.0)
        self.help_on()

    def _running(self) -> list[str]:
        with contextlib.suppress(subprocess.CalledProcessError):
            return sorted(job for job, state in self._cluster.jobs().items() if state == "RUNNING")
        return []

    def _signal_step(self, rng: random.Random, number: int) -> bool:
        pids = [pid for job in self._running() for pid in self._cluster.steps_of(job)]
        if not pids:
            return False
        pid = rng.choice(pids)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            if number == signal.SIGSTOP:
                time.sleep(rng.uniform(0.5, 6.0))
                os.kill(pid, signal.SIGCONT)
        return True

    def _tell(self, rng: random.Random, what: str) -> bool:
        jobs = self._running()
        if not jobs:
            return False
        job = rng.choice(jobs)
        with contextlib.suppress(subprocess.CalledProcessError):  # it has just ended
            if what == "requeue":
                self._cluster.scontrol("requeue", job)
            else:
                self._cluster.scancel(job)
        return True

    def _kill_node(self, rng: random.Random) -> bool:
        if self._down:
            return False
        node = rng.choice(self._cluster.nodes)
        self._cluster.kill_node(node)
        self._down[node] = time.monotonic() + rng.uniform(0, 20)
        return True

    def _stop_slurmd(self, rng: random.Random) -> bool:
        nodes = [node for node in self._cluster.nodes if node not in self._down]
        with self._cluster.stopped(rng.choice(nodes)):
            time.sleep(rng.uniform(0.5, 6.0))
        return True

    def _restart_controller(self, rng: random.Random) -> bool:
        self._cluster.kill_controller()
        time.sleep(rng.uniform(0, 3))
        self._cluster.start_controller()
        return True


PLACES = ("debug", "local", "ray", "ray-apart", "slurm")


@contextmanager
def open_place(name: str, stores: Path, mark: str) -> Iterator[Place]:
    """A place of this name, with all that it needs.

    Args:
        stores: the folder of stores, which the nodes of `ray-apart` do not see.
        mark: of the campaign's processes.
    """
    with ExitStack() as stack:
        if name == "debug":
            yield Debug()
        elif name == "local":
            yield Local()
        elif name == "slurm":
            cluster = stack.enter_context(SlurmCluster(SlurmdTimeout=10, MessageTimeout=5))
            before = {key: os.environ.get(key) for key in cluster.environment}
            os.environ.update(cluster.environment)
            stack.callback(lambda: [os.environ.pop(key) for key, value in before.items() if value is None])
            yield Slurm(cluster)
        else:
            shared = name == "ray"
            hidden = None if shared else stores
            yield Ray(stack.enter_context(networked_cluster(*_NODES, hidden=hidden)), mark, shared)


def write_places(**tables: Mapping[str, object]) -> None:
    """Write the user's places file."""
    path = Path(os.environ["XDG_CONFIG_HOME"]) / "mixsweep" / "places.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
