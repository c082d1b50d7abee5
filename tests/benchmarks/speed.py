"""Speed, as ratios: `python -m tests.benchmarks.speed`, or `make bench`.

(a) our trainer against a textbook PyTorch loop; (b) against a bare loop without a data pipeline; (c) a sweep
of one-step trials by the local place against Ray Tune's defaults; (d) seconds from command to first record;
(e) memory of the driver against the number of trials; (f) what a record costs where training costs nothing.
The machine should have nothing else to do.
"""

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mixsweep.core.training.device import device_name
from tests.benchmarks import recording, sweeping, training
from tests.benchmarks.comparison import Comparison, Figure, comparison_table, figure_table

TEXTBOOK_TARGETS = {"MLP": 3.0, "Mixer patch 8": 2.0}  # where bf16 is native
BARE_TARGET = 0.95


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for and print it."""
    options = _options(arguments)
    out = Console()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    facts = machine_facts(device, options.threads)
    out.print(_facts_table(facts))
    native = training.bf16_is_native(device)
    if not native:
        out.print("bf16 is not native here: fp32 alone is measured, and (a) has no target.")
    precisions = ["fp32", "bf16"] if native else ["fp32"]
    cases = training.cases(options.threads, device, options.full)

    compared: list[Comparison] = []
    if "a" in options.parts:
        for case in cases:
            target = TEXTBOOK_TARGETS.get(case.name) if native else None
            compared += training.against_textbook(case, options.rounds, precisions, target)
    if "b" in options.parts:
        for case in cases[:2]:
            for precision in precisions:
                compared += training.against_bare_loop(case, options.rounds, precision, BARE_TARGET)
    if "c" in options.parts:
        compared += sweeping.against_tune(options.trials, options.threads, options.sweeps)
    if "f" in options.parts:
        compared.append(recording.against_tune(options.reports, options.sweeps))
    if compared:
        out.print(comparison_table(compared))

    figures: list[Figure] = []
    if "d" in options.parts:
        figures += [sweeping.first_record(place, options.starts) for place in options.places]
    if "e" in options.parts:
        figures += sweeping.driver_memory(options.memory, options.threads)
    if "f" in options.parts:
        figures += recording.of_one_trial(options.records, options.reports)
    if figures:
        out.print(figure_table(figures))

    if options.json:
        content = {
            "machine": facts,
            "bf16_is_native": native,
            "comparisons": [row.to_mapping() for row in compared],
            "figures": [row.to_mapping() for row in figures],
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def machine_facts(device: str, threads: int) -> dict[str, Any]:
    """What a reader of the ratios needs to know."""
    return {
        "processor": device_name(torch.device("cpu")),
        "device": device_name(torch.device(device)),
        "threads": threads,
        "load": os.getloadavg()[0],  # before the start; well above 0, the figures are noise
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ray": version("ray"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "tests.benchmarks.speed", *sys.argv[1:]]),
    }


def _facts_table(facts: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(name, f"{value:.1f}" if isinstance(value, float) else str(value))
    return table


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.speed", description=__doc__)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--parts", default="abcdef", help="which of a … f (default: all)")
    parser.add_argument("--threads", type=int, default=cpus, help="CPU threads, and CPUs of a sweep")
    parser.add_argument("--rounds", type=int, default=5, help="A B pairs in (a) and (b)")
    parser.add_argument("--trials", type=int, default=100, help="in (c)")
    parser.add_argument("--sweeps", type=int, default=1, help="rounds of (c) and (f)")
    parser.add_argument("--starts", type=int, default=3, help="rounds of (d)")
    parser.add_argument("--places", nargs="+", default=["debug", "local"], help="in (d)")
    parser.add_argument("--memory", type=int, nargs=2, default=(50, 500), help="trials of the sweeps in (e)")
    parser.add_argument("--records", type=int, default=100_000, help="of the long trial in (f)")
    parser.add_argument(
        "--reports", type=int, default=5000, help="records beside Tune's, and with a rule, in (f)"
    )
    parser.add_argument("--full", action="store_true", help="ResNet18 and Mixer patch 4 as well in (a)")
    parser.add_argument(
        "--quick", action="store_true", help="24 trials in (c), 10 and 50 in (e), few records in (f)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements as well")
    options = parser.parse_args(arguments)
    if options.quick:
        options.trials, options.memory = 24, (10, 50)
        options.records, options.reports = 10_000, 500
    return options


if __name__ == "__main__":
    main()
