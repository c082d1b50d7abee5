"""Commands of `sweep` in processes that are forked from one that has imported everything, so that each starts at once.

Each runs under interpose.c, which can stop, kill or fail it at any of its calls on files of the store.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
INSTALL = "apt-get install gcc libc6-dev"

_PRELOADED = (
    "mixsweep.sweep.cli.app",
    "mixsweep.sweep.run",
    "mixsweep.sweep.backends.inline",
    "mixsweep.sweep.cli.views.live_view",
    "mixsweep.sweep.cli.views.render_plan",
    "mixsweep.sweep.cli.views.render_trial",
    "mixsweep.core.execution.runner",
    "mixsweep.analysis.report.report",
    "mixsweep.cluster.doctor.examine",
    "sklearn.datasets",
    "torch._dynamo",
)
_PR_SET_PDEATHSIG = 1
_CLONE_NEWUTS, _CLONE_NEWNS = 0x04000000, 0x00020000
_PR_SET_KEEPCAPS, _CAPABILITY_VERSION, _CAP_DAC_READ_SEARCH = 8, 0x20080522, 2
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is to happen to a process at one of its calls on files below a folder; see interpose.c.

    Args:
        at: `<call>:<pattern of the path below the folder>:<number>`; '' for nowhere.
        action: `stop`, `kill`, `torn`, `lost:<errno>`, `fail:<errno>` or `none`.
        trace: a file that gets a line for each call.
    """

    root: Path
    at: str = ""
    action: str = "none"
    trace: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command ended: its exit code, negative for a signal, and what it printed."""

    code: int
    output: str


@dataclass(frozen=True, kw_only=True)
class _Request:
    words: list[str]
    folder: str
    output: str
    environment: dict[str, str] = field(default_factory=dict)
    tuning: dict[str, float] = field(default_factory=dict)
    fault: list[str] | None = None
    host: str = ""
    clock_seconds: int = 0
    user: int = 0
    group: int = 0
    umask: int = 0o022
    hides_processes: bool = False


class Command:
    """A running command."""

    def __init__(self, starter: "Commands", pid: int, output: Path):
        self._starter, self.pid, self._output = starter, pid, output

    def wait(self, timeout: float = 120, stops: bool = False) -> Done | None:
        """Wait for its end; None if it is stopped and `stops` is set.

        Raises:
            TimeoutError: it runs still; it was killed.
        """
        status = self._starter.ask({"wait": self.pid, "timeout": timeout, "stops": stops})["status"]
        if status == "running":
            self.kill()
            raise TimeoutError(f"no end after {timeout:.0f} s: {self.output}")
        return None if status == "stopped" else Done(code=status, output=self.output)

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def wake(self) -> None:
        """Let a stopped process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._starter.ask({"wait": self.pid, "timeout": 30, "stops": False})


class Commands:
    """A context that starts commands.

    Args:
        folder: for what they print, and for the interposer.
        more: modules that are imported beforehand, for commands that need them.
    """

    def __init__(self, folder: Path, more: Sequence[str] = ()):
        self._folder, self._more = folder, more
        self._count = 0

    def __enter__(self) -> "Commands":
        self._folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "LD_PRELOAD": str(interposer(self._folder))}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.commands", *self._more],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        with self._server:
            self._server.stdin.close()

    def start(
        self,
        *words: str,
        fault: Fault | None = None,
        folder: Path | None = None,
        tuning: Mapping[str, float] | None = None,
        environment: Mapping[str, str] | None = None,
        host: str = "",
        clock_seconds: int = 0,
        user: int = 0,
        group: int = 0,
        umask: int = 0o022,
        hides_processes: bool = False,
    ) -> Command:
        """Start `sweep` with these words.

        Args:
            fault: what is to happen to it.
            folder: the working folder.
            tuning: see _tune.
            environment: beside what this process has.
            host: the name of a host of its own, whose processes no other can see; needs root.
            clock_seconds: how far its clock is ahead.
            user, group: as whom it runs; 0: as this process.
            hides_processes: whether it sees its own user's processes only.
        """
        self._count += 1
        output = self._folder / f"output-{self._count}.txt"
        arm = None
        if fault is not None:
            arm = [str(fault.root), fault.at, fault.action, str(fault.trace or "")]
        request = _Request(
            words=list(words),
            folder=str(folder or self._folder),
            output=str(output),
            environment=dict(environment or {}),
            tuning=dict(tuning or {}),
            fault=arm,
            host=host,
            clock_seconds=clock_seconds,
            user=user,
            group=group,
            umask=umask,
            hides_processes=hides_processes,
        )
        return Command(self, self.ask({"start": asdict(request)})["pid"], output)

    def run(self, *words: str, timeout: float = 120, **options: Any) -> Done:
        """Run `sweep` with these words to its end; options as for `start`."""
        done = self.start(*words, **options).wait(timeout)
        assert done is not None
        return done

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request to the process that forks, and return its reply."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        reply: dict[str, Any] = json.loads(self._server.stdout.readline())
        return reply


