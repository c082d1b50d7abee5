"""A real SLURM on this machine, private to its test: its own ports, key, folder and daemons, all gone after it.

What SLURM 22.05 does here, as measured with KillWait=5. Signals are what the step's processes get; the batch script
gets only the last SIGTERM.

- Preempted, GraceTime=0: SIGTERM and SIGCONT, SIGKILL 4 to 5 s later. Requeued, even if all exit with 0 before that;
  PREEMPTED under --no-requeue.
- Preempted, GraceTime=10: SIGTERM and SIGCONT at once, while the job still counts as running. One that exits now is
  COMPLETED or FAILED and not requeued, unless it calls `scontrol requeue` itself. One that stays gets SIGTERM again
  11 to 27 s later, SIGKILL 4 to 5 s after that, and is requeued.
- The signal of --signal comes at a preemption only under SlurmctldParameters=preempt_send_user_signal: in place of the
  first SIGTERM, or with it where GraceTime=0. Under --signal=B: the batch script gets it, and the step nothing.
- Over --mem: SIGKILL within two seconds, and "Exceeded job memory limit" in the job's output. The state is FAILED, not
  OUT_OF_MEMORY, which needs cgroups: ExitCode 137:0 by way of srun, 0:9 where the batch script itself is killed.
  A script that goes on after its srun failed ends as it likes.
- `scontrol update NodeName=n1 State=DOWN Reason=test`: SIGTERM and SIGCONT at once, SIGKILL 4 to 5 s later; requeued,
  or NODE_FAIL under --no-requeue. The node still answers, so it is idle again within seconds. A job that is released
  before its old processes are gone may be held, as launch_failed_requeued_held.
- `kill_node`: noticed 25 to 28 s later under SlurmdTimeout=10; then as above. It stays down* until `start_node`.
- One of two ranks killed: the other and the job run on, unless srun has --kill-on-bad-exit. A slurmstepd killed: its
  processes and the job run on, for 30 s at least.
- Requeued, for whatever cause: PENDING (BeginTime) for two minutes, then SLURM_RESTART_COUNT is set. See `release`.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Self

import pytest

from tests.support.commands import wait_until

INSTALL = "apt-get install slurm-wlm munge"
INSTALL_ACCOUNTING = "apt-get install slurmdbd mariadb-server"
# Daemons lie where an ordinary user's PATH does not look.
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
LOCALHOST = "127.0.0.1"
_SETTLE_SECONDS = 4.0

# Lines of slurm.conf that a test may replace; the defaults are SLURM's own unless a line says why not.
SETTINGS: Mapping[str, object] = MappingProxyType(
    {
        "AuthType": "auth/munge",
        "MpiDefault": "none",
        # Neither needs cgroups nor root.
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        # Nodes may have more than the machine.
        "SlurmdParameters": "config_overrides",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        # A job over its --mem is killed, looked at every second.
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=1",
        "JobAcctGatherParams": "OverMemoryKill",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        # A time over the partition's is refused, as on most clusters, not left pending.
        "EnforcePartLimits": "ALL",
        "MaxArraySize": 64,
        # Seconds, all short enough for a test to wait.
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=2,bf_interval=2",
        "KillWait": 5,
        "SlurmctldTimeout": 30,
        "SlurmdTimeout": 60,
        "MessageTimeout": 20,
        "ReturnToService": 2,
    }
)
# MaxTime is in minutes. Jobs of `scavenge` make room for those of `debug`, and are requeued.
PARTITIONS: Mapping[str, str] = MappingProxyType(
    {
        "debug": "Default=YES MaxTime=60 PriorityTier=2 PreemptMode=OFF",
        "short": "MaxTime=1 PriorityTier=2 PreemptMode=OFF",
        "scavenge": "MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=0",
    }
)


def require(accounting: bool = False) -> None:
    """Skip the test on a machine without the programs, and say what to install; where CI is set, fail it."""
    wanted: list[tuple[str, tuple[str, ...]]] = [(INSTALL, ("munged", "slurmctld", "slurmd", "sbatch"))]
    if accounting:
        wanted.append((INSTALL_ACCOUNTING, ("slurmdbd", "mariadbd", "mariadb-install-db")))
    for install, programs in wanted:
        absent = [name for name in programs if not shutil.which(name, path=SEARCH)]
        if absent:
            give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            give_up(f"no {', '.join(absent)} on this machine: {install}")


class SlurmCluster:
    """A context in which a SLURM of some nodes runs on this machine; commands reach it through `environment`.

    Any user can have one; jobs run as that user. Clusters do not meet: each has its own folder, key, sockets and ports.

    Args:
        nodes: how many nodes, named n1, n2, …
        cpus: of a node, whatever the machine has.
        memory: of a node, in MiB; a job that does not ask gets its CPUs' share, of which a Ray node with its driver
            and a worker take up to 2.3 GiB: what processes share counts in each.
        partitions: options of each partition, by name; all have all nodes.
        accounting: with slurmdbd and a database: sacct works, and accounts, QOS and their limits are enforced. The
            present user has the accounts `lab` and `spare`; `lab` is the default.
        settings: lines of slurm.conf, in place of those of SETTINGS.
    """

    def __init__(
        self,
        nodes: int = 2,
        cpus: int = 2,
        memory: int = 8192,
        partitions: Mapping[str, str] = PARTITIONS,
        accounting: bool = False,
        **settings: object,
    ) -> None:
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.cpus = cpus
        self.memory = memory
        self.partitions = partitions
        self.accounting = accounting
        self.settings = {**SETTINGS, **settings}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = contextlib.ExitStack()
        self._released: dict[str, int] = {}

    def __enter__(self) -> Self:
        require(self.accounting)
        # A Unix socket's path has at most 107 bytes, and pytest's folders are deep.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.folder.chmod(0o711)  # munge wants its socket to be reachable
        try:
            self._write_files()
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def environment(self) -> dict[str, str]:
        """What commands need in their environment to reach this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *words: str) -> str:
        """Run a command of SLURM and return what it printed.

        Raises:
            subprocess.CalledProcessError: it failed; `stderr` says why.
        """
        done = subprocess.run(words, check=True, capture_output=True, text=True, env=self._environment())
        return done.stdout

    def sinfo(self, *words: str) -> str:
        return self.run("sinfo", *words)

    def squeue(self, *words: str) -> str:
        return self.run("squeue", *words)

    def scontrol(self, *words: str) -> str:
        return self.run("scontrol", *words)

    def sbatch(self, *words: str) -> str:
        """Submit, and return the job's id."""
        return self.run("sbatch", "--parsable", *words).strip()

    def scancel(self, *words: str) -> str:
        return self.run("scancel", *words)

    def jobs(self) -> dict[str, str]:
        """States (PENDING, RUNNING, COMPLETING, …) of all that has not ended, by id; an array's are `ARRAY_TASK`."""
        lines = self.squeue("--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def job(self, job: str) -> dict[str, str]:
        """What the controller knows of a job or array task, ended or not: JobState, Reason, Restarts, ExitCode, …"""
        words = self.scontrol("--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def release(self, job: str) -> None:
        """Let a requeued job, array task (`ARRAY_TASK`) or whole array start now, not two minutes after it ended.

        A node takes a job that starts in the very second in which it was ended there for the ended one, and fails it
        (`Job credential revoked`): so it starts a second from now.
        """
        self.scontrol("update", f"JobId={job}", "StartTime=now+1seconds")

    def release_all(self) -> None:
        """Let all requeued jobs start now; those that were submitted to begin later keep waiting."""
        columns = "--Format=JobArrayID:40,RestartCnt:10,Reason:40"
        for line in self.squeue("--noheader", "--array", "--states=PENDING", columns).splitlines():
            job, restarts, reason = line.split(maxsplit=2)
            # Once for each restart: a loop of releases would put the start off for ever.
            if int(restarts) > self._released.get(job, 0) and reason.strip() == "BeginTime":
                self.release(job)
                self._released[job] = int(restarts)

    def steps_of(self, job: str, node: str | None = None) -> list[int]:
        """Process ids of the Pythons that a job or array task runs on this machine; of their children, none."""
        array, _, task = job.partition("_")
        wanted = {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task} if task else {"SLURM_JOB_ID": job}
        found = {
            pid
            for pid in self._processes(node)
            if wanted.items() <= _environment_of(pid).items() and _program_of(pid).startswith("python")
        }
        return sorted(pid for pid in found if _parent_of(pid) not in found)

    def kill_node(self, node: str) -> None:
        """End all that runs on a node at once, as a power cut does; the controller notices after SlurmdTimeout."""
        self._kill(node)

    def start_node(self, node: str) -> None:
        """Start a node that was killed, and return once it takes jobs, as it does by itself (ReturnToService=2).

        In its first moments it removes the scripts of jobs that it had, and that of one that comes meanwhile too.
        """
        self._spawn(node, "slurmd", "-D", "-N", node)
        takes_jobs = ("idle", "mixed", "allocated")  # it may have got one already
        wait_until(
            lambda: self.sinfo("--noheader", f"--nodes={node}", "--format=%T").split()[0] in takes_jobs, 60
        )
        time.sleep(_SETTLE_SECONDS)

    def kill_controller(self) -> None:
        """SIGKILL the controller; commands fail, and jobs run on."""
        daemon = self._daemons.pop("slurmctld")
        daemon.kill()
        daemon.wait()

    def start_controller(self) -> None:
        """Start the controller again, with the jobs that it had."""
        self._spawn("slurmctld", "slurmctld", "-D")
        self._await("slurmctld", lambda: _listens(self._controller_port))
        self._await("slurmctld", lambda: bool(self.sinfo("--noheader", "--format=%T")))

    @contextlib.contextmanager
    def stopped(self, node: str) -> Iterator[None]:
        """A node's daemon does nothing while this lasts; what runs on the node goes on."""
        daemon = self._daemons[node]
        daemon.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            daemon.send_signal(signal.SIGCONT)

    def _write_files(self) -> None:
        folder, user, host = self.folder, getpass.getuser(), socket.gethostname().split(".")[0]
        for name in ("state", "log", "database", *(f"spool-{node}" for node in self.nodes)):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        self._controller_port, self._database_port = self._free_port(), self._free_port()
        accounting_port = self._free_port()
        authentication = {"AuthType": "auth/munge", "AuthInfo": f"socket={folder}/munge.socket"}
        own: dict[str, object] = {
            "ClusterName": folder.name.removeprefix("slurm-"),
            "SlurmctldHost": f"{host}({LOCALHOST})",
            "SlurmctldPort": self._controller_port,
            "SlurmUser": user,
            "SlurmdUser": user,
            "StateSaveLocation": folder / "state",
            "SlurmdSpoolDir": folder / "spool-%n",
            "SlurmctldPidFile": folder / "slurmctld.pid",
            "SlurmdPidFile": folder / "slurmd-%n.pid",
        }
        if self.accounting:
            own |= {
                "AccountingStorageType": "accounting_storage/slurmdbd",
                "AccountingStorageHost": LOCALHOST,
                "AccountingStoragePort": accounting_port,
                "AccountingStoragePass": folder / "munge.socket",
                "AccountingStorageEnforce": "associations,limits,qos",
            }
        lines = [f"{key}={value}" for key, value in (own | authentication | self.settings).items()]
        for node in self.nodes:
            lines.append(
                f"NodeName={node} NodeHostname={host} NodeAddr={LOCALHOST} Port={self._free_port()} "
                f"CPUs={self.cpus} RealMemory={self.memory}"
            )
        share = self.memory // self.cpus
        for name, options in self.partitions.items():
            lines.append(f"PartitionName={name} Nodes=ALL DefMemPerCPU={share} {options}")
        (folder / "slurm.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        database = {
            "DbdHost": host,
            "DbdAddr": LOCALHOST,
            "DbdPort": accounting_port,
            "SlurmUser": user,
            "StorageType": "accounting_storage/mysql",
            "StorageHost": LOCALHOST,
            "StoragePort": self._database_port,
            "StorageUser": user,
            "StorageLoc": "slurm",
            "PidFile": folder / "slurmdbd.pid",
        }
        file = folder / "slurmdbd.conf"
        file.touch(0o600)
        file.write_text(
            "".join(f"{key}={value}\n" for key, value in (database | authentication).items()), "utf-8"
        )

    def _free_port(self) -> int:
        """A port below the ephemeral ones that nobody listens at, and that no other cluster of ours takes."""
        while True:
            port = 10_000 + secrets.randbelow(20_000)
            # The name of an abstract socket is a lock that leaves no file and goes with this process.
            mine = socket.socket(socket.AF_UNIX)
            with socket.socket() as listener, contextlib.suppress(OSError):
                mine.bind(f"\0mixsweep-test-port-{port}")
                listener.bind(("", port))
                self._ports.enter_context(mine)
                return port
            mine.close()

    def _start(self) -> None:
        folder = self.folder
        self._spawn(
            *("munged", "munged", "--foreground", "--force", f"--key-file={folder}/munge.key"),
            *(f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid"),
            *(f"--log-file={folder}/log/munge", f"--seed-file={folder}/munge.seed"),
        )
        self._await("munged", lambda: (folder / "munge.socket").exists())
        if self.accounting:
            self._start_accounting()
        self._spawn("slurmctld", "slurmctld", "-D", "-c")
        for node in self.nodes:
            self._spawn(node, "slurmd", "-D", "-N", node)
        # A command that finds nobody listening tries for 20 s.
        self._await("slurmctld", lambda: _listens(self._controller_port))
        self._await("slurmctld", lambda: set(self.sinfo("--noheader", "--format=%T").split()) == {"idle"})

    def _start_accounting(self) -> None:
        user, database = getpass.getuser(), self.folder / "database"
        common = ("--no-defaults", f"--datadir={database}", f"--user={user}")
        self.run("mariadb-install-db", *common, "--skip-test-db", "--auth-root-authentication-method=normal")
        self._spawn(
            *("mariadbd", "mariadbd", *common, f"--socket={self.folder}/database.socket"),
            *(f"--bind-address={LOCALHOST}", f"--port={self._database_port}", "--skip-grant-tables"),
            f"--pid-file={self.folder}/mariadbd.pid",
        )
        self._await("mariadbd", lambda: (self.folder / "database.socket").exists())
        self._spawn("slurmdbd", "slurmdbd", "-D")
        self._await("slurmdbd", lambda: self.run("sacctmgr", "--noheader", "list", "cluster") is not None)
        self.run("sacctmgr", "-i", "add", "cluster", self.folder.name.removeprefix("slurm-"))
        self.run("sacctmgr", "-i", "add", "account", "lab", "spare")
        self.run("sacctmgr", "-i", "add", "user", user, "account=lab,spare", "defaultaccount=lab")

    def _spawn(self, name: str, *words: str) -> None:
        # A daemon does not outlive this process, and a slurmd hands its node's name on to all that it starts.
        with (self.folder / "log" / name).open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *words],
                cwd=self.folder,
                env=self._environment() | {"SLURMD_NODENAME": name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _await(self, daemon: str, ready: Callable[[], bool]) -> None:
        def is_ready() -> bool:
            if self._daemons[daemon].poll() is not None:
                raise RuntimeError(f"{daemon} ended: {self._log(daemon)}")
            with contextlib.suppress(subprocess.CalledProcessError):
                return ready()
            return False

        try:
            wait_until(is_ready, 60)
        except TimeoutError as error:
            raise RuntimeError(f"{daemon} is not ready: {self._log(daemon)}") from error

    def _log(self, daemon: str) -> str:
        return (self.folder / "log" / daemon).read_text(errors="replace")[-2000:]

    def _environment(self) -> dict[str, str]:
        # Of a job that the tests run in, nothing may reach a command.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        return inherited | self.environment | {"PATH": SEARCH}

    def _stop(self) -> None:
        # Jobs, queue and database end with the folder, so nothing needs to be told that it ends.
        self._kill()
        self._ports.close()
        shutil.rmtree(self.folder)

    def _kill(self, node: str | None = None) -> None:
        """SIGKILL all processes of one node, or of the cluster, until none is left."""

        def is_dead() -> bool:
            alive = self._processes(node)
            for pid in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not alive

        wait_until(is_dead, 30)
        for name in list(self._daemons) if node is None else [node]:
            self._daemons.pop(name).wait()

    def _processes(self, node: str | None = None) -> set[int]:
        """What runs on one node, or all that this cluster started, daemons, jobs and their descendants."""
        wanted = self.environment | ({"SLURMD_NODENAME": node} if node else {})
        parents = {int(entry.name): _parent_of(int(entry.name)) for entry in Path("/proc").glob("[0-9]*")}
        found = set()
        for pid in parents:
            environment = _environment_of(pid)
            # A test's own child may know the cluster, too, but is on no node.
            if wanted.items() <= environment.items() and "SLURMD_NODENAME" in environment:
                found.add(pid)
        while children := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= children
        return found


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((LOCALHOST, port)) == 0


def _environment_of(pid: int) -> dict[str, str]:
    """What a process was started with; nothing for one that has ended or belongs to another user."""
    try:
        lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    return dict(os.fsdecode(line).split("=", 1) for line in lines if b"=" in line)


def _parent_of(pid: int) -> int | None:
    try:
        # The name in parentheses may hold anything.
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:
        return None


def _program_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return ""
