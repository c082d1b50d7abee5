"""sweep.search.rung_check and `sweep doctor --store`: decisions that the rule does not take are found."""

from pathlib import Path

import pytest

from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.cli.app import main
from mixsweep.sweep.search.rung_check import check_rungs
from tests.support.commands import finish, sweep_command, write_sweep

RULE = '[stopping]\nrule = "asha"\ngrace_epochs = 1\nreduction_factor = 2\n'


@pytest.fixture
def store(tmp_path: Path) -> SweepStore:
    """Six trials under a rule, run to their end."""
    done = finish(sweep_command(write_sweep(tmp_path, epochs=3, extra=RULE), tmp_path / "runs", "debug"))
    assert done.returncode == 0, done.stdout
    return SweepStore(tmp_path / "runs" / "small")


def doctor(
    store: SweepStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["sweep", "doctor", "--store", str(store.path.parent)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().out


def test_decisions_stops_and_values_that_do_not_agree_are_found(
    store: SweepStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(check_rungs(store)) == []
    assert doctor(store, capsys, monkeypatch) == (
        0,
        "1 sweep with 6 trials: all files are as they have to be\n",
    )
    (stopped, *_) = store.path.glob("rungs/*/1/*_stop")
    number, trial_id, attempt, value, _ = stopped.name.split("_")
    stopped.rename(stopped.with_name("_".join([number, trial_id, attempt, value, "continue"])))
    found = [finding.message for finding in check_rungs(store)]
    assert "the rule decides stop over the values before it" in found
    assert "stopped at epoch 1, where no rung says so" in found
    code, output = doctor(store, capsys, monkeypatch)
    assert code == 1
    assert len(output.splitlines()) == len(found)
    (going_on, *_) = store.path.glob("rungs/*/1/000001_*")
    number, trial_id, attempt, _, decision = going_on.name.split("_")
    going_on.rename(going_on.with_name("_".join([number, trial_id, attempt, "0.125", decision])))
    assert any("the trial's record has" in finding.message for finding in check_rungs(store))
