"""Weights & Biases as a mirror of the store: it only reads the store, takes no lock, and never delays a trial."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import pyarrow as pa

from mixsweep.analysis.wandb_mirror.artifacts import artifact_runs, kept_files
from mixsweep.analysis.wandb_mirror.payload import ArtifactContent, RunContent, run_content
from mixsweep.analysis.wandb_mirror.sinks import Sink, TransientError
from mixsweep.core.errors import UserError
from mixsweep.core.failures import DamagedError
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.folder import TrialFolder
from mixsweep.core.store.trial.info import TrialInfo

# The display name of each trial of a store, by trial id.
Labels = Callable[[SweepStore], Mapping[str, str]]

_AT_ONCE = 8  # pushes that wait for a server at the same time


@dataclass(frozen=True, kw_only=True)
class SyncPass:
    """Counts of one pass over the store."""

    runs: int = 0  # runs in the store
    changed: int = 0  # runs of which something was pushed
    rows: int = 0  # rows pushed
    artifacts: int = 0  # artifacts in the store
    artifacts_changed: int = 0  # artifacts that were pushed
    troubles: tuple[str, ...] = ()  # one error per run that could not be pushed

    def __add__(self, other: "SyncPass") -> "SyncPass":
        return SyncPass(
            **{spec.name: getattr(self, spec.name) + getattr(other, spec.name) for spec in fields(SyncPass)}
        )


class Mirror:
    """Pushes sweeps to a target repeatedly; a trial whose files have not changed is not read twice.

    Args:
        targets: a sink for each sweep, since each has its own cursors or folder.
        labels: display names of runs.
        artifacts: also push the best models, the reports, and the files that ended trials keep.
    """

    def __init__(self, targets: Sequence[tuple[SweepStore, Sink]], labels: Labels, artifacts: bool = False):
        self._targets = targets
        self._labels = labels
        self._artifacts = artifacts
        self._seen: dict[tuple[str, str], tuple[tuple[object, ...], ...]] = {}
        self._kept: dict[SweepStore, list[RunContent]] = {}  # runs of artifacts, made once per sweep

    def run(self) -> SyncPass:
        """Mirror every sweep once."""
        total = SyncPass()
        for store, target in self._targets:
            if not store.exists():
                continue  # its command has not written it yet
            with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="mirror") as pool:
                for done in pool.map(lambda job: self._one(*job), self._jobs(store, target)):
                    total += done
            if self._artifacts:
                total += self._artifacts_of(store, target)
        return total

    def close(self) -> None:
        for _, target in self._targets:
            target.close()

    def _jobs(self, store: SweepStore, target: Sink) -> Iterator[tuple[TrialFolder, Sink, Any]]:
        objective = store.objective()
        places = {row["trial_id"]: row for row in store.plan().to_pylist()[::-1]}
        labels = self._labels(store)

        def content(folder: TrialFolder) -> tuple[RunContent | None, str]:
            info = folder.info()
            row = places.get(folder.trial_id)
            if info is None or row is None:
                return None, ""
            place = {name: row[name] for name in ("part", "point", "replica") if name in row}
            kept, damage = self._kept_files(store, info)
            run = run_content(
                store,
                info,
                labels.get(folder.trial_id, ""),
                place,
                objective.metric,
                objective.mode,
                target.only_settled,
                kept,
            )
            return run, damage

        for folder in store.trials():
            yield folder, target, content

    def _kept_files(self, store: SweepStore, info: TrialInfo) -> tuple[ArtifactContent | None, str]:
        """The files that a trial keeps, if they are to be pushed, and what is wrong with them."""
        try:
            return kept_files(store, info) if self._artifacts else None, ""
        except DamagedError as error:
            return None, str(error)

    def _one(
        self,
        folder: TrialFolder,
        target: Sink,
        content: Callable[[TrialFolder], tuple[RunContent | None, str]],
    ) -> SyncPass:
        key, stamps = (str(folder.path), str(id(target))), _stamps(folder)
        if not stamps:
            return SyncPass()
        if self._seen.get(key) == stamps:
            return SyncPass(runs=1)
        try:
            run, damage = content(folder)
        except (OSError, UserError, pa.ArrowInvalid) as error:
            return SyncPass(troubles=(f"{folder.trial_id}: {error}",))
        if run is None:
            return SyncPass()
        done = _push(run, target)
        if damage:
            done = replace(done, troubles=(*done.troubles, f"{folder.trial_id}: {damage}"))
        if done.troubles:
            return done
        if run.ended:  # a running trial may become `lost` without a change of its files
            self._seen[key] = stamps
        return done

    def _artifacts_of(self, store: SweepStore, target: Sink) -> SyncPass:
        runs, total = self._kept.get(store, []), SyncPass()
        try:
            if store not in self._kept:
                runs.extend(artifact_runs(store))
                self._kept[store] = runs
        except (OSError, UserError, pa.ArrowInvalid) as error:
            total = SyncPass(troubles=(f"artifacts of {store.name}: {error}",))
        for run in runs:
            done = _push(run, target)
            total += SyncPass(artifacts=1, artifacts_changed=done.changed, troubles=done.troubles)
        return total


def watch(
    mirror: Mirror,
    say: Callable[[str], None],
    over: Callable[[], bool] = lambda: False,
    pause_seconds: float = 5.0,
) -> SyncPass:
    """Mirror until `over`, then once more, and return the last pass. An outage of the server is reported once."""
    silent, wait = False, pause_seconds
    while True:
        last = over()
        done = mirror.run()
        if done.troubles and not silent:
            say(f"W&B: push failed ({done.troubles[0]}); the trials keep running, and the mirror retries.")
        if silent and not done.troubles:
            say("W&B answers again; the mirror is up to date.")
        silent = bool(done.troubles)
        if last:
            return done
        wait = min(60.0, 2 * wait) if silent else pause_seconds
        end = time.monotonic() + wait
        while time.monotonic() < end and not over():
            time.sleep(0.2)


def once(mirror: Mirror, tries: int = 3) -> SyncPass:
    """Mirror once, and retry the runs that could not be pushed."""
    done = mirror.run()
    for _ in range(tries - 1):
        if not done.troubles:
            break
        again = mirror.run()
        done = replace(
            again,
            changed=done.changed + again.changed,
            rows=done.rows + again.rows,
            artifacts_changed=done.artifacts_changed + again.artifacts_changed,
        )
    return done


def _push(run: RunContent, target: Sink) -> SyncPass:
    try:
        pushed = -1 if target.is_current(run) else target.push(run)
    except (TransientError, OSError) as error:
        return SyncPass(runs=1, troubles=(str(error),))
    changed, artifacts = int(pushed >= 0), int(run.artifact is not None)
    return SyncPass(
        runs=1,
        changed=changed,
        rows=max(0, pushed),
        artifacts=artifacts,
        artifacts_changed=changed * artifacts,
    )


def _stamps(folder: TrialFolder) -> tuple[tuple[object, ...], ...]:
    """The stamps of a trial's files, which change with them; () before its first attempt."""
    return tuple(map(tuple, folder.stamp()))
