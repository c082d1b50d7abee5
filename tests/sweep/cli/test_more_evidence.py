"""`sweep run --more-evidence`: seeds for undecided claims alone, by real trials, until they are decided or paid for."""

import sys
from pathlib import Path

import pytest

from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.plan import read_plan
from mixsweep.sweep.search.extra_seeds import extra_seeds, read_rounds, record_round
from tests.support.commands import finish, infos

# A score that depends on the value and on the seed: the values' means are 1.0, 1.5 and 9.0, their noise is paired.
SCRIPT = """
import json, random, sys
kind, seed = sys.argv[1], int(sys.argv[2])
shared, own = random.Random(seed), random.Random(f"{kind} {seed}")
print(json.dumps({"score": {"a": 1.0, "b": 1.5, "c": 9.0}[kind] + shared.gauss(0, 3) + own.gauss(0, 0.35)}))
"""
SWEEP = """
name = "evidence"
metric = "score"
mode = "max"
seeds = 3
[command]
run = "{python} score.py {{kind}} {{seed}}"
metrics = "json-lines"
[fields]
kind = "a"
seed = 0
[space]
kind = {{ grid_search = ["a", "b", "c"] }}
[[claims]]
text = "c is better than a"
compare = "kind"
better = "c"
than = "a"
[[claims]]
text = "b is better than a"
compare = "kind"
better = "b"
than = "a"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "score.py").write_text(SCRIPT)
    path = tmp_path / "evidence.toml"
    path.write_text(SWEEP.format(python=sys.executable))
    return path


def run(file: Path, *more: str) -> tuple[int, str]:
    words = [sys.executable, "-m", "mixsweep", "run", str(file), "--place", "debug"]
    done = finish([*words, "--store", str(file.parent / "runs"), *more])
    return done.returncode, done.stdout


def seeds_of(store: SweepStore) -> dict[str, int]:
    """The number of planned seeds of each value."""
    kinds = [str(row.config["kind"]) for row in read_plan(store)]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def test_only_the_undecided_claims_values_get_seeds_until_it_is_decided(file: Path) -> None:
    code, said = run(file, "--more-evidence")
    assert code == 0, said
    store = SweepStore(file.parent / "runs" / "evidence")
    rounds = read_rounds(store)
    assert rounds
    assert {one.because for one in rounds} == {("b is better than a",)}
    seeds = seeds_of(store)
    assert seeds["c"] == 3
    assert {kind: len(extra) + 3 for kind, extra in zip("ab", extra_seeds(store).values())} == {
        "a": seeds["a"],
        "b": seeds["b"],
    }
    assert seeds["a"] == seeds["b"]
    assert seeds["a"] in (5, 8, 12, 18)
    assert f"more trials, up to {seeds['a']} seeds, for: b is better than a" in said
    assert said.rstrip().endswith("All 2 claims are decided.")
    # The seeds stay in the plan of every later command, and nothing is run twice.
    before = {info.trial_id: len(info.attempts) for info in infos(store)}
    code, said = run(file)
    assert code == 0, said
    assert {info.trial_id: len(info.attempts) for info in infos(store)} == before
    assert seeds_of(store) == seeds
    code, said = run(file, "--more-evidence")
    assert (code, len(read_rounds(store))) == (0, len(rounds))


def test_a_budget_that_the_next_look_would_exceed_ends_it(file: Path) -> None:
    code, said = run(file, "--more-evidence", "--budget", "0.001s")
    assert code == 0, said
    last = said.rstrip().splitlines()[-1]
    assert last.startswith("b is better than a: its next look would take ")
    assert last.endswith(", and 0 s of 0 s are spent")
    store = SweepStore(file.parent / "runs" / "evidence")
    assert not read_rounds(store)
    code, said = run(file, "--more-evidence", "--budget", "4h")
    assert said.rstrip().endswith("All 2 claims are decided.")


def test_a_killed_round_goes_on_with_the_same_command(file: Path) -> None:
    code, said = run(file, "--more-evidence", "--budget", "0.001s")
    assert code == 0, said
    store = SweepStore(file.parent / "runs" / "evidence")
    # As after a kill just when the round had been recorded: none of its trials has begun.
    firsts = {str(row.config["kind"]): row.trial_id for row in read_plan(store) if row.replica == 0}
    more = {("evidence", firsts["a"]): (3, 4), ("evidence", firsts["b"]): (3, 4)}
    record_round(store, more, ("b is better than a",))
    code, said = run(file)
    assert code == 0, said
    assert seeds_of(store) == {"a": 5, "b": 5, "c": 3}
    assert all(info.state == "completed" for info in infos(store))


def test_a_claim_that_cannot_be_tested_is_listed_with_the_reason(file: Path) -> None:
    before, after = file.read_text().split('better = "b"')
    file.write_text(
        before + 'better = "b"' + after.replace('than = "a"', 'than = "a"\nmetric = "loss"\nmode = "min"')
    )
    code, said = run(file, "--more-evidence")
    assert code == 0, said
    assert said.rstrip().splitlines()[-1] == "b is better than a: No trial has kind and loss"


def test_no_seeds_are_added_for_a_value_whose_trials_all_fail(file: Path) -> None:
    script = file.parent / "score.py"
    failing = SCRIPT.replace("shared, own", 'sys.exit(3) if kind == "b" else None\nshared, own')
    script.write_text(failing)
    words = [sys.executable, "-m", "mixsweep", "run", str(file), "--place", "local", "--more-evidence"]
    done = finish([*words, "--store", str(file.parent / "runs")])
    assert done.returncode == 1, done.stdout
    assert "b is better than a: more seeds would not decide it" in " ".join(done.stdout.split())
    assert not read_rounds(SweepStore(file.parent / "runs" / "evidence"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--budget", "4h"], "--budget: of the seeds that --more-evidence adds; give both"),
        (
            ["--more-evidence", "--budget", "four"],
            "--budget four: not a duration; write it like 90s, 30m, 4h",
        ),
        (["--more-evidence", "--budget", "0h"], "--budget 0h: not a duration"),
        (["--more-evidence", "--limit", "1"], "leave out --limit"),
        (["--more-evidence", "--set", "claims=[]"], "the sweep file has no claims"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(file: Path, more: list[str], words: str) -> None:
    code, said = run(file, *more)
    assert (code, len(said.strip().splitlines())) == (2, 1), said
    assert words in said
    assert not (file.parent / "runs").exists()
