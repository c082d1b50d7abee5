"""Simulated sweeps: figures, how trials end, and what is true of the values."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixsweep.analysis.inference.procedures.blocks import Blocks
from mixsweep.analysis.inference.procedures.decisions import Case, Decision
from mixsweep.analysis.inference.statistics import CONTRADICTED, SUPPORTED
from mixsweep.sweep.planning.schema import Stopping
from mixsweep.sweep.search.asha import decide, milestones
from mixsweep.sweep.search.rungs import STOP, RungEntry


def blocks_of(
    figures: np.ndarray,
    *,
    pending: np.ndarray | None = None,
    stopped: np.ndarray | None = None,
    declared: int | None = None,
) -> Blocks:
    """The blocks of figures [values, seeds], as `analysis` makes them of a sweep with one axis."""
    nothing = np.zeros(figures.shape, dtype=bool)
    return Blocks(
        figures=figures[:, None],
        planned=~nothing[:, None],
        pending=(nothing if pending is None else pending)[:, None],
        stopped=(nothing.astype(int) if stopped is None else stopped)[:, None],
        declared=figures.shape[1] if declared is None else declared,
    )


@dataclass(frozen=True)
class Truth:
    """The true mean of each value [values], larger is better."""

    means: np.ndarray

    def is_false(self, case: Case, decision: Decision) -> bool:
        """Whether what is decided of a case is not true."""
        if decision.leader is not None:
            leader = self.means[decision.leader.value] if decision.leader.value >= 0 else 0.0
            return any(leader <= self.means[other] for other in decision.leader.lower)
        assert case.hypothesis is not None
        apart = np.array([self.means[a] - self.means[b] for a, b in case.hypothesis.pairs])
        if case.hypothesis.kind == "alike":
            outside = np.abs(apart) - case.hypothesis.margin
            holds, reverse = bool((outside < 0).all()), bool((outside > 0).any())
        elif case.hypothesis.kind == "monotone":
            holds, reverse = bool((apart >= 0).all() and (apart > 0).any()), bool((apart < 0).any())
        else:
            holds, reverse = bool((apart > 0).all()), bool((apart < 0).any())
        return (decision.kind == SUPPORTED and not holds) or (decision.kind == CONTRADICTED and not reverse)


def reveal(figures: np.ndarray, order: Sequence[int], ended: int) -> tuple[np.ndarray, np.ndarray]:
    """The figures [values, seeds] and pending trials after the first few of an order have ended."""
    pending = np.ones(figures.size, dtype=bool)
    pending[list(order[:ended])] = False
    pending = pending.reshape(figures.shape)
    return np.where(pending, np.nan, figures), pending


def run_asha(
    curves: np.ndarray, order: Sequence[int], rule: Stopping, at_once: int
) -> tuple[np.ndarray, np.ndarray]:
    """Run curves [values, seeds, epochs] under the rule, a number of trials at once.

    Returns:
        the final figures [values, seeds], NaN where stopped, and the epoch of each stop, else 0.
    """
    values, seeds, epochs = curves.shape
    figures, stopped = np.full(values * seeds, np.nan), np.zeros(values * seeds, dtype=int)
    flat, waiting = curves.reshape(values * seeds, epochs), list(order)
    rungs: dict[int, list[RungEntry]] = {at: [] for at in milestones(rule, epochs)}
    running: dict[int, int] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            running[waiting.pop(0)] = 0
        for trial in list(running):
            running[trial] += 1
            epoch = running[trial]
            if epoch in rungs:
                value = float(flat[trial, epoch - 1])
                decision = decide(rule, "max", rungs[epoch], value)
                rungs[epoch].append(RungEntry(trial_id=str(trial), attempt=1, value=value, decision=decision))
                if decision == STOP:
                    stopped[trial] = epoch
            if stopped[trial] or epoch == epochs:
                figures[trial] = np.nan if stopped[trial] else flat[trial, -1]
                del running[trial]
    return figures.reshape(values, seeds), stopped.reshape(values, seeds)
