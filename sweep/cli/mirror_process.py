"""`sweep mirror`, and the mirror beside `sweep run --mirror`: a process of its own that only reads the store."""

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
_FAREWELL_SECONDS = 120.0  # for the last pass, once a sweep has ended


@dataclass(frozen=True, kw_only=True)
class MirrorOptions:
    """Where a mirror goes."""

    offline: bool = False
    project: str = PROJECT
    entity: str | None = None
    artifacts: bool = False  # one version of a sweep: a mirror that watches would push one at every look

    def words(self) -> list[str]:
        """As words of a command line."""
        words = ["--project", self.project]
        words += ["--entity", self.entity] if self.entity else []
        return words + ["--offline"] * self.offline


def wants_offline(asked: bool) -> bool:
    """Whether runs are written into folders: as asked, or as W&B's own variable says."""
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
        MirrorError: W&B cannot be used at all.
    """
    mirror = Mirror([(store, _target(store, options)) for store in stores], _labels, options.artifacts)
    try:
        return watch(mirror, say, over) if watching else once(mirror)
    finally:
        mirror.close()


def parent_is_gone() -> bool:
    """Whether standard input has ended: the command that this mirror goes with has ended, or was killed."""
    ready, _, _ = select.select([sys.stdin], [], [], 0)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)


@contextmanager
def mirror_beside(store: SweepStore, options: MirrorOptions, say: Callable[[str], None]) -> Iterator[None]:
    """A mirror of a sweep in a process of its own, as long as the block lasts and for a last pass.

    Trials never wait for it; its lines are passed on.
    """
    command = [sys.executable, "-m", "mixsweep", "mirror", str(store.path.absolute()), "--watch", "--beside"]
    process = subprocess.Popen(
        [*command, *options.words()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a Ctrl-C is for the trials; it ends after them
    )
    assert process.stdin is not None
    assert process.stdout is not None
    listener = threading.Thread(target=_hand_on, args=(process.stdout, say), daemon=True)
    listener.start()
    try:
        yield
    finally:
        process.stdin.close()
        try:
            process.wait(_FAREWELL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            say(f"The mirror did not finish in time; run `sweep mirror {store.path}` to complete it.")
        listener.join(5)


def wait_for_sweep(store: SweepStore, over: Callable[[], bool]) -> bool:
    """Wait until a sweep is in the store; False where its command ended before."""
    while not store.exists():
        if over():
            return store.exists()
        time.sleep(0.2)
    return True


def _hand_on(lines: Iterator[str], say: Callable[[str], None]) -> None:
    for line in lines:
        say(line.rstrip())


def _target(store: SweepStore, options: MirrorOptions) -> Sink:
    if options.offline:
        return OfflineSink(offline_folder(store), options.project, options.entity)
    return OnlineSink(store.path / "mirror", options.project, options.entity)


def offline_folder(store: SweepStore) -> Path:
    """Where a sweep's offline runs lie: what `wandb sync` is given."""
    return store.path / "wandb"


def _labels(store: SweepStore) -> Mapping[str, str]:
    return labels_of(read_plan(store))