def interposer(folder: Path) -> Path:
    """The compiled interpose.c.

    Raises:
        RuntimeError: there is no compiler; says what to install.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise RuntimeError(f"no C compiler on this machine: {INSTALL}")
    made = folder / "interpose.so"
    if not made.exists():
        source = Path(__file__).with_name("interpose.c")
        words = [compiler, "-O1", "-shared", "-fPIC", "-o", str(made), str(source), "-ldl"]
        subprocess.run(words, check=True)
    return made


@contextlib.contextmanager
def own_environment(folder: Path) -> Iterator[None]:
    """This process's environment with a cache and a configuration of its own, for commands that inherit it."""
    own = {
        "SWEEP_CACHE": str(folder / "cache"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "COLUMNS": "200",
        "WANDB_MODE": "offline",
    }
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    made = Path(tempfile.mkdtemp(prefix="mixsweep-faults-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


# --- The process that forks ------------------------------------------------------------------------------


def _serve(more: Sequence[str]) -> None:
    for name in (*_PRELOADED, *more):
        with contextlib.suppress(ImportError):  # another version has its modules elsewhere
            __import__(name)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            reply = {"pid": _fork(_Request(**request["start"]))}
        else:
            reply = {"status": _wait(request["wait"], request["timeout"], request["stops"])}
        print(json.dumps(reply), file=replies, flush=True)


def _wait(pid: int, timeout: float, stops: bool) -> int | str:
    end = time.monotonic() + timeout
    while True:
        try:
            found, status = os.waitpid(pid, os.WNOHANG | (os.WUNTRACED if stops else 0))
        except ChildProcessError:
            return 0
        if found:
            return "stopped" if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return "running"
        time.sleep(0.002)


def _fork(request: _Request) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        _redirect(request.output)
        os.environ.update(request.environment)
        os.chdir(request.folder)
        if request.host:
            _move_to(request.host, libc)
        if request.hides_processes:
            _hide_processes(libc)
        if request.user:
            _become(request.user, request.group, libc)
        os.umask(request.umask)
        libc.fault_clock(request.clock_seconds)
        _tune(request.tuning)
        if request.fault is not None:
            libc.fault_arm(*(os.fsencode(word) for word in request.fault))
        code = _run(request.words)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _move_to(host: str, libc: ctypes.CDLL) -> None:
    name = host.encode()
    if libc.unshare(_CLONE_NEWUTS) or libc.sethostname(name, len(name)):
        raise PermissionError("a host name of one's own needs root")


def _become(user: int, group: int, libc: ctypes.CDLL) -> None:
    """Run as another user, who may read all files: this interpreter may lie where only root can look."""
    os.setgroups([])
    os.setgid(group)
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setuid(user)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)(1 << _CAP_DAC_READ_SEARCH, 1 << _CAP_DAC_READ_SEARCH, 0, 0, 0, 0)
    if libc.capset(header, sets):
        raise PermissionError("another user needs root")


def _hide_processes(libc: ctypes.CDLL) -> None:
    private = _MS_REC | _MS_PRIVATE
    if (
        libc.unshare(_CLONE_NEWNS)
        or libc.mount(None, b"/", None, private, None)
        or libc.mount(b"proc", b"/proc", b"proc", 0, b"hidepid=2")
    ):
        raise PermissionError("another view of /proc needs root")


def _redirect(path: str) -> None:
    target = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in ((0, nothing), (1, target), (2, target)):
        os.dup2(file, number)
    sys.stdin = os.fdopen(0, "r")
    sys.stdout = os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)


def _tune(tuning: Mapping[str, float]) -> None:
    """Set times and sizes that a short trial would not reach; a name that is not there has no effect."""
    from mixsweep.core.execution import run_config

    settings: dict[str, Callable[[float], None]] = {
        "checkpoint_share": lambda value: run_config.RunConfig.__init__.__kwdefaults__.update(
            checkpoint_share=value
        ),
    }
    with contextlib.suppress(ImportError):
        from mixsweep.core.store.trial import lease, term

        settings |= {
            "flush_seconds": lambda value: setattr(term, "FLUSH_SECONDS", value),
            "merge_at": lambda value: setattr(term, "MERGE_AT", int(value)),
            "heartbeat_seconds": lambda value: setattr(lease, "HEARTBEAT_SECONDS", value),
            "stale_seconds": lambda value: setattr(lease, "STALE_SECONDS", value),
            "observe_seconds": lambda value: setattr(lease, "OBSERVE_SECONDS", value),
        }
    for name, value in tuning.items():
        settings[name](value)


def _run(words: Sequence[str]) -> int:
    from mixsweep.sweep.cli.app import main

    sys.argv = ["sweep", *words]
    try:
        main()
    except SystemExit as end:
        code = end.code
        return code if isinstance(code, int) else int(code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    _serve(sys.argv[1:])
