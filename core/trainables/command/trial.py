"""A trial whose training is a command: start it, read its records, keep its checkpoint, end it with all its children.

An attempt has a folder of its own, `{trial_dir}`. What the command leaves in `{trial_dir}/checkpoint`, a file or a
folder, is its checkpoint: it is read into the trial's state, and written as `{checkpoint}` for a later attempt.
"""

import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixsweep.core import records
from mixsweep.core.config import TrialConfig
from mixsweep.core.errors import ConfigError
from mixsweep.core.failures import CommandError
from mixsweep.core.records import Record
from mixsweep.core.scratch import copy_files, files_below
from mixsweep.core.trainables import interface
from mixsweep.core.trainables.command import guard
from mixsweep.core.trainables.command.kept_files import matching_files
from mixsweep.core.trainables.command.metrics import Metrics, make_reader
from mixsweep.core.trainables.command.template import CHECKPOINT, TRIAL_DIR, fill
from mixsweep.core.trainables.declared import DeclaredConfig
from mixsweep.core.trainables.definition import SECONDS

GRACE_SECONDS = 20.0  # from SIGTERM to SIGKILL, to save a checkpoint in
_END_SECONDS = 60.0  # for a command to end by itself after the last record of its budget
_POLL_SECONDS = 0.2
_MOST_AHEAD_SECONDS = 2.0  # of reading what a command has told, beside its checkpoint
_MOST_LINES = 10_000  # that wait to be read; then the command waits
_LAST_LINES = 3  # of its output, in the message of a failure


@dataclass(frozen=True, kw_only=True)
class Command:
    """How the trials of a sweep file's `[command]` are run.

    Args:
        run: the template of its words.
        metrics: where its records come from, as `metrics.make_reader` reads it.
        resume: more words where there is a checkpoint; '' if the command cannot resume.
        code: the folder with the files that each attempt gets a copy of, to run in.
        inputs: files and folders that are linked into that copy, by their paths in it.
        environment: more variables.
        time_limit: seconds of an attempt; 0: no limit.
        keep: patterns of files in the trial's folder that are kept with the trial.
    """

    run: str
    metrics: Any
    resume: str = ""
    code: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    time_limit: float = 0.0
    keep: Sequence[str] = ()


@dataclass(frozen=True)
class _Copied:
    """A copy of a checkpoint's files, and the number of records that had been told when it was made."""

    files: dict[str, bytes]
    after: int


_commands: dict[str, Command] = {}  # by kind


def attach(kind: str, command: Command) -> None:
    """Let this command run the trials of a kind in this process."""
    _commands[kind] = command


def start(config: TrialConfig, run: interface.Run) -> "CommandTrial":
    """Start a trial of a command.

    Raises:
        ConfigError: this process does not know the command.
    """
    assert isinstance(config, DeclaredConfig)
    command = _commands.get(config.kind)
    if command is None:
        raise ConfigError(f"{config.definition.name}: the command is not known in this process")
    return CommandTrial(config, command, run)


