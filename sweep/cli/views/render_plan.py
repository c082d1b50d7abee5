"""The output of `sweep plan`: trials, duplicates, what is done, and the cost of the rest."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from mixsweep.cluster.places import Place
from mixsweep.core.config import TrialConfig
from mixsweep.core.execution.remaining import is_done
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.superseded import Superseded
from mixsweep.core.formatting import axes_lines, rough_duration
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.backends.base import SubmissionPreview, find_backend
from mixsweep.sweep.cli.views.live_view import STYLES, superseded_line
from mixsweep.sweep.planning.forecast import MeasuredPace, RemainingWork, forecast, measured_rates
from mixsweep.sweep.planning.plan import Plan, other_code, other_code_line
from mixsweep.sweep.search.suggestions import coming, to_come


def next_action(config: TrialConfig, store: SweepStore, run_config: RunConfig) -> tuple[str, int]:
    """Return what the next run does with a trial, and in how many epochs.

    The action is one of: done, failed, new, runs now, is tried again, continues, `from the start` (the trial has
    records, but its checkpoint is gone).
    """
    folder = store.trial(config.trial_id)
    info = folder.info(verify=True)
    if info is None:
        return "new", config.epochs - config.begins_after
    if is_done(info, config, run_config):
        return ("failed" if info.state == "failed" else "done"), 0
    rows = folder.records().num_rows
    trained = min(config.begins_after + rows, config.epochs)
    if rows and not folder.has_checkpoint():
        return "from the start", config.epochs
    action = {"running": "runs now", "failed": "is tried again"}.get(info.state, "continues")
    return action, config.epochs - trained


def plan_mapping(
    plan: Plan, root: Path, place: Place, measured: MeasuredPace | None = None
) -> dict[str, Any]:
    """Return the plan as plain values for `--json`."""
    store, run_config = _where(plan, root, place)
    rows = []
    todo = []
    for config in plan.trials:
        action, epochs = next_action(config, store, run_config)
        label = plan.labels[config.trial_id]
        rows.append({"trial_id": config.trial_id, "label": label, "standing": action, "epochs_left": epochs})
        todo.append((config, epochs))
    todo += [(config, config.epochs) for config in coming(plan)]
    cost = forecast(
        [RemainingWork(config, epochs) for config, epochs in todo if epochs], measured_rates(root), measured
    )
    preview = _submission(plan, place, todo, store)
    return {
        "sweep": plan.spec.name,
        "question": plan.spec.question,
        "trials": rows,
        "to_come": to_come(plan.spec, len(plan.trials)),
        "duplicates": plan.duplicates,
        "excluded": plan.excluded,
        "axes": axes_of(plan),
        "shared": plan.shared,
        "superseded": list(superseded_by(plan, store)),
        "other_code": other_code(plan, store),
        "forecast_seconds": cost.seconds,
        "forecast_basis": cost.basis,
        "packing": preview.packing,
        "batch_scripts": list(preview.scripts),
    }


def describe_plan(
    plan: Plan, root: Path, place: Place, out: Console, measured: MeasuredPace | None = None
) -> None:
    """Print the plan."""
    store, run_config = _where(plan, root, place)
    out.print(Text(plan.spec.name, "bold"), Text(plan.spec.question, "italic"))
    todo: list[tuple[TrialConfig, int]] = []
    counts: Counter[str] = Counter()
    for config in plan.trials:
        action, epochs = next_action(config, store, run_config)
        counts[action] += 1
        if epochs:
            todo.append((config, epochs))
        style = {"done": STYLES["completed"], "failed": STYLES["failed"], "new": ""}.get(action, "yellow")
        line = Text(f"{config.trial_id}  ").append(f"{action:<14}", style)
        out.print(line.append(f"  {plan.labels[config.trial_id]}"))
    kinds = ", ".join(f"{count} {action}" for action, count in counts.items())
    out.print(f"{len(plan.trials)} trials: {kinds}", markup=False)
    if extra := sum(row.replica >= len(plan.spec.seeds) for row in plan.rows):
        out.print(f"{extra} of them are seeds that --more-evidence has added", markup=False)
    if more := coming(plan):
        todo += [(config, config.epochs) for config in more]
        out.print(f"{len(more)} more will be chosen by the search as others end", markup=False)
    if plan.duplicates:
        out.print(f"{plan.duplicates} duplicates left out: points that are the same trial", markup=False)
    for words in axes_of(plan):
        out.print(words, markup=False, soft_wrap=True)
    if plan.shared:
        out.print(f"{plan.shared} trials answer several questions and run once", markup=False)
    if found := superseded_by(plan, store):
        out.print(superseded_line(len(found)), markup=False)
    if told := other_code_line(plan, store, other_code(plan, store)):
        out.print(told, style="yellow", markup=False, soft_wrap=True)
    for note in ineffective(plan):
        out.print(note, style="yellow", markup=False)
    work = [RemainingWork(config, epochs) for config, epochs in todo]
    cost = forecast(work, measured_rates(root), measured)
    if cost.seconds is None:
        out.print(f"forecast: unknown: {cost.basis}", markup=False)
    else:
        out.print(f"forecast: {rough_duration(cost.seconds)} of one device ({cost.basis})", markup=False)
    preview = _submission(plan, place, todo, store)
    if preview.packing:
        out.print(preview.packing, markup=False, soft_wrap=True)
    for script in preview.scripts:
        out.print(f"\nbatch script:\n{script}", markup=False, soft_wrap=True)


def superseded_by(plan: Plan, store: SweepStore) -> tuple[str, ...]:
    """Return the trials in the store that this plan has again with other code."""
    if plan.spec.code != "pin":
        return ()
    return Superseded(store).among(store.trial_names(), {config.trial_id: config for config in plan.trials})


def axes_of(plan: Plan) -> list[str]:
    """Return lines that say which axes are zipped, which points are excluded and which fields are derived."""
    source = plan.spec.source
    several = "parts" in source
    lines = [
        f"{part.name}: {line}" if several else line
        for part, table in zip(plan.spec.parts, source.get("parts", [source]))
        for line in axes_lines(table)
    ]
    if plan.excluded:
        points = "1 point" if plan.excluded == 1 else f"{plan.excluded} points"
        lines.append(f"{points} left out by [combine] exclude")
    return lines


def ineffective(plan: Plan) -> list[str]:
    """Return notes on fields that are set but have no effect on any trial."""
    notes = []
    for part in plan.spec.parts if plan.rows else ():
        trials = [row.config for row in plan.rows if row.part == part.name]
        for name, value in part.base.items():
            wanted = tuple(value) if isinstance(value, list) else value
            varies = name in part.space or name in part.derive
            if name != "seed" and not varies and all(c[name] != wanted for c in trials):
                notes.append(
                    f"note: {part.name}: {name} = {value!r} has no effect with the other fields as they are"
                )
    return notes


def _submission(
    plan: Plan, place: Place, todo: Sequence[tuple[TrialConfig, int]], store: SweepStore
) -> SubmissionPreview:
    """Return what a run would submit to a batch scheduler."""
    work = [RemainingWork(config, epochs) for config, epochs in todo if epochs]
    return find_backend(place).submission(plan.spec, work, store)


def _where(plan: Plan, root: Path, place: Place) -> tuple[SweepStore, RunConfig]:
    store = SweepStore(root / plan.spec.name)
    return store, RunConfig(store=store.path, place=place.name, stopping=plan.spec.may_stop_trials)
