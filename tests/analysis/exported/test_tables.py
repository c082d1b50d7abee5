"""analysis.exported: a table of `sweep export` is read as the sweeps that it was made of."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixsweep.analysis.comparing.compare import compare_sides
from mixsweep.analysis.comparing.sides import read_side
from mixsweep.analysis.comparing.wording import IDENTICAL
from mixsweep.analysis.export import export_table
from mixsweep.analysis.exported.facts import path_beside
from mixsweep.analysis.exported.tables import check_what_is_told, one_sweep, sweeps_in
from mixsweep.analysis.frames import load, load_trials, open_sweep, parts
from mixsweep.analysis.inference.claims import answer, evaluate_claims
from mixsweep.analysis.report.report import files_of, write_report
from mixsweep.core.errors import UserError
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.parse import load_spec
from mixsweep.sweep.planning.plan import make_plan
from mixsweep.sweep.run import run_plan
from tests.support.synthetic_store import SyntheticPart, learning_rates, patch_sizes, write_sweep

SUFFIXES = pytest.mark.parametrize("suffix", ["parquet", "csv"])
PART = SyntheticPart(
    name="lrs",
    space={"lr": [0.1, 0.01]},
    final={0.1: 0.7, 0.01: 0.8},
    base={"hidden": (8, 4)},
    states={0.1: ("completed", "failed", "waiting")},
    claims=[{"text": "0.01 is better", "compare": "lr", "better": 0.01}],
)
OWN = """
from dataclasses import dataclass
from mixsweep import field

@dataclass(frozen=True, kw_only=True)
class Config:
    rounds: int = field(2, low=1, budget=True)
    widths: list[int] = field([3, 2])
    note: str | None = None
    is_wide: bool = False
    seed: int = 0

class Own:
    Config = Config
    metrics = {"loss/all": "min", "größe": "max"}
    def __init__(self, config, run):
        self.config, self.round = config, 0
    def train(self):
        while self.round < self.config.rounds:
            self.round += 1
            yield {"loss/all": 1 / (self.round + self.config.seed + len(self.config.widths)), "größe": 1.0}
    def state(self):
        return {"round": self.round}
    def restore(self, state):
        self.round = state["round"]
