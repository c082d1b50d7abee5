"""The report of one or more sweeps: figures, tables, and one self-contained page."""

import base64
import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from mixsweep.analysis.frames import (
    Part,
    Sweep,
    load,
    load_trials,
    of_part,
    open_sweep,
    parts,
    plain,
    trial_infos,
    values_of,
)
from mixsweep.analysis.inference import claims
from mixsweep.analysis.inference.wording import axis_words, figure_text, listing, metric_words, value_label
from mixsweep.analysis.report import figures, methods, tables
from mixsweep.core.errors import UserError
from mixsweep.core.extras import is_installed
from mixsweep.core.formatting import duration, energy_text, size_text
from mixsweep.core.store.files import write_bytes
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables.definition import UNLIMITED

# The names of a report's figures and tables: a part's slug, then the kind of figure or table.
_TABLES = ("results", "costs", "trials")
_MOST_TRIALS = 100  # shown on the page; the file has all
_FILE_NAME = re.compile(
    r"[a-z0-9-]+-((results|costs|trials)\.(csv|tex)|(best|heat|kernels|token-units|curves(-\w+)?)\.(png|svg))"
)


@dataclass(frozen=True)
class _Picture:
    """A figure on the page and in two files."""

    name: str
    caption: str
    alt: str
    data_uri: str
    width: float  # inches


@dataclass(frozen=True)
class _Best:
    trial_id: str
    sentence: str
    command: str
    config: list[tuple[str, str, bool]]
    figures: list[_Picture] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class _Ablation:
    """The content of the page for one part."""

    slug: str
    question: str
    origin: str
    answer: str
    claims: list[claims.Verdict]
    figures: list[_Picture]
    results: tables.Table
    results_caption: str
    costs: tables.Table
    costs_caption: str
    trials: tables.Table
    trials_caption: str
    best: _Best | None


def write_report(sweeps: Sequence[Sweep], out: Path | None = None) -> Path:
    """Write figures (PNG, SVG), tables (CSV, LaTeX) and `index.html`; return the page's path.

    The same store gives the same bytes. A sweep that still runs is reported up to its current state.

    Args:
        sweeps: folders of sweeps.
        out: the folder to write to; left out: `report/` in the first sweep's folder.

    Raises:
        UserError: no sweep is given, or one is unknown or empty.
    """
    if not sweeps:
        raise UserError("no sweep to report on")
    stores = [open_sweep(sweep) for sweep in sweeps]
    out = Path(out) if out is not None else stores[0].path / "report"
    out.mkdir(parents=True, exist_ok=True)
    frame, trials = load(*stores), load_trials(*stores)
    slugs: set[str] = set()
    ablations = [
        _ablation(store, part, _new_slug(part, slugs), of_part(part, frame), of_part(part, trials), out)
        for store in stores
        for part in parts(store)
    ]
    infos = {trial_id: info for store in stores for trial_id, info in trial_infos(store).items()}
    if not infos:
        raise UserError(f"{stores[0].path}: none of the plan's trials has begun; run it first")
    names = [str(store.sweep_file()["name"]) for store in stores]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mixsweep.analysis.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("template.html.j2").render(
        title=listing(names),
        summary=_summary(trials, infos) + methods.code_warning(stores, infos),
        notes=methods.notes(stores, infos),
        ablations=ablations,
        forecasts=methods.forecasts(stores),
        failures=methods.failures(infos),
        provenance=methods.provenance(infos),
        methods=[*methods.methods(stores), *methods.axes(stores)],
    )
    write_bytes(out / "index.html", page.encode())
    _remove_stale(out, ablations)
    return out / "index.html"


def files_of(page: Path) -> list[Path]:
    """The files of a written report, its page first, without other files in the same folder."""
    names = json.loads((page.parent / "files.json").read_text(encoding="utf-8"))
    return [page, *(page.parent / name for name in names)]


