"""Plan, run, kill, edit, run again, look, in any order: nothing is lost or runs twice, and the numbers are the same."""

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from mixsweep import Callbacks, Plan, RunOptions, StatusReader, load, make_plan, parse_spec, run_plan
from mixsweep.core.records import Record
from mixsweep.core.store.store import SweepStore
from tests.integration.fuzz.inputs import fuzz
from tests.support.commands import trajectories


class Killed(KeyboardInterrupt):
    """What ends a run between two epochs."""


class SweepMachine(RuleBasedStateMachine):
    """A person with one sweep file and one store."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.tables: dict[str, dict[str, Any]] = {}  # by name: the last sweep file that was run
        self.trained: Counter[tuple[str, str, int]] = Counter()  # by sweep, trial and epoch
        self.killed: set[tuple[str, str]] = set()

    @initialize()
    def write(self) -> None:
        self.name, self.seeds, self.epochs, self.lrs = "one", 1, 1, [0.1]

    @rule()
    def ask_for_more_seeds(self) -> None:
        self.seeds = min(3, self.seeds + 1)

    @rule()
    def ask_for_more_epochs(self) -> None:
        self.epochs = min(4, self.epochs + 1)

    @rule(lr=st.sampled_from([0.2, 0.05, 0.01]))
    def widen(self, lr: float) -> None:
        self.lrs = list(dict.fromkeys([*self.lrs, lr]))[:3]

    @rule(name=st.sampled_from(["one", "two"]))
    def rename(self, name: str) -> None:
        self.name = name

    @rule(limit=st.none() | st.integers(1, 3), kill_after=st.integers(1, 4))
    def run_and_kill(self, limit: int | None, kill_after: int) -> None:
        self._run(limit, kill_after)

    @rule(limit=st.none() | st.integers(1, 3))
    def run(self, limit: int | None) -> None:
        self._run(limit, 0)

    @rule()
    def look(self) -> None:
        for name in self.tables:
            store = SweepStore(self.folder / "runs" / name)
            status = StatusReader(store).read()
            assert not [trial for trial in status.trials if trial.state == "failed"]
            if store.records().num_rows:
                assert len(load(store.path)) == len({(n, t, e) for n, t, e in self.trained if n == name})

    def teardown(self) -> None:
        try:
            for name, tables in self.tables.items():
                self._check(name, tables)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _plan(self) -> Plan:
        base = {
            "dataset": "digits",
            "augment": "none",
            "hidden": [8],
            "batch_size": 64,
            "epochs": self.epochs,
        }
        limits = {"train_limit": 128, "valid_limit": 64}
        tables = {
            "name": self.name,
            "seeds": self.seeds,
            "base": base | limits,
            "space": {"lr": {"grid_search": self.lrs}},
            "keep": {"checkpoints": "all"},
        }
        self.tables[self.name] = tables
        return make_plan(parse_spec(tables))

    def _run(self, limit: int | None, kill_after: int) -> None:
        left = kill_after

        def on_record(record: Record) -> None:
            nonlocal left
            self.trained[self.name, record["trial_id"], record["epoch"]] += 1
            left -= 1
            if left == 0:
                self.killed.add((self.name, record["trial_id"]))
                raise Killed

        options = RunOptions(store_root=self.folder / "runs", limit=limit, raise_errors=True)
        try:
            run_plan(self._plan(), place="debug", options=options, callbacks=Callbacks(on_record=on_record))
        except Killed:
            assert left == 0

    def _check(self, name: str, tables: dict[str, Any]) -> None:
        """Run the last sweep file to its end, and an undisturbed one beside it: the records are the same."""
        plan = make_plan(parse_spec(tables))
        self.name = name
        self.seeds, self.epochs = tables["seeds"], tables["base"]["epochs"]
        self.lrs = tables["space"]["lr"]["grid_search"]
        self._run(None, 0)
        run_plan(plan, place="debug", store_root=self.folder / "calm")
        disturbed, calm = (
            _of_plan(trajectories(SweepStore(self.folder / root / name)), plan) for root in ("runs", "calm")
        )
        assert disturbed == calm
        again = {(n, t) for (n, t, _), times in self.trained.items() if times > 1}
        assert again <= self.killed  # only what a kill lost was trained again


def _of_plan(table: pa.Table, plan: Plan) -> list[dict[str, Any]]:
    """The records of a plan's trials, up to their budget: an earlier file may have asked for more."""
    budgets = {config.trial_id: config.epochs for config in plan.trials}
    return [row for row in table.to_pylist() if row["epoch"] <= budgets.get(row["trial_id"], 0)]


SweepMachine.TestCase.settings = fuzz(6)
TestSweepMachine = SweepMachine.TestCase