class CommandTrial:
    """A trial whose training is a command."""

    def __init__(self, config: DeclaredConfig, command: Command, run: interface.Run):
        self.config = config
        self.epoch = config.begins_after
        self.facts: Mapping[str, Any] = {}
        self._command = command
        self._run = run
        self._scratch = Path(tempfile.mkdtemp(prefix="mixsweep-"))
        self._trial_dir = self._scratch / "trial"
        self._trial_dir.mkdir()
        self._kept_before = self._scratch / "kept"
        self._read = make_reader(command.metrics, self._trial_dir)
        self._marks: list[float] = []  # the step, else the epoch, that each record told of itself
        self._first = self.epoch  # the record before the first of them
        self._files: dict[str, bytes] = {}  # of the newest checkpoint
        self._saved_at = self.epoch  # the record after which it was taken
        self._copied: _Copied | None = None  # a newer one, which records that are not in the store precede
        self._stamps: dict[str, tuple[int, int]] = {}
        self._pending: deque[Metrics] = deque()  # read, and not yet recorded
        self._attempt, self._began = 1, time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None
        self._pump_thread: threading.Thread | None = None
        self._lines: queue.Queue[str | None] = queue.Queue(_MOST_LINES)
        self._last: deque[str] = deque(maxlen=_LAST_LINES)

    def train(self, attempt: int = 1) -> Iterator[Record]:
        self._attempt, self._began = attempt, time.monotonic()
        self._begin()
        for metrics in self._read_records():
            yield self._record(metrics)
        self._check_exit()

    def state(self) -> dict[str, Any]:
        waits = self._run.until is not None and self._run.until <= self.epoch < self.config.epochs
        if waits:
            self._wait_for_end()
        self._take_checkpoint()
        if waits and not (self._files and self._saved_at == self.epoch):
            raise ConfigError(
                f"it left no checkpoint of record {self.epoch}, from which its population goes on"
            )
        return {
            "epoch": self.epoch,
            "saved_at": self._saved_at,
            "marks": self._marks,
            "files": dict(self._files),
        }

    def restore(self, state: dict[str, Any]) -> None:
        if not (state["files"] and self._command.resume):
            self._run.log("no checkpoint that the command can resume from: it starts again")
            return
        self._files, self.epoch = dict(state["files"]), state["saved_at"]
        self._saved_at, self._first = self.epoch, state["epoch"] - len(state["marks"])
        self._marks = list(state["marks"])[: self.epoch - self._first]
        copy_files(self._run.kept, self._kept_before)

    def leave(self) -> Iterator[Record]:
        """Tell the command to save and to end, and yield what it still has told."""
        self._terminate()
        for metrics in self._read_records():
            yield self._record(metrics)

    def test(self) -> Mapping[str, float]:
        """Wait until the command has ended; one that goes on after its last record is ended."""
        assert self._process is not None
        self._wait_for_end()
        if code := self._process.poll():
            self._run.log(f"exit code {code}")
        return {}

    def _wait_for_end(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _END_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            self._next_line()
        if self._process.poll() is None:
            self._run.log(f"still runs {_END_SECONDS:g} s after the last record of its budget: ended")
            self._terminate()

    def files_to_keep(self, is_last: bool) -> dict[str, Path]:
        """What matches a pattern of `keep`, and what the attempts that it resumes had kept; its own come first."""
        if is_last and self._command.keep:
            self._terminate()
        return {**files_below(self._kept_before), **matching_files(self._trial_dir, self._command.keep)}

    def close(self) -> None:
        self._terminate()
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            assert self._pump_thread is not None
            while self._pump_thread.is_alive():  # it may wait for room
                self._next_line()
            self._process.stdin.close()
            self._process.stdout.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _begin(self) -> None:
        values: dict[str, Any] = {**self.config.values, TRIAL_DIR: str(self._trial_dir)}
        if self._run.until is not None:  # of a population: it ends by itself where it is compared
            values[self.config.definition.budget] = min(self._run.until, self.config.epochs)
        words = fill(self._command.run, values)
        if self._files:
            values[CHECKPOINT] = str(self._write_checkpoint())
            words += fill(self._command.resume, values)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self._run.threads),
            "PYTHONUNBUFFERED": "1",
            **self._command.environment,
        }
        self._run.log(f"$ {' '.join(words)}")
        self._process = subprocess.Popen(
            [sys.executable, "-I", guard.__file__, str(GRACE_SECONDS), *words],
            cwd=self._make_tree(),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._pump_thread = threading.Thread(
            target=self._pump, args=(self._process,), daemon=True, name="command"
        )
        self._pump_thread.start()

    def _make_tree(self) -> Path:
        """A copy of the code, with the inputs linked in: what one attempt writes there, no other sees."""
        tree = self._scratch / "tree"
        if self._command.code:
            shutil.copytree(self._command.code, tree)
        else:
            tree.mkdir()
        for name, target in self._command.inputs.items():
            if not os.path.exists(target):
                raise ConfigError(f"inputs: {target} is not on {socket.gethostname()}")
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).symlink_to(target)
        return tree

    def _pump(self, process: "subprocess.Popen[bytes]") -> None:
        """Hand on the lines of its output; a progress bar returns to the start of its line."""
        assert process.stdout is not None
        rest = b""
        while chunk := os.read(process.stdout.fileno(), 65536):
            *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                self._lines.put(line.decode("utf-8", "backslashreplace"))
        if rest:
            self._lines.put(rest.decode("utf-8", "backslashreplace"))
        self._lines.put(None)

    @property
    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _next_line(self, seconds: float = _POLL_SECONDS) -> str | None:
        """The next line of output, '' if there is none within some time, None at its end."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            return ""
        if line and line.strip():
            self._last.append(line.strip())
            self._run.log(line)
        return line

    def _read_records(self) -> Iterator[Metrics]:
        began, limit = time.monotonic(), self._command.time_limit
        while True:
            while self._pending:
                yield self._pending.popleft()
            line = self._next_line()
            self._pending += self._read(line or "")
            if line is None and not self._pending:
                return
            if limit and time.monotonic() - began > limit:
                raise CommandError(f"it took longer than its time limit of {limit:g} s")

    def _record(self, metrics: Metrics) -> Record:
        self._count(metrics)
        step = int(metrics.pop("step", self.epoch))
        metrics.pop("epoch", None)
        seconds, self._began = time.monotonic() - self._began, time.monotonic()
        return Record(
            trial_id=self.config.trial_id,
            epoch=self.epoch,
            step=step,
            attempt=self._attempt,
            recorded_at=records.now(),
            metrics={**metrics, SECONDS: seconds},
        )

    def _count(self, metrics: Metrics) -> None:
        """Find the number of a record: the next one, or that of an earlier one that is told again after a resume."""
        mark = next((metrics[name] for name in ("step", "epoch") if name in metrics), None)
        if mark is not None and self._marks and mark <= self._marks[-1]:
            first = bisect_left(self._marks, mark)
            del self._marks[first:]
            self.epoch = self._first + first
        self.epoch += 1
        self._marks.append(float(self.epoch) if mark is None else mark)

    def _check_exit(self) -> None:
        assert self._process is not None
        code = self._process.wait()
        if code == 0:
            return
        said = f"exit code {code}: {' | '.join(self._last) or 'it printed nothing'}"
        raise ConfigError(said) if code == guard.NOT_FOUND else CommandError(said)

    def _take_checkpoint(self) -> None:
        """Take what the command has left as its checkpoint, once the records before it are in the store.

        The command runs on meanwhile. A checkpoint is copied first, then what has been told until then is read: it
        counts once all of that has been recorded, with the next call or the one after.
        """
        if self._copied is None or self._has_ended:
            self._copied = self._copy_checkpoint() or self._copied
        if self._copied is not None and self._copied.after <= self.epoch:
            self._files, self._saved_at = self._copied.files, self._copied.after
            self._copied = None if self._has_ended else self._copy_checkpoint()

    def _copy_checkpoint(self) -> "_Copied | None":
        """A copy of the checkpoint; None if there is no new one, or it is being written."""
        root = self._trial_dir / CHECKPOINT
        stamps = _stamps_of(root)
        if not stamps or stamps == self._stamps:
            return None
        files: dict[str, bytes] = {}
        try:
            for name in stamps:
                files[name] = (root / name if name else root).read_bytes()
        except OSError:
            return None
        if _stamps_of(root) != stamps:
            return None
        if not self._read_ahead():
            return None
        self._stamps = stamps
        return _Copied(files, self.epoch + len(self._pending))

    def _read_ahead(self) -> bool:
        """Read what has been told by now, without recording it; return False if it tells faster than that."""
        begun = time.monotonic()
        while (now := time.monotonic()) < begun + _POLL_SECONDS or not self._lines.empty():
            if now > begun + _MOST_AHEAD_SECONDS:
                return False
            line = self._next_line(_POLL_SECONDS / 10)
            if line is None:
                self._lines.put(None)
                break
            self._pending += self._read(line)
        return True

    def _write_checkpoint(self) -> Path:
        root = self._scratch / "resume-from"
        for name, content in self._files.items():
            path = root / name if name else root
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return root

    def _terminate(self) -> None:
        """End the command and its children: SIGTERM, and SIGKILL after some time."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS + 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _stamps_of(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of each file of a checkpoint by its path, '' for one that is a file."""
    found: dict[str, tuple[int, int]] = {}
    try:
        paths = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
        for path in paths:
            facts = path.stat()
            name = "" if path == root else str(path.relative_to(root))
            found[name] = (facts.st_size, facts.st_mtime_ns)
    except OSError:
        return {}
    return found
