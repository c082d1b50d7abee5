"""What a process that trains does, in every place: units of work by the store's own rule and requests."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from core import registry
from core.records import EpochRecord
from core.setting import Setting, Unit
from core.store import SweepStore, TrialInfo
from sweep.spec import parse_spec
from sweep.stopping import make_decide


def work_from_store(
    units: Sequence[Unit],
    setting: Setting,
    on_record: Callable[[EpochRecord], None] = lambda record: None,
) -> Iterator[TrialInfo]:
    """Run units under the stopping rule and stop requests of the store's sweep; yield each trial's end."""
    from core.execute import work  # torch, which a driver does without

    store = SweepStore(setting.store)
    source = store.sweep_file()
    for file in source.get("imports", []):
        registry.import_file(Path(file))
    spec = parse_spec(source)
    epochs = {config.trial_id: config.epochs for unit in units for config in unit}
    return work(
        units,
        setting,
        decide=make_decide(spec.stopping, store, spec.metric, spec.mode, epochs.__getitem__),
        pause=lambda: "interrupted" if store.stop_requested() else "",
        report=on_record,
    )
