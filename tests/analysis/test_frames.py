"""analysis.frames: a table of trials whose fields have any names."""

import sys
from pathlib import Path

from mixsweep.analysis.frames import load, load_trials, parts
from mixsweep.analysis.inference.claims import evaluate_claims
from mixsweep.analysis.report.report import write_report
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.planning.parse import load_spec
from mixsweep.sweep.planning.plan import make_plan
from mixsweep.sweep.run import run_plan

SWEEP = """
metric = "loss"
mode = "min"
seeds = 4

[command]
run = "{python} point.py {{device}} {{seed}}"
code = ["point.py"]

[fields]
device = 1
message = "none"
seed = 0

[space]
device = {{ grid_search = [1, 5] }}

[[claims]]
text = "device 1 is better"
compare = "device"
better = 1
"""
POINT = """
import json, random, sys
device, seed = map(int, sys.argv[1:])
print(json.dumps({"loss": device + random.Random(10 * device + seed).random()}))
"""


def test_a_field_that_is_named_like_a_figure_of_trials_is_compared_by_its_own_values(tmp_path: Path) -> None:
    (tmp_path / "point.py").write_text(POINT)
    (tmp_path / "devices.toml").write_text(SWEEP.format(python=sys.executable))
    run_plan(make_plan(load_spec(tmp_path / "devices.toml")), place="debug", store_root=tmp_path / "runs")
    store = SweepStore(tmp_path / "runs" / "devices")
    trials = load_trials(store)
    assert sorted(trials["device"]) == [1] * 4 + [5] * 4
    assert set(trials["message"]) == {"none"}
    assert set(trials["trial_message"]) == {""}
    assert trials["trial_device"].all()
    (part,) = parts(store)
    (verdict,) = evaluate_claims(part, load(store), trials)
    assert verdict.kind == "supported"
    assert "device" in write_report([store], tmp_path / "report").read_text()
