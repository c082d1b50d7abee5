"""What a process that trains does, in every place: units of work by the sweep's rule and the store's requests."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import registry
from core.records import EpochRecord
from core.setting import Setting, Unit
from core.store import SweepStore, TrialInfo
from sweep.plan import Plan
from sweep.spec import parse_spec
from sweep.stopping import make_decide


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What a command tells its workers: how to train, and the sweep file as that command read it."""

    setting: Setting
    source: Mapping[str, Any]
    epochs: Mapping[str, int]  # of every trial of the plan, by id: those that a stopping rule compares


def give_orders(plan: Plan, setting: Setting) -> Orders:
    """The orders of a command that runs this plan."""
    epochs = {config.trial_id: config.epochs for config in plan.trials}
    return Orders(setting=setting, source=plan.spec.source, epochs=epochs)


def work_by(
    orders: Orders,
    units: Sequence[Unit],
    on_record: Callable[[EpochRecord], None] = lambda record: None,
    pause: Callable[[], str] | None = None,
) -> Iterator[TrialInfo]:
    """Run what is free of these units; yield each trial's end.

    Args:
        pause: asked after each epoch, as core.execute has it; None: only whether the store asks for a stop.
    """
    from core.execute import work  # torch, which a driver does without

    setting = orders.setting
    store = SweepStore(setting.store)
    for file in orders.source.get("imports", []):
        registry.import_file(Path(file))
    spec = parse_spec(orders.source)
    return work(
        units,
        setting,
        decide=make_decide(spec.stopping, store, spec.metric, spec.mode, orders.epochs),
        pause=pause or (lambda: "interrupted" if store.stop_requested(setting.started_at) else ""),
        report=on_record,
    )
