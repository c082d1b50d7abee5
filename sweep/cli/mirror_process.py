"""`sweep mirror`, and the separate process of `sweep run --mirror`. Both only read the store."""

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mixsweep.analysis.wandb_mirror.mirror import Mirror, SyncPass, once, watch
from mixsweep.analysis.wandb_mirror.sinks import OfflineSink, OnlineSink, Sink
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.plan import labels_of, read_plan

PROJECT = "mixsweep"
_LAST_PASS_SECONDS = 120.0  # after the sweep has ended


@dataclass(frozen=True, kw_only=True)
class MirrorOptions:
    """The destination of a mirror."""

    offline: bool = False
    project: str = PROJECT
    entity: str | None = None
    artifacts: bool = False  # not while watching, which would push a version at every pass

    def words(self) -> list[str]:
        """Return the options as words of a command line."""
        words = ["--project", self.project]
        words += ["--entity", self.entity] if self.entity else []
        return words + ["--offline"] * self.offline


def wants_offline(asked: bool) -> bool:
    """Whether runs are written into folders: by the option or by WANDB_MODE."""
    return asked or os.environ.get("WANDB_MODE") in ("offline", "dryrun")


def mirror_sweeps(
    stores: Sequence[SweepStore],
    options: MirrorOptions,
    say: Callable[[str], None],
    watching: bool = False,
    over: Callable[[], bool] = lambda: False,
) -> SyncPass:
    """Push sweeps to W&B, once or until `over`.

    Raises:
        MirrorError: W&B cannot be used.
    """
    mirror = Mirror([(store, _target(store, options)) for store in stores], _labels, options.artifacts)
    try:
        return watch(mirror, say, over) if watching else once(mirror)
    finally:
        mirror.close()


def parent_is_gone() -> bool:
    """Whether standard input has ended, because the parent command has ended or was killed."""
    ready, _, _ = select.select([sys.stdin], [], [], 0)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)


@contextmanager
def mirror_beside(store: SweepStore, options: MirrorOptions, say: Callable[[str], None]) -> Iterator[None]:
    """Mirror a sweep in a separate process while the block runs, then for a last pass.

    Trials never wait for it. Its output lines go to `say`.
    """
    command = [sys.executable, "-m", "mixsweep", "mirror", str(store.path.absolute()), "--watch", "--beside"]
    process = subprocess.Popen(
        [*command, *options.words()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches only the trials; the mirror ends after them
    )
    assert process.stdin is not None
    assert process.stdout is not None
    listener = threading.Thread(target=_forward, args=(process.stdout, say), daemon=True)
    listener.start()
    try:
        yield
    finally:
        process.stdin.close()
        try:
            process.wait(_LAST_PASS_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            say(f"The mirror did not finish in time; run `sweep mirror {store.path}` to complete it.")
        listener.join(5)


def wait_for_sweep(store: SweepStore, over: Callable[[], bool]) -> bool:
    """Wait until a sweep is in the store; return False if its command ended before."""
    while not store.exists():
        if over():
            return store.exists()
        time.sleep(0.2)
    return True


def _forward(lines: Iterator[str], say: Callable[[str], None]) -> None:
    for line in lines:
        say(line.rstrip())


def _target(store: SweepStore, options: MirrorOptions) -> Sink:
    if options.offline:
        return OfflineSink(offline_folder(store), options.project, options.entity)
    return OnlineSink(store.path / "mirror", options.project, options.entity)


def offline_folder(store: SweepStore) -> Path:
    """Return the folder of a sweep's offline runs, for `wandb sync`."""
    return store.path / "wandb"


def _labels(store: SweepStore) -> Mapping[str, str]:
    return labels_of(read_plan(store))
