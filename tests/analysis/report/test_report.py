"""The report: whole, self-contained, honest about what is unfinished, and safe with hostile names."""

import csv
import json
import re
import shutil
from dataclasses import replace

import pyarrow.compute as pc
import pytest

from mixsweep.analysis.frames import load_trials, read_sweep
from mixsweep.analysis.report.methods import failures, forecasts
from mixsweep.analysis.report.report import write_report
from mixsweep.analysis.report.tables import escape_latex
from mixsweep.core.formatting import duration
from mixsweep.core.models.build import build_model
from mixsweep.core.store.files import write_table
from mixsweep.core.store.forecasts import StoredForecast, save_forecast
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import Attempt, TrialInfo
from mixsweep.core.trainables.image.config import ImageConfig
from tests.support.page import Page
from tests.support.synthetic_store import SyntheticPart, give_energy, learning_rates, patch_sizes, write_sweep
from tests.support.trials import change_info, write_checkpoint


def best_trial(store: SweepStore) -> str:
    trials = load_trials(store)
    return trials.loc[trials["final_valid_accuracy"].idxmax(), "trial_id"]


def keep_best_checkpoint(store: SweepStore) -> None:
    """Give the best trial the checkpoint of an untrained model of its config."""
    trial_id = best_trial(store)
    info = store.trial(trial_id).info()
    assert info is not None
    model = build_model(info.config, 10)
    write_checkpoint(store.trial(trial_id), {"model": model.state_dict(), "epoch": info.epoch})


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    stores = [learning_rates(root / "learning-rates"), patch_sizes(root / "patch-sizes")]
    for store in stores:
        keep_best_checkpoint(store)
    return stores


@pytest.fixture(scope="module")
def report(sweeps):
    """The path of a report on both sweeps, in its default place."""
    return write_report(sweeps)


def test_the_report_lies_in_the_first_sweep(sweeps, report):
    assert report == sweeps[0].path / "report" / "index.html"


def test_the_report_answers_every_part_and_tests_every_claim(report):
    text = Page(report).text
    for words in (
        "Which learning rate trains ResNet18 best under Adam?",
        "1e-3 has the highest valid accuracy",
        "Which patch size suits the Mixer?",
        "4 has the highest valid accuracy",
        "1e-3 is the best learning rate undecided: 8 seeds needed",
        "1e-5 beats 1e-4 contradicted",
        "1e-1 diverged in 3 of 3 trials",
        "11,173,962",
        "train one epoch of 44,928 images",
        "infer 5,000 valid images",
        "0123456789abcdef0123456789abcdef01234567",
        "Example GPU",
    ):
        assert words in text


def test_the_page_needs_nothing_beside_it(report):
    page = Page(report)
    assert page.links
    for link in page.links:
        assert link.startswith(("data:image/svg+xml;base64,", "#"))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not {"link", "iframe"} & set(page.tags)
    assert page.tags.count("script") == 1  # its own, which sorts tables