def _ablation(
    store: SweepStore, part: Part, slug: str, frame: pd.DataFrame, trials: pd.DataFrame, out: Path
) -> _Ablation:
    results = tables.ablation_table(part, frame, trials)
    costs = tables.cost_table(part, trials)
    each = tables.trial_table(part, trials)
    results_text = tables.ablation_text(part, results)
    costs_text = tables.cost_text(part, costs, trials)
    each_text = tables.trial_text(part, each)
    tests = listing(map(metric_words, part.trainable.reported_tests))
    tested = f", and {tests} at the last epoch" if tests else ""
    epochs = (
        "at each trial's best epoch" if part.score == "best" else "at the last epoch and at each trial's best"
    )
    results_caption = (
        f"{metric_words(part.metric).capitalize()} {epochs}{tested}: "
        "mean ± 95 % t-interval over the seeds that have it."
    )
    costs_caption = (
        "Parameters, and times as medians over epochs without the first, and over seeds. Device time is wall "
        "time times the devices of a trial."
    )
    if costs["energy_joules"].notna().any():
        costs_caption += " Energy is that of a trial's first device during the trial, for all processes."
    each_caption = "Best first. Device time is summed over all attempts of a trial."
    for name, table, text, caption in (
        ("results", results, results_text, results_caption),
        ("costs", costs, costs_text, costs_caption),
        ("trials", each, each_text, each_caption),
    ):
        write_bytes(out / f"{slug}-{name}.csv", tables.csv_bytes(table))
        write_bytes(out / f"{slug}-{name}.tex", tables.latex(text, caption, f"{slug}-{name}").encode())
    varied = listing(axis_words(axis) for axis in part.axes) or "nothing but the seed"
    seeds = trials["replica"].nunique()
    where = f"Sweep {part.sweep}" if part.name == part.sweep else f"Part {part.name} of sweep {part.sweep}"
    return _Ablation(
        slug=slug,
        question=part.question or part.name,
        origin=f"{where}. Varied: {varied}. {len(trials)} trials, {seeds} seed{'s' if seeds > 1 else ''}.",
        answer=claims.answer(part, frame, trials),
        claims=claims.evaluate_claims(part, frame, trials),
        figures=_curves(part, slug, frame, trials, out),
        results=results_text,
        results_caption=results_caption,
        costs=costs_text,
        costs_caption=costs_caption,
        trials=replace(each_text, rows=each_text.rows[:_MOST_TRIALS]),
        trials_caption=_of_all(each_caption, len(each), f"{slug}-trials.csv"),
        best=_best(store, part, slug, frame, trials, out),
    )


def _of_all(caption: str, count: int, file: str) -> str:
    return (
        f"{caption} The first {_MOST_TRIALS} of {count}; all are in {file}."
        if count > _MOST_TRIALS
        else caption
    )


def _curves(part: Part, slug: str, frame: pd.DataFrame, trials: pd.DataFrame, out: Path) -> list[_Picture]:
    if frame.empty:
        return []
    drawn = []
    for axis in part.axes or (None,):
        values = _drawn_values(part, trials, axis) if axis else None
        others = [axis_words(other) for other in (part.others(axis, trials) if axis else ())]
        caption = f"{part.trainable.curve_words.capitalize()} against epochs"
        caption += f", a line for each {axis_words(axis)}" if axis else ""
        caption += f", averaged over {listing(others)}" if others else ""
        caption += ": mean over the trials that reached the epoch; the band spans the least and the greatest."
        if (frame["state"] == "diverged").any():
            caption += " A large cross marks where a value's trials diverged."
        if axis and values and len(values) < len(values_of(trials, axis)):
            caption += f" Drawn: the best {len(values)} of {len(values_of(trials, axis))} values."
        name = f"{slug}-curves-{axis.replace('/', '.')}" if axis else f"{slug}-curves"
        drawn.append(
            _picture(figures.draw_curves(frame, axis, values, trainable=part.trainable), name, caption, out)
        )
    if (
        len(part.axes) == 2
        and set(part.axes) not in map(set, part.zipped)
        and f"final_{part.metric}" in trials
    ):
        rows, columns = part.axes
        caption = f"{part.figure_word.capitalize()} {metric_words(part.metric)} over both fields: "
        caption += "mean over the completed trials."
        figure = figures.draw_heat(trials, (rows, columns), part.metric, part.figure_word)
        drawn.append(_picture(figure, f"{slug}-heat", caption, out))
    return drawn


def _drawn_values(part: Part, trials: pd.DataFrame, axis: str) -> list[Any]:
    """The values of an axis that get a line: all, or the best few if there are too many to distinguish."""
    values = values_of(trials, axis)
    if len(values) <= figures.MOST_LINES:
        return values
    sign = -1 if part.mode == "max" else 1
    means = trials["last"].mul(sign).groupby(pd.Index(trials[axis].map(plain), tupleize_cols=False)).mean()
    kept = set(means.sort_values(kind="stable").index[: figures.MOST_LINES])
    return [value for value in values if value in kept]


