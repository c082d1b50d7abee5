"""Sweeps that were made to have certain verdicts, and their judgement."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixsweep.analysis.frames import load, load_trials, parts
from mixsweep.analysis.inference.claims import Verdict, answer, evaluate_claims
from mixsweep.core.store.store import SweepStore
from tests.support.synthetic_store import SyntheticPart, write_sweep

CLAIM = {"text": "relu is best", "compare": "activation", "better": "relu", "than": "rest"}


def judged(store: SweepStore) -> tuple[str, list[Verdict]]:
    (part,) = parts(store)
    frame, trials = load(store), load_trials(store)
    return answer(part, frame, trials), evaluate_claims(part, frame, trials)


def activations(
    path: Path,
    claim: Mapping[str, Any] = CLAIM,
    states: Mapping[Any, Sequence[str]] | None = None,
    seeds: int = 3,
    noise: float = 0.002,
    final: tuple[float, ...] = (0.55, 0.52, 0.40),
    **changes: Any,
) -> SweepStore:
    names = ("relu", "tanh", "sigmoid")
    part = SyntheticPart(
        name="activations",
        space={"activation": list(names)},
        final=dict(zip(names, final)),
        noise=noise,
        states=states or {},
        claims=[claim],
    )
    return write_sweep(path / "activations", [part], seeds=seeds, **changes)