def test_every_figure_and_table_is_a_file_too(sweeps, report):
    page = Page(report)
    named = set(re.findall(r"[\w-]+\.(?:png|svg)", page.text))
    assert named == {path.name for path in report.parent.glob("*.[ps][nv]g")}
    assert {"learning-rates-kernels.png", "patch-sizes-token-units.svg"} <= named
    for store in sweeps:
        trial_id = best_trial(store)
        assert f"--trial {trial_id}" in page.text
    with open(report.with_name("patch-sizes-results.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    trials = load_trials(sweeps[1])
    mean = trials.loc[trials["patch_size"] == 2, "final_valid_accuracy"].mean()
    assert float(rows[0]["final_mean"]) == pytest.approx(mean)
    assert r"\toprule" in report.with_name("patch-sizes-costs.tex").read_text()


def test_weights_that_are_not_kept_are_said_to_be_missing(tmp_path):
    part = SyntheticPart(name="one", space={"lr": [1e-3]}, final={1e-3: 0.5})
    assert "Its checkpoint is not kept" in Page(write_report([write_sweep(tmp_path / "one", [part])])).text


def test_the_same_store_gives_the_same_bytes(sweeps, tmp_path):
    for folder in ("first", "second"):
        write_report(sweeps[1:], tmp_path / folder)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        for folder in ("first", "second")
    )
    assert first == second


def test_a_sweep_that_still_runs_is_reported_as_far_as_it_is(tmp_path):
    states = {1e-3: ["completed", "interrupted", "waiting"], 1e-2: ["failed", "stopped", "diverged"]}
    part = SyntheticPart(name="s", space={"lr": [1e-3, 1e-2]}, final={1e-3: 0.5, 1e-2: 0.4}, states=states)
    text = Page(write_report([write_sweep(tmp_path / "s", [part])])).text
    assert "So far 4 of 6 trials finished." in text
    assert "RuntimeError: shapes <2> & 3 do not match" in text
    for kind in ("diverged", "stopped", "interrupted", "bug"):
        assert kind in text


def test_what_trials_and_values_took_is_told_with_their_energy(tmp_path):
    store = patch_sizes(tmp_path / "patch-sizes", seeds=2)
    assert "energy" not in Page(write_report([store])).text
    give_energy(store, 300_000.0)
    page = Page(write_report([store]))
    assert "8 trials: 8 completed. 19 min 52 s of device time, 8 kWh." in page.text
    with (store.path / "report" / "patch-sizes-trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {row["device_seconds"] for row in rows} == {"149.0"}
    assert {row["energy_joules"] for row in rows} == {"3600000.0"}
    finals = [float(row["final_valid_accuracy"]) for row in rows]
    assert finals == sorted(finals, reverse=True)
    with (store.path / "report" / "patch-sizes-costs.csv").open() as file:
        assert [row["energy_joules"] for row in csv.DictReader(file)] == ["7200000.0"] * 4
    assert "2 kWh" in page.text  # of a value's two trials


def test_a_forecast_stands_beside_what_its_command_took(tmp_path):
    store = patch_sizes(tmp_path / "patch-sizes", seeds=1)
    trials = list(store.trials())
    of_command = {"first": trials[:3], "second": trials[3:]}
    for command, folders in of_command.items():
        for folder in folders:
            info = folder.info()
            attempts = (replace(info.attempts[0], command_id=command),)
            change_info(folder, replace(info, attempts=attempts))
    common = {"place": "local", "trials": 4, "epochs": 48}
    for command, seconds, made in (
        ("first", 480.0, "09:00"),
        ("second", None, "10:00"),
        ("third", 5.0, "11:00"),
    ):
        save_forecast(
            store,
            StoredForecast(
                command_id=command, made_at=f"2026-01-01T{made}", seconds=seconds, basis="said", **common
            ),
        )
    table = forecasts([read_sweep(store)])
    assert [row[1] for row in table.rows] == [
        "2026-01-01 09:00",
        "2026-01-01 10:00",
    ]  # the third trained nothing
    # Three trials of 149 s and 12 epochs, where 10 s an epoch were expected.
    assert table.rows[0][3:] == ("48", "8 min 0 s", "said", "36", "7 min 27 s", f"{149 / 120:.2f}")
    assert table.rows[1][3:] == ("48", "–", "said", "12", "2 min 29 s", "–")
    (store.path / "forecasts" / "first.json").write_text("{")
    assert [row[1] for row in forecasts([read_sweep(store)]).rows] == ["2026-01-01 10:00"]
    assert "What it was expected to take, and took" in Page(write_report([store])).text


def test_ranks_count_in_device_time_and_not_in_what_is_held_against_a_forecast(tmp_path):
    store = patch_sizes(tmp_path / "patch-sizes", seeds=1)
    for folder in store.trials():
        info = folder.info()
        attempts = (replace(info.attempts[0], command_id="only", ranks=2),)
        change_info(folder, replace(info, attempts=attempts))
    made = {"command_id": "only", "made_at": "2026-01-01T09:00", "place": "local", "basis": "said"}
    save_forecast(store, StoredForecast(trials=4, epochs=48, seconds=480.0, **made))
    ((*_, took, ratio),) = forecasts([read_sweep(store)]).rows
    assert (took, ratio) == (duration(2 * 4 * 149), f"{149 / 120:.2f}")


def test_a_plan_of_which_nothing_has_begun_says_so(tmp_path):
    store = learning_rates(tmp_path / "rates", seeds=1)
    plan = store.plan()
    former, *others = store.trials()
    write_table(plan.filter(pc.field("trial_id") != former.trial_id), store.path / "plan.parquet")
    for folder in others:
        shutil.rmtree(folder.path)
    page = Page(write_report([store]))
    assert "Nothing has begun: 4 trials planned, none trained yet." in page.text
    assert former.trial_id not in page.text


def test_a_sweep_without_any_record_still_reports_its_failures(tmp_path):
    part = SyntheticPart(name="s", space={"lr": [1e-3]}, final={}, states={1e-3: ["failed"] * 3})
    text = Page(write_report([write_sweep(tmp_path / "s", [part])])).text
    assert "No answer yet." in text
    assert "RuntimeError" in text


def test_a_node_that_went_is_told_though_its_trial_was_completed_elsewhere():
    attempts = (
        Attempt(
            number=1, place="lab", host="n2", pid=1, end="killed", message="its node is gone: n2 (10.0.0.2)"
        ),
        Attempt(number=2, place="lab", host="n3", pid=1, end="completed", from_epoch=4),
    )
    config = ImageConfig(dataset="digits")
    info = TrialInfo(trial_id=config.trial_id, config=config, state="completed", epoch=15, attempts=attempts)
    (row,) = failures({("lab", config.trial_id): info}).rows
    assert row[:2] == ("killed", "completed")
    assert row[-1] == "its node is gone: n2 (10.0.0.2)"


def test_parts_and_two_axes_are_reported_with_a_heat_map(tmp_path):
    grid = SyntheticPart(name="Grid no. 1", space={"lr": [1e-3, 1e-2], "dropout": [0.0, 0.3]}, final={})
    one = SyntheticPart(name="grid-no-1", space={"lr": [1e-3]}, final={1e-3: 0.5}, question="How good?")
    write_report([write_sweep(tmp_path / "two", [grid, one])], tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"two-grid-no-1-heat.svg", "two-grid-no-1-curves-lr.svg", "two-grid-no-1-2-best.svg"} <= names
    assert "How good?" in Page(tmp_path / "out" / "index.html").text


def test_a_random_search_draws_the_best_values_and_says_so(tmp_path):
    rates = [round(1e-4 * 1.5**i, 6) for i in range(11)]
    part = SyntheticPart(name="s", space={"lr": rates}, final={rate: 0.4 + 20 * rate for rate in rates})
    text = Page(write_report([write_sweep(tmp_path / "s", [part])])).text
    assert "Drawn: the best 8 of 11 values." in text


def test_trials_outside_the_plan_are_counted_in_a_note(tmp_path):
    store = learning_rates(tmp_path / "learning-rates")
    stranger = store.trials_path / "abcdefabcdef"
    stranger.mkdir()
    text = Page(write_report([store])).text
    assert "learning-rates: 1 trial in the folder is not in the plan" in text
    assert "abcdefabcdef" not in text


def test_figures_of_a_renamed_part_go_and_other_files_stay(tmp_path):
    out = tmp_path / "out"
    for name in ("before", "after"):
        part = SyntheticPart(name=name, space={"lr": [1e-3]}, final={1e-3: 0.5})
        write_report([write_sweep(tmp_path / name, [part])], out)
        (out / "before-mine.png").write_bytes(b"a user's own")
        (out / "after-notes.csv").write_bytes(b"a user's own")
        if name == "before":
            listed = json.loads((out / "files.json").read_text())
            assert set(listed) < {path.name for path in out.iterdir()}
            listed += ["before-mine.png", "../before/sweep.toml", "../before-best.png", 3]
            (tmp_path / "before-best.png").write_bytes(b"a user's own")
            (out / "files.json").write_text(json.dumps(listed))
    names = {path.name for path in out.iterdir()}
    own = set(json.loads((out / "files.json").read_text()))
    assert names == own | {"index.html", "files.json", "before-mine.png", "after-notes.csv"}
    assert {"after-best.svg", "after-results.csv"} <= own
    assert (tmp_path / "before-best.png").exists()
    assert (tmp_path / "before" / "sweep.toml").exists()


@pytest.mark.parametrize(("model", "noted"), [("resnet18", True), ("mixer", False)])
def test_smaller_micro_batches_are_noted_where_batchnorm_saw_them(tmp_path, model, noted):
    part = SyntheticPart(name="s", base={"model": model}, space={"lr": [1e-3, 1e-2]}, final={1e-3: 0.5})
    store = write_sweep(tmp_path / "s", [part])
    folder = next(store.trials())
    info = folder.info()
    again = replace(info.attempts[0], number=2, accumulate=4)
    change_info(folder, replace(info, attempts=(replace(info.attempts[0], end="oom"), again)))
    text = Page(write_report([store])).text
    note = "Trained with 4 micro-batches after running out of memory: BatchNorm saw smaller batches"
    assert (note in text) == noted
    assert (f"Trial {folder.trial_id}." in text) == noted


def test_trials_of_several_revisions_are_noted(tmp_path):
    part = SyntheticPart(name="s", space={"lr": [1e-3, 1e-2]}, final={1e-3: 0.5})
    store = write_sweep(tmp_path / "s", [part])
    folder = next(store.trials())
    info = folder.info()
    attempts = [replace(info.attempts[0], number=n, revision=r) for n, r in ((1, "a" * 40), (2, "b" * 40))]
    change_info(folder, replace(info, attempts=tuple(attempts)))
    text = Page(write_report([store])).text
    assert f"Trained by more than one revision of the code: trial {folder.trial_id}." in text
    assert "a" * 40 in text
    assert "b" * 40 in text


def test_a_long_command_is_cut_in_its_middle_and_counted_once(tmp_path):
    part = SyntheticPart(name="s", space={"lr": [1e-3, 1e-2]}, final={1e-3: 0.5})
    store = write_sweep(tmp_path / "s", [part])
    for number, folder in enumerate(store.trials()):
        info = folder.info()
        command = f"sweep run {'x' * 400} {number} {'y' * 400} --place local"
        change_info(folder, replace(info, provenance={**info.provenance, "command": command}))
    page = Page(write_report([store]))
    (cell,) = re.findall(r"command ?(sweep run x+ … y+ --place local) ?(\d+)", page.text)
    assert len(cell[0]) <= 210
    assert cell[1] == "6"


@pytest.mark.parametrize(
    "hostile", ["<script>alert('x')</script> & \"q\"", "Läuft's? 学習率 $5 {{ 7*7 }} \\n"]
)
def test_hostile_names_are_shown_as_they_are(tmp_path, hostile):
    claim = {"text": hostile, "compare": "lr", "better": 1e-3, "than": "rest"}
    part = SyntheticPart(
        name=hostile,
        question=hostile,
        space={"lr": [1e-3, 1e-2]},
        final={1e-3: 0.5, 1e-2: 0.4},
        claims=[claim],
    )
    other = SyntheticPart(name="other", space={"lr": [1e-3, 1e-2]}, final={1e-3: 0.5, 1e-2: 0.4})
    page = Page(write_report([write_sweep(tmp_path / "a 'b' é", [part, other])]))
    assert page.text.count(" ".join(hostile.split())) >= 3
    assert page.tags.count("script") == 1  # the page's own


def test_nothing_to_report_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="no sweep to report on"):
        write_report([])
    with pytest.raises(ValueError, match="no sweep here"):
        write_report([tmp_path])


def test_latex_is_escaped():
    assert escape_latex("50 % of a_b & {c} ± ~\\") == (
        r"50 \% of a\_b \& \{c\} $\pm$ \textasciitilde{}\textbackslash{}"
    )
