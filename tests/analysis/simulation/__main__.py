"""`python -m tests.analysis.simulation`: the campaign, and its tables in the documentation.

The tables stand between the lines `<!-- simulation -->` and `<!-- end of simulation -->` of the page.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tests.analysis.simulation.campaign import Counted, false_table, power_table, run
from tests.analysis.simulation.planted import planted
from tests.analysis.simulation.scenarios import Scenario, false_verdicts

_BETWEEN = re.compile(r"(<!-- simulation -->\n).*(<!-- end of simulation -->)", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.analysis.simulation", description=__doc__)
    parser.add_argument("--sweeps", type=int, default=4000, help="sweeps of each scenario")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", default="", help="scenarios whose names contain this")
    parser.add_argument("--table", type=Path, help="the page whose tables are replaced")
    asked = parser.parse_args()
    with ProcessPoolExecutor(asked.jobs) as pool:
        found = _run_all(false_verdicts, asked, pool)
        shown = _run_all(planted, asked, pool)
    lines = [
        f"`python -m tests.analysis.simulation --sweeps {asked.sweeps} --seed {asked.seed}`: {asked.sweeps:,} sweeps a "
        "row, with exact 95 % intervals.",
        "",
        *false_table(found),
        "",
        *power_table(shown),
        "",
    ]
    print("\n".join(lines))
    if asked.table:
        text = asked.table.read_text(encoding="utf-8")
        table = "\n".join(lines)
        asked.table.write_text(_BETWEEN.sub(lambda m: f"{m[1]}{table}{m[2]}", text), encoding="utf-8")
    failed = [one.scenario.name for one in [*found, *shown] if not one.holds]
    for name in failed:
        print(f"above 5 %: {name}", file=sys.stderr)
    return bool(failed)


def _run_all(
    scenarios: Callable[[], list[Scenario]], asked: argparse.Namespace, pool: ProcessPoolExecutor
) -> list[Counted]:
    chosen = [one for one in scenarios() if asked.only in one.name]
    began, found = time.monotonic(), []
    for one in pool.map(partial(run, sweeps=asked.sweeps, seed=asked.seed), chosen):
        found.append(one)
        print(f"{time.monotonic() - began:6.0f} s  {one.scenario.name}: {one.any_false}", file=sys.stderr)
    return found


if __name__ == "__main__":
    sys.exit(main())