"""
OWN_SWEEP = """
trainable = "own.py:Own"
metric = "loss/all"
seeds = 2
[space]
widths = { grid_search = [[3, 2], [5]] }
[[claims]]
text = "[5] is better"
compare = "widths"
better = [[5]]
"""


def same(left: pd.DataFrame, right: pd.DataFrame) -> None:
    """Equal tables but for where they are from, and types that CSV does not know."""
    left, right = left.drop(columns="sweep_folder"), right.drop(columns="sweep_folder")
    pd.testing.assert_frame_equal(left, right, check_dtype=False, check_exact=True)


def without_facts(table: Path) -> Path:
    """As an older version wrote it."""
    if table.suffix == ".csv":
        path_beside(table).unlink()
    else:
        pd.read_parquet(table).to_parquet(table, index=False)
    return table


@pytest.fixture
def store(tmp_path: Path) -> SweepStore:
    return write_sweep(tmp_path / "runs" / "lrs", [PART])


@SUFFIXES
def test_a_table_gives_the_same_frames_parts_and_verdicts_as_its_store(
    store: SweepStore, tmp_path: Path, suffix: str
) -> None:
    table = tmp_path / f"lrs.{suffix}"
    assert export_table([store], table) == len(load(store))
    same(load(table), load(store))
    same(load_trials(table), load_trials(store))
    assert [replace(part, folder="") for part in parts(table)] == [
        replace(part, folder="") for part in parts(store)
    ]
    of_table, of_store = (
        evaluate_claims(part, load(one), load_trials(one)) for one in (table, store) for part in parts(one)
    )
    assert repr(of_table) == repr(of_store)  # NaN is not equal to itself


@SUFFIXES
def test_the_report_of_a_table_has_the_figures_and_tables_of_the_stores(
    store: SweepStore, tmp_path: Path, suffix: str
) -> None:
    table = tmp_path / f"lrs.{suffix}"
    export_table([store], table)
    of_store, of_table = write_report([store]), write_report([table])
    assert of_table.parent == tmp_path / "lrs-report"
    names = [path.name for path in files_of(of_store)[1:]]
    assert names == [path.name for path in files_of(of_table)[1:]]
    for name in names:
        assert (of_store.parent / name).read_bytes() == (of_table.parent / name).read_bytes(), name
    page = of_table.read_text(encoding="utf-8")
    assert "RuntimeError: shapes" in page  # a failed trial without a record
    assert "lrs.parquet/sweep.toml" not in page


@SUFFIXES
def test_a_trainable_of_ones_own_with_lists_and_any_names(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "own.toml").write_text(OWN_SWEEP)
    run_plan(make_plan(load_spec(tmp_path / "own.toml")), place="debug", store_root=tmp_path / "runs")
    late = '[[claims]]\ntext = "an afterthought"\ncompare = "widths"\nbetter = [[3, 2]]\n'
    (tmp_path / "own.toml").write_text(OWN_SWEEP + late)
    run_plan(make_plan(load_spec(tmp_path / "own.toml")), place="debug", store_root=tmp_path / "runs")
    store, table = SweepStore(tmp_path / "runs" / "own"), tmp_path / f"table.{suffix}"
    assert [(part.declared, part.late) for part in parts(store)] == [(2, (1,))]
    export_table([store], table)
    same(load(table), load(store))
    assert [replace(part, folder="") for part in parts(table)] == [
        replace(part, folder="") for part in parts(store)
    ]
    both = [read_side(one, "x") for one in (store, one_sweep(table))]
    assert compare_sides(*both).kind == IDENTICAL
    without_facts(table)
    both = [read_side(one, "x") for one in (store, one_sweep(table))]
    found = compare_sides(*both, metric="loss/all")
    assert (found.kind, found.changes) == (IDENTICAL, ())


@SUFFIXES
def test_a_table_of_an_older_version_is_loaded_and_compared_and_not_reported(
    store: SweepStore, tmp_path: Path, suffix: str
) -> None:
    table = tmp_path / f"old.{suffix}"
    export_table([store], table)
    expected = pd.read_parquet(table) if suffix == "parquet" else pd.read_csv(table)
    without_facts(table)
    found = load(table)
    assert len(found) == len(expected)
    assert found["valid_accuracy"].tolist() == expected["valid_accuracy"].tolist()
    assert sorted(load_trials(table)["state"]) == ["completed"] * 4
    comparison = compare_sides(read_side(store, "a"), read_side(one_sweep(table), "b"))
    assert [trial.is_equal for trial in comparison.trials] == [True] * 4
    assert comparison.metric == "valid_accuracy"
    with pytest.raises(UserError, match="says nothing of its question and claims"):
        check_what_is_told(sweeps_in(table))


@SUFFIXES
def test_several_sweeps_in_a_table_are_kept_apart(tmp_path: Path, suffix: str) -> None:
    stores = [learning_rates(tmp_path / "lrs"), patch_sizes(tmp_path / "patches")]
    table = tmp_path / f"study.{suffix}"
    export_table(stores, table)
    assert [one.name for one in sweeps_in(table)] == ["lrs", "patches"]
    same(load(table), load(*stores))
    assert len(load(f"{table}/patches")) == len(load(stores[1]))
    with pytest.raises(UserError, match="has the sweeps lrs and patches; choose one"):
        open_sweep(table)
    with pytest.raises(UserError, match="no sweep 'patch' in it; did you mean 'patches'"):
        load(f"{table}/patch")
    trials = load_trials(table)
    answers = [answer(part, load(table), trials) for one in sweeps_in(table) for part in parts(one)]
    assert answers == [answer(part, load(one), load_trials(one)) for one in stores for part in parts(one)]


@SUFFIXES
@pytest.mark.parametrize("name", ["2024", "true", "2024-05-01", "NA", "007"])
def test_names_that_look_like_other_types_keep_their_rows(tmp_path: Path, name: str, suffix: str) -> None:
    other = replace(PART, name="plain", space={"lr": [0.5]}, final={0.5: 0.6})
    store = write_sweep(tmp_path / "runs" / name, [replace(PART, name=name), other])
    table = tmp_path / f"t.{suffix}"
    assert export_table([store], table) == len(load(table)) > 0
    same(load(table), load(store))
    one_part = write_sweep(tmp_path / "alone" / name, [replace(PART, name=name)])
    export_table([one_part], table)
    same(load(table), load(one_part))
    without_facts(table)
    assert load(table)["sweep"].unique().tolist() == [name]


@SUFFIXES
@pytest.mark.parametrize("has_facts", [True, False])
def test_a_table_whose_rows_are_gone_is_refused_in_one_line(
    store: SweepStore, tmp_path: Path, suffix: str, has_facts: bool
) -> None:
    table = tmp_path / f"t.{suffix}"
    export_table([store, learning_rates(tmp_path / "other")], table)
    name = load(table)["sweep"].iloc[0]
    rows = keep_rows(table, lambda frame: frame[frame["sweep"] == name])
    assert len(rows) > 0
    with pytest.raises(
        UserError, match=r"has no rows of sweep .*, whose trials have records; export it again"
    ):
        load(table)
    keep_rows(table, lambda frame: frame[:0])
    if not has_facts:
        without_facts(table)
    with pytest.raises(UserError, match=rf"t\.{suffix}: has no rows; export the sweep again"):
        load(table)


def keep_rows(table: Path, choose: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """Leave only some rows of a table, and what it says beside them."""
    if table.suffix == ".csv":
        rows = choose(pd.read_csv(table))
        rows.to_csv(table, index=False)
        return rows
    read = pq.read_table(table)
    rows = choose(read.to_pandas())
    pq.write_table(pa.Table.from_pandas(rows, read.schema, preserve_index=False), table)
    return rows


def test_two_sweeps_of_one_name_do_not_share_a_table(store: SweepStore, tmp_path: Path) -> None:
    other = write_sweep(tmp_path / "again" / "lrs", [replace(PART, final={0.1: 0.2, 0.01: 0.3})])
    with pytest.raises(UserError, match="two sweeps are called 'lrs'"):
        export_table([store, other], tmp_path / "both.csv")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "a,b\n1,2\n", "it has no column sweep"),
        ("x.csv", "", "not a table"),
        ("x.parquet", "PAR1", "not a table"),
    ],
)
def test_what_is_no_table_of_ours_is_one_line(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as error:
        load(tmp_path / name)
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_damaged_and_newer_facts_are_one_line(store: SweepStore, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    export_table([store], table)
    facts = json.loads(path_beside(table).read_text())
    path_beside(table).write_text(json.dumps({**facts, "version": 99}))
    with pytest.raises(UserError, match="written by a newer version"):
        load(table)
    path_beside(table).write_text("{")
    with pytest.raises(UserError, match=r"t\.csv: what it says of its sweeps cannot be read"):
        load(table)


def test_what_a_table_says_beside_its_rows_is_small(store: SweepStore, tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    export_table([store], table)
    metadata = pq.read_schema(table).metadata
    assert len(metadata[b"mixsweep:sweeps"]) < 4000
    rows = pd.read_parquet(table).drop(columns="hidden")  # any program reads the rows
    pd.testing.assert_frame_equal(rows, load(store).drop(columns="hidden"))