def _best(
    store: SweepStore, part: Part, slug: str, frame: pd.DataFrame, trials: pd.DataFrame, out: Path
) -> _Best | None:
    """The completed trial with the best figure, its curves and, if its checkpoint is kept, its weights."""
    finals = trials.dropna(subset=[f"final_{part.metric}"])
    if finals.empty:
        return None
    ordered = finals.sort_values([f"final_{part.metric}", "trial_id"], ascending=[part.mode == "min", True])
    row = ordered.iloc[0]
    trial_id = str(row["trial_id"])
    caption = f"Best trial: {part.trainable.curve_words} against epochs."
    curves = figures.draw_best(frame, trial_id, f"trial {trial_id}", part.trainable)
    drawn = [_picture(curves, f"{slug}-best", caption, out)]
    names = part.trainable.field_names
    weights, note = _weights(store, trial_id, slug, out)
    if weights and not math.isnan(row["trained_on_to"]):
        note = f"Its weights are those after epoch {int(row['trained_on_to'])}, trained on for another part."
    note = f"{note} {_kept_words(store, trial_id)}".strip()
    shown = (part.metric, *part.trainable.reported_tests)
    reached = [f"{metric_words(name)} {figure_text(name, row[f'final_{name}'])}" for name in shown]
    # From the resolved file, and into another store: in this one the trial is done.
    command = f"sweep run {shlex.quote(str(store.path / 'sweep.toml'))} --trial {trial_id} --store again"
    return _Best(
        trial_id=trial_id,
        sentence=f"{part.figure_word.capitalize()} {', '.join(reached)}"
        f"{tables.trained_on_text(row['trained_on_to'])}, after {row['epochs_trained']} epochs. "
        "Chosen among all trials of the part, so partly by the luck of its seed.",
        command=command,
        config=[
            (name, _value_words(part, name, plain(row[name])), name in part.axes)
            for name in names
            if name not in ("parent", "pinned_code") or row[name]
        ],
        figures=drawn + weights,
        note=note,
    )


def _kept_words(store: SweepStore, trial_id: str) -> str:
    """A sentence on the files that a trial keeps, '' if it keeps none."""
    kept = store.trial(trial_id).kept_files()
    if not kept:
        return ""
    size = size_text(sum(path.stat().st_size for path in kept.values()))
    count = f"{len(kept)} file{'s' * (len(kept) > 1)}"
    return f"It keeps {count} ({size}); sweep show {trial_id} lists them."


def _weights(store: SweepStore, trial_id: str, slug: str, out: Path) -> tuple[list[_Picture], str]:
    if not is_installed("train"):
        return [], "Its weights are not drawn: PyTorch is not installed where this report was written."
    checkpoint = store.trial(trial_id).load_checkpoint()
    if checkpoint is None:
        return [], "Its checkpoint is not kept, so its weights cannot be drawn."
    found = store.trainable.weight_pictures(checkpoint)
    if found is None:
        return [], ""
    caption = f"Best trial: {found.caption}"
    return [_picture(figures.draw_weights(found), f"{slug}-{found.name}", caption, out)], ""


def _picture(figure: Figure, name: str, caption: str, out: Path) -> _Picture:
    _, svg = figures.save_figure(figure, out / name)
    uri = "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()
    return _Picture(name, caption, caption, uri, float(figure.get_figwidth()))


def _summary(trials: pd.DataFrame, infos: dict[str, TrialInfo]) -> str:
    """The trials by state, their device time and energy, and the time of the newest write."""
    once = trials.sort_values("epochs_planned").drop_duplicates(["sweep", "trial_id"], keep="last")
    states = Counter(once["state"])
    counted = ", ".join(f"{states[state]} {state}" for state in sorted(states, key=lambda s: -states[s]))
    newest = max(info.updated_at for info in infos.values())
    took = duration(float(once["device_seconds"].sum())) + " of device time"
    if once["energy_joules"].notna().any():
        took += f", {energy_text(float(once['energy_joules'].sum()))}"
    return f"{len(once)} trials: {counted}. {took}. State of {newest[:16].replace('T', ' ')} UTC."


def _remove_stale(out: Path, ablations: Sequence[_Ablation]) -> None:
    """Remove what an earlier report wrote here and this one did not, such as a renamed part's figures.

    It removes only files that the earlier report listed in `files.json`, and whose names a report uses.
    """
    written = {
        f"{a.slug}-{kind}.{suffix}" for a in ablations for kind in _TABLES for suffix in ("csv", "tex")
    }
    for a in ablations:
        for picture in (*a.figures, *(a.best.figures if a.best else ())):
            written |= {f"{picture.name}.png", f"{picture.name}.svg"}
    try:
        earlier = json.loads((out / "files.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        earlier = []
    for name in earlier if isinstance(earlier, list) else ():
        if isinstance(name, str) and _FILE_NAME.fullmatch(name) and name not in written:
            (out / name).unlink(missing_ok=True)
    write_bytes(out / "files.json", (json.dumps(sorted(written), indent=1) + "\n").encode())


def _new_slug(part: Part, taken: set[str]) -> str:
    """A unique name for a part's files: plain letters, digits and hyphens."""
    name = part.name if part.name == part.sweep else f"{part.sweep}-{part.name}"
    plain_name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "part"
    slug, number = plain_name, 2
    while slug in taken:
        slug, number = f"{plain_name}-{number}", number + 1
    taken.add(slug)
    return slug


def _value_words(part: Part, name: str, value: Any) -> str:
    is_open = name == part.trainable.budget and value == UNLIMITED
    return "until it ends" if is_open else value_label(name, value)
