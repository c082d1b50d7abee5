"""Campaigns of faults, by hand: `python -m tests.faults --help`."""

import argparse
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.faults import damage, network, system_calls
from tests.faults.commands import Commands, own_environment, scratch
from tests.faults.kills import Kills
from tests.faults.places import PLACES, open_place
from tests.faults.soak import run_soak
from tests.faults.system_calls import SCENARIOS, WRITES, Campaign, Result
from tests.faults.tables import Row, add_row

_READS = ("open", "list", "stat")


def main() -> int:
    """Play what is asked for; print each problem with what repeats it, and add a row to the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    calls = kinds.add_parser("calls", help="pause and kill at system calls")
    calls.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], default=[], metavar="SCENARIO")
    calls.add_argument("--ways", default=",".join(system_calls.WAYS))
    calls.add_argument("--reads", action="store_true", help="at calls that only read, too")
    matrix = kinds.add_parser("damages", help="damage each kind of file")
    matrix.add_argument("states", nargs="*", default=list(damage.STATES), metavar="STATE")
    networks = kinds.add_parser("networks", help="two hosts on a failing file server")
    networks.add_argument("networks", nargs="*", default=list(network.NETWORKS), metavar="NETWORK")
    networks.add_argument("--rounds", type=int, default=1, help="with so many seeds each")
    kills_ = kinds.add_parser("kills", help="random kills, stops and cuts")
    kills_.add_argument("place", choices=PLACES)
    kills_.add_argument("--faults", type=int, default=50)
    kills_.add_argument("--rule", action="store_true", help="with a stopping rule")
    soaks = kinds.add_parser("soak", help="thousands of short trials")
    soaks.add_argument("place", choices=PLACES)
    soaks.add_argument("--trials", type=int, default=1000)
    for parts in (kills_, soaks):
        parts.add_argument("--seed", type=int, default=1)
        parts.add_argument("--table", type=Path, help="add a row to this page")
    for parts in (calls, matrix, networks):
        parts.add_argument("--count", type=int, default=0, help="so many of each; 0: all")
        parts.add_argument("--seed", type=int, default=1)
        parts.add_argument("--table", type=Path, help="add a row to this page")
    for name in ("call", "damage", "network"):
        kinds.add_parser(name, help="play one case again").add_argument("case")
    asked = parser.parse_args()
    if asked.kind in ("kills", "soak"):
        return _at_place(asked)
    with scratch() as folder, own_environment(folder), Commands(folder / "commands") as commands:
        if "case" in asked:
            return int(bool(_play([asked.case], _player(commands, asked.kind, asked.case, folder))[1]))
        return _campaign(commands, asked, folder)


def _at_place(asked: argparse.Namespace) -> int:
    began, mark = time.monotonic(), secrets.token_hex(8)
    with scratch() as folder, own_environment(folder):
        stores = folder / "stores"
        stores.mkdir()
        with open_place(asked.place, stores, mark) as place:
            if asked.kind == "soak":
                soak = run_soak(place, folder, mark, asked.trials)
                print(soak.table())
                faults, trials, epochs, problems = 0, soak.trials, soak.trials, soak.problems
            else:
                outcome = Kills(place, folder, mark, asked.seed, asked.rule).play(asked.faults)
                print(", ".join(f"{count} {what.strip()}" for what, count in outcome.by_kind().items()))
                faults, trials, epochs = len(outcome.faults), outcome.trials, outcome.epochs
                problems = outcome.problems
    for problem in problems:
        print(problem)
    print(f"{asked.place}: {faults} faults, {trials} trials, {epochs} epochs, {len(problems)} problems")
    if asked.table:
        row = Row(
            kind="short trials" if asked.kind == "soak" else "random kills, stops and cuts",
            place=asked.place,
            faults=faults,
            lost=len(problems),
            minutes=(time.monotonic() - began) / 60,
            command=" ".join(_without_table(sys.argv[1:])),
            trials=trials,
            epochs=epochs,
        )
        add_row(asked.table, row)
    return int(bool(problems))


def _without_table(words: list[str]) -> list[str]:
    if "--table" in words:
        at = words.index("--table")
        return words[:at] + words[at + 2 :]
    return words


_KINDS = {
    "calls": "paused and killed at system calls",
    "damages": "damaged files",
    "networks": "file server that fails",
}


def _campaign(commands: Commands, asked: argparse.Namespace, folder: Path) -> int:
    began, faults, bad = time.monotonic(), 0, 0
    for name, cases, play in _groups(commands, asked, folder):
        done, failed = _play(cases, play)
        print(f"{name}: {done} cases, {failed} with problems", flush=True)
        faults, bad = faults + done, bad + failed
    if asked.table:
        row = Row(
            kind=_KINDS[asked.kind],
            place="debug",
            faults=faults,
            lost=bad,
            minutes=(time.monotonic() - began) / 60,
            command=" ".join(_without_table(sys.argv[1:])),
        )
        add_row(asked.table, row)
    return int(bool(bad))


def _groups(
    commands: Commands, asked: argparse.Namespace, folder: Path
) -> Iterator[tuple[str, list[str], Callable[[str], Result]]]:
    """The cases of each scenario, state or network, and what plays them."""
    if asked.kind == "calls":
        for name in asked.scenarios or SCENARIOS:
            campaign = Campaign(commands, SCENARIOS[name], folder)
            cases = campaign.cases(asked.ways.split(","), (*WRITES, *(_READS if asked.reads else ())))
            chosen = system_calls.sample(cases, asked.count, asked.seed) if asked.count else cases
            yield name, chosen, campaign.play
    elif asked.kind == "damages":
        for name in asked.states:
            matrix = damage.Matrix(commands, name, folder)
            cases = matrix.cases(asked.seed)
            if asked.count:
                cases = random.Random(asked.seed).sample(cases, min(asked.count, len(cases)))
            yield name, cases, matrix.play
    else:
        made = network.Networks(commands, folder)
        for name in asked.networks:
            yield name, [f"{name} {asked.seed + number}" for number in range(asked.rounds)], made.play


def _player(commands: Commands, kind: str, case: str, folder: Path) -> Callable[[str], Result]:
    name = case.split()[0]
    if kind == "call":
        return Campaign(commands, SCENARIOS[name], folder).play
    if kind == "network":
        return network.Networks(commands, folder).play
    return damage.Matrix(commands, name, folder).play


def _play(cases: Iterable[str], play: Callable[[str], Result]) -> tuple[int, int]:
    """Play cases; return how many faults struck, and after how many something was wrong."""
    counts: Counter[str] = Counter()
    for case in cases:
        try:
            result = play(case)
        except TimeoutError as error:
            result = Result(case, "?", [str(error)[-400:]])
        counts["struck"] += bool(result.struck)
        if result.problems:
            counts["bad"] += 1
            print(f"{case}\n  struck at: {result.struck or 'nothing'}", flush=True)
            for problem in result.problems:
                print(f"  {problem}", flush=True)
    return counts["struck"], counts["bad"]


if __name__ == "__main__":
    sys.exit(main())
