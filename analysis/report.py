"""The report of one or more sweeps: figures, tables, and one page that needs nothing beside it."""

import base64
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from analysis import claims, figures, statistics, tables
from analysis.frames import (
    Part,
    Sweep,
    load,
    load_trials,
    of_part,
    open_sweep,
    parts,
    plain,
    trial_infos,
    unplanned,
    values_of,
)
from analysis.weights import TOKEN_UNITS, first_kernels
from analysis.wording import axis_words, figure_text, listing, metric_words, value_label
from core.checkpoint import load_checkpoint
from core.config import UserError, field_names
from core.records import write_bytes
from core.store import SweepStore, TrialInfo

METHODS = (
    "Accuracies are fractions of samples, losses means over samples in nats. Train figures are those of the "
    "training pass itself, with augmentation and dropout; valid figures follow each epoch; test figures are "
    "taken once, at a trial's last epoch.",
    "The final figure is that of the last epoch. The best epoch is chosen on the sweep's own metric, so its "
    "figure flatters; no conclusion here rests on it.",
    "± and CI: 95 % t-interval over seeds. Replicas of one number share their seed across values, and are "
    "compared in pairs: the interval of a difference is that of the paired differences. n is the number of "
    "seeds; with one seed there is no interval.",
    f"A comparison is decided where the paired t-test's p is below {statistics.ALPHA} after Holm's "
    f"correction over all comparisons of the claim or answer, from {statistics.MIN_SEEDS} seeds on. "
    "Supported: every comparison goes the claim's way. Contradicted: one goes the other way. Not "
    "supported: neither. Not distinguishable does not mean equal: a few seeds show only large differences.",
    "With three seeds the exact sign-flip test cannot go below p = 0.25 (0.0625 with five), so verdicts "
    "rest on the t-test, which takes the differences between seeds to be normally distributed.",
    "A best value is chosen on the same valid images as its figure, which flatters it a little; its test "
    "accuracy does not share that.",
    "Probability of being best: how often a value has the best mean when seeds are drawn again with "
    "replacement (paired bootstrap); a hint for few seeds, not a test.",
    "A trial that diverged is a result: it ranks last. Where all trials of one side diverged, that decides "
    "the comparison; where some did, each is counted as the worst final figure of the part. A trial that a "
    "rule stopped is compared at the epoch where it was stopped.",
    "Seconds are medians over epochs without the first, then over seeds, as the trials ran: other trials "
    "may have shared the machine.",
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
    """What the page shows of one part."""

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
    best: _Best | None


def write_report(sweeps: Sequence[Sweep], out: Path | None = None) -> Path:
    """Write figures (PNG, SVG), tables (CSV, LaTeX) and `index.html`; return the page's path.

    The same store gives the same bytes. A sweep that still runs is reported as far as it is.

    Args:
        sweeps: folders of sweeps.
        out: where to; left out: `report/` in the first sweep's folder.

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
    names = [str(store.sweep_file()["name"]) for store in stores]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis", ""), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html.j2").render(
        title=listing(names),
        summary=_summary(trials, infos),
        notes=_notes(stores),
        ablations=ablations,
        failures=_failures(infos),
        provenance=_provenance(infos),
        methods=METHODS,
    )
    write_bytes(out / "index.html", page.encode())
    return out / "index.html"


def _ablation(
    store: SweepStore, part: Part, slug: str, frame: pd.DataFrame, trials: pd.DataFrame, out: Path
) -> _Ablation:
    results = tables.ablation_table(part, frame, trials)
    costs = tables.cost_table(part, trials)
    results_text = tables.ablation_text(part, results)
    costs_text = tables.cost_text(part, costs, _valid_images(trials))
    results_caption = (
        f"{metric_words(part.metric).capitalize()} at the last epoch and at each trial's best, and test "
        "accuracy at the last epoch: mean ± 95 % t-interval over the seeds that have it."
    )
    costs_caption = "Parameters, and times as medians over epochs without the first, and over seeds."
    for name, table, text, caption in (
        ("results", results, results_text, results_caption),
        ("costs", costs, costs_text, costs_caption),
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
        claims=claims.test_claims(part, frame, trials),
        figures=_curves(part, slug, frame, trials, out),
        results=results_text,
        results_caption=results_caption,
        costs=costs_text,
        costs_caption=costs_caption,
        best=_best(store, part, slug, frame, trials, out),
    )


def _curves(part: Part, slug: str, frame: pd.DataFrame, trials: pd.DataFrame, out: Path) -> list[_Picture]:
    if frame.empty:
        return []
    drawn = []
    for axis in part.axes or (None,):
        values = _drawn_values(part, trials, axis) if axis else None
        others = [axis_words(other) for other in part.axes if other != axis]
        caption = "Train and valid loss and accuracy against epochs"
        caption += f", a line for each {axis_words(axis)}" if axis else ""
        caption += f", averaged over {listing(others)}" if others else ""
        caption += ": mean over the trials that reached the epoch; the band spans the least and the greatest."
        if (frame["state"] == "diverged").any():
            caption += " A large cross marks where a value's trials diverged."
        if axis and values and len(values) < len(values_of(trials, axis)):
            caption += f" Drawn: the best {len(values)} of {len(values_of(trials, axis))} values."
        name = f"{slug}-curves-{axis}" if axis else f"{slug}-curves"
        drawn.append(_picture(figures.draw_curves(frame, axis, values), name, caption, out))
    if len(part.axes) == 2 and f"final_{part.metric}" in trials:
        rows, columns = part.axes
        caption = f"Final {metric_words(part.metric)} over both fields: mean over the completed trials."
        figure = figures.draw_heat(trials, (rows, columns), part.metric)
        drawn.append(_picture(figure, f"{slug}-heat", caption, out))
    return drawn


def _drawn_values(part: Part, trials: pd.DataFrame, axis: str) -> list[Any]:
    """The values of an axis that get a line: all, or the best few where they are too many to tell apart."""
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
    """The completed trial with the best final metric, its curves and, where they are kept, its weights."""
    finals = trials.dropna(subset=[f"final_{part.metric}"])
    if finals.empty:
        return None
    ordered = finals.sort_values([f"final_{part.metric}", "trial_id"], ascending=[part.mode == "min", True])
    row = ordered.iloc[0]
    trial_id = str(row["trial_id"])
    caption = "Best trial: train and valid loss and accuracy against epochs."
    curves = figures.draw_best(frame, trial_id, f"trial {trial_id}")
    drawn = [_picture(curves, f"{slug}-best", caption, out)]
    weights, note = _weights(store, trial_id, slug, out)
    # From the resolved file, and into another store: in its own one the trial is done.
    command = f"sweep run {shlex.quote(str(store.path / 'sweep.toml'))} --trial {trial_id} --store again"
    return _Best(
        trial_id=trial_id,
        sentence=f"Final {metric_words(part.metric)} "
        f"{figure_text(part.metric, row[f'final_{part.metric}'])}, test accuracy "
        f"{figure_text('test_accuracy', row['final_test_accuracy'])}, after {row['epochs_trained']} epochs. "
        "Chosen among all trials of the part, so a seed's luck is in it.",
        command=command,
        config=[(name, value_label(name, plain(row[name])), name in part.axes) for name in field_names()],
        figures=drawn + weights,
        note=note,
    )


def _weights(store: SweepStore, trial_id: str, slug: str, out: Path) -> tuple[list[_Picture], str]:
    checkpoint = load_checkpoint(store.trial(trial_id).path)
    if checkpoint is None:
        return [], "Its checkpoint is not kept, so its weights cannot be drawn."
    model = checkpoint["model"]
    if TOKEN_UNITS in model:
        caption = (
            "Best trial: the first linear layer of the token-mixing MLP of the first block, each unit a "
            "picture over the image's patches; colours are centred at 0."
        )
        return [_picture(figures.draw_token_units(model), f"{slug}-token-units", caption, out)], ""
    if first_kernels(model) is not None:
        caption = (
            "Best trial: the kernels of the first convolution, weights standardised together, colour "
            "channels averaged to grey."
        )
        return [_picture(figures.draw_kernels(model), f"{slug}-kernels", caption, out)], ""
    return [], ""


def _picture(figure: Figure, name: str, caption: str, out: Path) -> _Picture:
    _, svg = figures.save_figure(figure, out / name)
    uri = "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()
    return _Picture(name, caption, caption, uri, float(figure.get_figwidth()))


def _summary(trials: pd.DataFrame, infos: dict[str, TrialInfo]) -> str:
    """How far the sweeps are, what they took, and when the newest of it was written."""
    once = trials.drop_duplicates(["sweep", "trial_id"])
    states = Counter(once["state"])
    counted = ", ".join(f"{states[state]} {state}" for state in sorted(states, key=lambda s: -states[s]))
    newest = max(info.updated_at for info in infos.values())
    took = tables.duration_text(float(once["device_seconds"].sum()))
    return (
        f"{len(once)} trials: {counted}. {took} of device time. State of {newest[:16].replace('T', ' ')} UTC."
    )


def _notes(stores: Sequence[SweepStore]) -> list[str]:
    notes = []
    for store in stores:
        count = unplanned(store)
        if count:
            was = "trial in the folder is" if count == 1 else "trials in the folder are"
            notes.append(f"{store.name}: {count} {was} not in the plan as last run, and not counted here.")
    return notes


def _failures(infos: dict[str, TrialInfo]) -> tables.Table:
    """Trials with an attempt that did not end well: diverged, stopped, interrupted or failed."""
    rows = []
    for info in infos.values():
        bad = [a for a in info.attempts if a.end not in ("", "completed")]
        if bad or info.state in ("lost", "interrupted"):
            last = bad[-1] if bad else info.attempts[-1]
            message = last.message or (f"at epoch {info.epoch}" if info.state == last.end else "")
            config = ", ".join(f"{k} {v}" for k, v in info.config.identity().items())
            kind = last.end or "no end written"
            rows.append((kind, info.state, info.trial_id, config, str(len(info.attempts)), message))
    header = ("how the attempt ended", "trial's state", "trial", "differs from the defaults in", "attempts")
    return tables.Table((*header, "message"), tuple(sorted(rows)), (False, False, False, False, True, False))


def _provenance(infos: dict[str, TrialInfo]) -> tables.Table:
    counts: dict[str, Counter[str]] = {}
    for info in infos.values():
        source = info.provenance
        facts = {
            "code revision": {_revision(source)},
            "Python": {str(source.get("python", ""))},
            **{name: {str(version)} for name, version in source.get("versions", {}).items()},
            "platform": {str(source.get("platform", ""))},
            "host": {a.host for a in info.attempts},
            "place": {a.place for a in info.attempts},
            "device": {a.device for a in info.attempts},
            "command": {str(source.get("command", ""))},
        }
        for name, values in facts.items():
            counts.setdefault(name, Counter()).update(v for v in values if v)
    rows = [
        (name, value, str(number))
        for name, counter in counts.items()
        for value, number in sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    ]
    return tables.Table(("what", "value", "trials"), tuple(rows), (False, False, True))


def _revision(source: Any) -> str:
    revision = str(source.get("revision", "")) or "not recorded"
    return f"{revision} with uncommitted changes" if source.get("dirty") else revision


_VALID_IMAGES = {"cifar10": 5000}


def _valid_images(trials: pd.DataFrame) -> int | None:
    """How many valid images the trials infer, where it is known and one number for all."""
    counts = {
        plain(limit) or _VALID_IMAGES.get(dataset)
        for dataset, limit in zip(trials["dataset"], trials["valid_limit"])
    }
    count = counts.pop() if len(counts) == 1 else None
    return int(count) if count else None


def _new_slug(part: Part, taken: set[str]) -> str:
    """A name for a part's files: plain letters, digits and hyphens, and no other part's."""
    name = part.name if part.name == part.sweep else f"{part.sweep}-{part.name}"
    plain_name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "part"
    slug, number = plain_name, 2
    while slug in taken:
        slug, number = f"{plain_name}-{number}", number + 1
    taken.add(slug)
    return slug
