"""The report of one or more sweeps: figures, tables, one self-contained page, and its summary."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jinja2

from mixsweep.analysis.frames import Sweep
from mixsweep.analysis.inference.wording import listing
from mixsweep.analysis.report import methods
from mixsweep.analysis.report.part_page import PartPage, part_page
from mixsweep.analysis.report.study import Study, read_study
from mixsweep.analysis.report.summary import summary_text
from mixsweep.core.formatting import duration, energy_text
from mixsweep.core.store.files import write_bytes

# The names of a report's figures and tables: a part's slug, then the kind of figure or table.
_TABLES = ("results", "costs", "trials")
_FIGURES = (
    r"best|heat|parallel|importance|finals|cost|kernels|token-units|forest(-\w[\w.]*)?|along-\w[\w.]*"
    r"|curves(-\w[\w.]*)?|classes|confusion|reliability"
)
_FILE_NAME = re.compile(
    rf"[a-z0-9-]+-((results|costs|trials)\.(csv|tex)|({_FIGURES})\.(png|svg))|failures\.csv|summary\.md"
)


def write_report(sweeps: Sequence[Sweep], out: Path | None = None) -> Path:
    """Write figures (PNG, SVG), tables (CSV, LaTeX), `index.html` and `summary.md`; return the page's path.

    The same store gives the same bytes. A sweep that still runs is reported up to its current state, one that has not
    begun as such.

    Args:
        sweeps: folders of sweeps.
        out: the folder to write to; left out: `report/` in the first sweep's folder.

    Raises:
        UserError: no sweep is given, one is unknown, or one is given twice.
    """
    study = read_study(sweeps)
    out = Path(out) if out is not None else study.readings[0].store.report_path
    out.mkdir(parents=True, exist_ok=True)
    pages = [part_page(section, study.judged, out) for section in study.sections]
    title = listing(study.labels)
    summary = _summary(study) + methods.code_warning(study)
    notes = methods.notes(study)
    failures, failed = methods.failures(study.infos), out / "failures.csv"
    has_failures = methods.write_failures(failures, failed)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mixsweep.analysis.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("template.html.j2").render(
        title=title,
        summary=summary,
        notes=notes,
        pages=pages,
        forecasts=methods.forecasts(study.readings),
        failures=methods.shown_failures(failures),
        provenance=methods.provenance(study.infos),
        methods=[*methods.methods(study.readings), *methods.axes(study.readings)],
    )
    write_bytes(out / "index.html", page.encode())
    write_bytes(out / "summary.md", summary_text(title, summary, notes, [p.answer for p in pages]).encode())
    _remove_stale(out, pages, {"summary.md"} | ({failed.name} if has_failures else set()))
    return out / "index.html"


def files_of(page: Path) -> list[Path]:
    """The files of a written report, its page first, without other files in the same folder."""
    names = json.loads((page.parent / "files.json").read_text(encoding="utf-8"))
    return [page, *(page.parent / name for name in names)]


def _summary(study: Study) -> str:
    """The trials by state, their device time and energy, and the time of the newest write."""
    once = study.trials.sort_values("epochs_planned").drop_duplicates(
        ["sweep_folder", "trial_id"], keep="last"
    )
    states = Counter(once["state"])
    counted = ", ".join(f"{states[state]:,} {state}" for state in sorted(states, key=lambda s: -states[s]))
    said = f"{len(once):,} trials: {counted}."
    if study.infos:
        said += f" {duration(float(once['device_seconds'].sum()))} of device time"
        if once["energy_joules"].notna().any():
            said += f", {energy_text(float(once['energy_joules'].sum()))}"
        newest = max(info.updated_at for info in study.infos.values())
        said += f". State of {newest[:16].replace('T', ' ')} UTC."
    return said


def _remove_stale(out: Path, pages: Sequence[PartPage], others: set[str]) -> None:
    """Remove what an earlier report wrote here and this one did not, such as a renamed part's figures.

    It removes only files that the earlier report listed in `files.json`, and whose names a report uses.
    """
    written = {
        f"{page.slug}-{kind}.{suffix}" for page in pages for kind in _TABLES for suffix in ("csv", "tex")
    }
    written |= others
    for page in pages:
        for picture in page.pictures:
            written |= {f"{picture.name}.png", f"{picture.name}.svg"}
    try:
        earlier = json.loads((out / "files.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        earlier = []
    for name in earlier if isinstance(earlier, list) else ():
        if isinstance(name, str) and _FILE_NAME.fullmatch(name) and name not in written:
            (out / name).unlink(missing_ok=True)
    write_bytes(out / "files.json", (json.dumps(sorted(written), indent=1) + "\n").encode())
