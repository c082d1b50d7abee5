"""A real Ray cluster of several raylets on this machine, private to its test, all of it gone afterwards.

Two kinds. Plain: raylets beside each other, with the machine's address; needs nothing. Networked: each node in a
network namespace with an address of its own on a bridge, and, where asked, a folder that it does not see;
nodes can be killed and cut off as machines are. That needs root and `ip`.
"""

import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mixsweep.cluster.ray_cluster.nodes import RayNode, ray_node

# A node is given up after three checks in vain; Ray's own defaults take about a minute for one that is cut off.
HEALTH = json.dumps(
    {
        "health_check_period_ms": 1000,
        "health_check_timeout_ms": 5000,
        "health_check_failure_threshold": 3,
    }
)

INSTALL = "apt-get install iproute2, and root"


@dataclass
class RayCluster:
    """A head and further nodes. `token_path` lets a command in; `inside` runs it on the head's node."""

    head: RayNode
    dashboard_port: int | None = None
    nodes: list[RayNode] = field(default_factory=list)
    inside: Sequence[str] = ()
    links: list[str] = field(default_factory=list)  # of each further node, on the bridge

    @property
    def address(self) -> str:
        return self.head.cluster_address.address

    @property
    def jobs(self) -> str:
        """The job server's address, of a cluster that has one."""
        assert self.dashboard_port is not None
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def token_path(self) -> Path:
        return self.head.token_path

    def kill(self, number: int) -> None:
        """SIGKILL all processes of a node at once, as a machine that loses its power."""
        leader = self.nodes[number].pid
        for pid in session(leader):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def cut(self, number: int) -> None:
        """Cut a node off the network; its processes go on."""
        _ip("link", "set", self.links[number], "down")

    def join_again(self, number: int) -> None:
        """Connect a node that was cut off."""
        _ip("link", "set", self.links[number], "up")


def session(leader: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parts = path.read_text().rpartition(")")[2].split()
            if parts[3] == str(leader) and parts[0] not in ("Z", "X"):
                found.append(int(path.parent.name))
    return found


@contextmanager
def plain_cluster(*cpus: int, jobs: bool = False) -> Iterator[RayCluster]:
    """Nodes with so many CPUs, the head's first, all with the machine's own address; with a job server where asked."""
    with ExitStack() as stack:
        port = free_port() if jobs else None
        head = stack.enter_context(ray_node(cpus[0], 0, dashboard_port=port))
        nodes = [stack.enter_context(ray_node(count, 0, head.cluster_address)) for count in cpus[1:]]
        yield RayCluster(head, port, nodes)


@contextmanager
def networked_cluster(*cpus: int, hidden: Path | None = None) -> Iterator[RayCluster]:
    """Nodes with so many CPUs, the head's first, each in a network namespace with an address of its own.

    All but the head's have one `away`, a custom resource, and a host name of their own: no process elsewhere
    knows whether one of theirs lives.

    Args:
        hidden: a folder that only the head's node sees: the others find an empty one.
    """
    need_namespaces()
    tag = secrets.token_hex(3)
    bridge, net = f"ms{tag}", f"10.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}"
    with ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("link", "set", bridge, "up")
        for number in range(len(cpus)):
            name, link = f"ms{tag}n{number}", f"ms{tag}v{number}"
            _ip("netns", "add", name)
            stack.callback(_remove_folders_of, name)
            stack.callback(_ip, "netns", "del", name)
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", link, "master", bridge, "up")
            _ip("-n", name, "addr", "add", f"{net}.{number + 1}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        heads = ["ip", "netns", "exec", f"ms{tag}n0"]
        head = stack.enter_context(
            ray_node(
                cpus[0],
                0,
                command_prefix=heads,
                options=[f"--node-ip-address={net}.1", f"--system-config={HEALTH}"],
            )
        )
        nodes = []
        for number, count in enumerate(cpus[1:], start=1):
            script = 'echo "$0" > /proc/sys/kernel/hostname && '
            if hidden is not None:
                script += f"mount -t tmpfs tmpfs {shlex.quote(str(hidden))} && "
            name = f"ms{tag}n{number}"
            inside = [
                "ip",
                "netns",
                "exec",
                name,
                "unshare",
                "--uts",
                "--mount",
                "sh",
                "-c",
                f'{script}exec "$@"',
                name,
            ]
            nodes.append(
                stack.enter_context(
                    ray_node(
                        count, 0, head.cluster_address, command_prefix=inside,
                        options=[f"--node-ip-address={net}.{number + 1}", '--resources={"away": 1}'],
                    )
                )
            )  # fmt: skip
        links = [f"ms{tag}v{number}" for number in range(1, len(cpus))]
        yield RayCluster(head, None, nodes, heads, links)


def need_namespaces() -> None:
    """Skip where network namespaces cannot be made; in CI that is a failure."""
    name = f"ms{secrets.token_hex(4)}"
    why = "no `ip`"
    if shutil.which("ip"):
        done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
        if done.returncode == 0:
            subprocess.run(["ip", "netns", "del", name], check=True)
            return
        why = done.stderr.strip()
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs {INSTALL}: {why}")


def _remove_folders_of(host: str) -> None:
    """What processes that were killed there have left: no other host takes them for its own."""
    for mark in Path(tempfile.gettempdir()).glob(f"mixsweep-*/*-{host}"):
        shutil.rmtree(mark.parent, ignore_errors=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
