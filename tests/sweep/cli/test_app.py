"""The command line as a person meets it: real processes, exit codes, one line for what was got wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from mixsweep.core.store.forecasts import saved_forecasts
from mixsweep.core.store.stops import stop_token
from mixsweep.core.store.store import SweepStore
from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.cli import app
from tests.support.commands import ROOT, start, sweep_command, trajectories, wait_until
from tests.support.trials import log_text

TINY = """
question = "Which learning rate?"
seeds = 2
[base]
dataset = "digits"
hidden = [8]
batch_size = 32
augment = "none"
epochs = {epochs}
[space]
lr = {{ grid_search = [0.01, 0.001] }}
"""
BROKEN = """
from mixsweep import register_model

def build(config, classes):
    raise ValueError("no [such] layer [/]")

register_model("broken", build)
"""

Done = subprocess.CompletedProcess[str]


def sweep(*arguments: str | Path, cwd: Path = ROOT, **environment: str) -> Done:
    """Run `sweep` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mixsweep", *map(str, arguments)],
        cwd=cwd, env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def write(folder: Path, text: str = TINY, epochs: int = 2) -> Path:
    path = folder / "tiny.toml"
    path.write_text(text.format(epochs=epochs), encoding="utf-8")
    return path


def refused(done: Done, *said: str) -> None:
    """Exit code 2, nothing on stdout, and one line on stderr that says all this."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("sweep: ")
    assert len(done.stderr.splitlines()) == 1
    for words in said:
        assert words in done.stderr


@pytest.mark.parametrize(
    ("command", "mentions"),
    [
        ("init", "[NAME] --from"),
        ("presets", "--json"),
        ("schema", "--places"),
        ("plan", "FILE --store --place --set --json"),
        ("run", "FILE --place --store --data --set --limit --trial --retry-failed --overfit --profile"),
        ("status", "[SWEEP] --store --watch --json"),
        ("logs", "TRIAL --store --follow -f"),
        ("show", "TRIAL --store --json"),
        ("stop", "SWEEP --store"),
        ("report", "SWEEP... --store --out"),
        ("export", "SWEEP... --to --predictions --store"),
        ("compare", "A B --store --metric --margin --out --json"),
    ],
)
def test_help_names_every_argument(command: str, mentions: str) -> None:
    done = sweep(command, "--help", NO_COLOR="1", TERM="dumb")
    assert (done.returncode, done.stderr) == (0, "")
    assert [word for word in mentions.split() if word not in done.stdout] == []


def test_help_lists_every_command_and_no_command_is_helped() -> None:
    done = sweep("-h")
    assert done.returncode == 0
    named = "init presets plan schema run stop doctor agent status logs show report mirror export compare"
    for command in (*named.split(), "--verbose", "--version", "--install-completion"):
        assert re.search(rf"(?<!\w){command}\b", done.stdout)
    assert "Usage" in sweep().stdout + sweep().stderr


def test_presets_are_listed_each_with_its_question() -> None:
    rows = json.loads(sweep("presets", "--json").stdout)
    shown = sweep("presets").stdout
    assert "learning-rates" in [row["name"] for row in rows]
    assert all(row["name"] in shown and row["question"] in shown for row in rows)


BAD = [
    (("run", "FILE", "--set", "base.epoch=2"), ("tiny.toml: base.epoch: unknown", "did you mean 'epochs'?")),
    (("plan", "FILE", "--set", "base.model=resnet81"), ("tiny.toml: base.model", "did you mean 'resnet18'?")),
    (("run", "FILE", "--set", "base.lr=fast"), ("tiny.toml: base.lr: lr = 'fast' is not a number",)),
    (("plan", "FILE", "--set", "base.patch_size=5"), ("base.patch_size: patch_size = 5", "allowed: 1, 2, 4")),
    (("run", "learning-rate"), ("learning-rate: no such sweep file", "did you mean 'learning-rates'?")),
    (("run", "FILE", "--place", "locl"), ("--place locl: no such place; did you mean 'local'?",)),
    (("run", "FILE", "--trial", "zzzz"), ("--trial zzzz: no trial of the plan",)),
    (("run", "FILE", "--overfit", "2"), ("add --place debug",)),
    (("run", "FILE", "--place", "debug", "--store", "FILE/x"), ("--store FILE/x: FILE is not a folder",)),
    (("plan", "FILE", "--store", "FILE/x"), ("--store FILE/x: FILE is not a folder",)),
    (("status", "tinny"), ("tinny: no such sweep in runs; there are none yet",)),
    (("stop", "tinny"), ("tinny: no such sweep in runs",)),
    (("report", "tinny"), ("tinny: no such sweep in runs",)),
    (("export", "tinny", "--to", "x.xlsx"), ("--to x.xlsx: unknown kind of table; allowed: .parquet, .csv",)),
    (("show", "0123"), ("0123: no such trial in runs",)),
    (("logs", "0123"), ("0123: no such trial in runs",)),
    (
        ("run", "FILE", "--place", "debug", "--set", "base.dataset=cifar10", "--data", "/nonexistent"),
        ("/nonexistent",),
    ),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_exit_code_2_and_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], said: tuple[str, ...], tmp_path: Path
) -> None:
    file = str(write(tmp_path))
    done = sweep(*(argument.replace("FILE", file) for argument in arguments), cwd=tmp_path)
    refused(done, *(words.replace("FILE", file) for words in said))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


def test_a_store_that_is_mounted_read_only_is_one_line(tmp_path: Path, read_only: Path) -> None:
    command = ("run", write(tmp_path), "--place", "debug", "--store", read_only)
    refused(sweep(*command), f"{read_only}/tiny: the store cannot be written: Read-only file system")
    assert list(read_only.iterdir()) == []


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> SweepStore:
    """Four small trials, run in debug: first two of them, then a picked one, then what was left."""
    folder = tmp_path_factory.mktemp("ran")
    command = ("run", write(folder), "--place", "debug", "--store", folder / "runs")
    store = SweepStore(folder / "runs" / "tiny")

    done = sweep(*command, "--limit", "2")
    assert done.returncode == 0, done.stderr
    assert "4 trials: 2 waiting, 2 completed" in done.stdout
    begun = {folder.trial_id for folder in store.trials()}
    assert len(begun) == 2

    planned = json.loads(sweep("plan", command[1], "--store", command[-1], "--json").stdout)["trials"]
    assert sorted(row["standing"] for row in planned) == ["done", "done", "new", "new"]
    last = planned[-1]["trial_id"]
    assert last not in begun
    done = sweep(*command, "--trial", last[:6])
    assert done.returncode == 0, done.stderr
    assert {folder.trial_id for folder in store.trials()} == begun | {last}

    done = sweep(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" epoch ") == 2 * 1 + 1  # only the fourth trial was trained, and told of
    assert "4 trials: 4 completed" in done.stdout
    assert f"sweep report tiny --store {folder / 'runs'}" in done.stdout
    return store


def test_a_run_ends_with_every_trial_trained_once(ran: SweepStore) -> None:
    infos = [folder.info() for folder in ran.trials()]
    assert [(i.state, i.epoch, len(i.attempts)) for i in infos if i] == [("completed", 2, 1)] * 4
    assert ran.records().num_rows == 8


def test_each_command_keeps_what_it_forecast(ran: SweepStore) -> None:
    kept = saved_forecasts(ran)
    assert [(one.trials, one.epochs) for one in kept] == [(2, 4), (1, 2)]  # none for a picked trial
    bases = [one.basis.partition(",")[0] for one in kept]
    assert bases == ["rough", "from this store's own records"]
    assert all(one.seconds and one.seconds > 0 for one in kept)
    commands = {attempt.command_id for folder in ran.trials() for attempt in folder.info().attempts}  # type: ignore[union-attr]
    assert commands > {one.command_id for one in kept}


def test_status_tells_of_all_sweeps_or_of_one(ran: SweepStore) -> None:
    root = ran.path.parent
    for done in (sweep("status", "--store", root), sweep("status", "tiny", "--store", root)):
        assert (done.returncode, done.stderr) == (0, "")
        assert "tiny  Which learning rate?" in done.stdout
        assert "100 % of 8 epochs" in done.stdout
        assert "best valid_accuracy 0." in done.stdout
    one = json.loads(sweep("status", "tiny", "--store", root, "--json").stdout)
    assert json.loads(sweep("status", "--store", root, "--json").stdout) == [one]
    assert (one["sweep"], one["counts"], one["epochs_done"]) == ("tiny", {"completed": 4}, 8)
    values = {t["trial_id"]: t["value"] for t in one["trials"]}
    last = ran.records().to_pandas().sort_values("epoch").groupby("trial_id").last()
    assert values == last["valid_accuracy"].to_dict()
    assert one["best"]["value"] == max(values.values())
    # A sweep's folder does as well as its name.
    assert sweep("status", ran.path, "--json").stdout == json.dumps(one) + "\n"


def test_show_and_logs_tell_of_one_trial(ran: SweepStore) -> None:
    root, trial = ran.path.parent, next(ran.trials())
    told = json.loads(sweep("show", trial.trial_id[:6], "--store", root, "--json").stdout)
    assert (told["trial_id"], told["state"], len(told["records"])) == (trial.trial_id, "completed", 2)
    assert told["attempts"][0]["place"] == "debug"
    shown = sweep("show", trial.trial_id, "--store", root)
    assert shown.returncode == 0
    for words in (trial.trial_id, "completed at epoch 2", "hidden", "[8]", "torch"):
        assert words in shown.stdout
    for follow in ((), ("-f",)):
        assert sweep("logs", trial.trial_id, "--store", root, *follow).stdout == log_text(trial)
    refused(sweep("show", "", "--store", root), "'': not a trial's id or the start of one")


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_export_writes_one_tidy_table(ran: SweepStore, suffix: str, tmp_path: Path) -> None:
    to = tmp_path / f"a table{suffix}"
    done = sweep("export", "tiny", "--store", ran.path.parent, "--to", to)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"8 rows in {to}" in done.stdout
    as_written = {"trial_id": str, "valid_loss": str}  # some versions of pandas read a float one bit off
    frame = pd.read_csv(to, dtype=as_written) if suffix == ".csv" else pd.read_parquet(to)
    assert set(find_trainable().schema.names) - set(frame.columns) <= {
        "lr"
    }  # there, `lr` is the trial's field
    key = ["trial_id", "epoch"]
    ours = ran.records().to_pandas().sort_values(key)["valid_loss"].to_list()
    assert frame.sort_values(key)["valid_loss"].map(float).to_list() == ours


def test_export_writes_the_predictions_and_names_what_is_damaged(ran: SweepStore, tmp_path: Path) -> None:
    root, to = tmp_path / "runs", tmp_path / "predictions.parquet"
    copy = SweepStore(shutil.copytree(ran.path, root / "tiny"))
    words = ("export", "tiny", "--predictions", "--store", root, "--to", to)
    done = sweep(*words)
    assert (done.returncode, done.stderr) == (0, "")
    frame = pd.read_parquet(to)
    found = (frame["label"] == frame["prediction"]).groupby(frame["trial_id"]).mean()
    tests = copy.records().to_pandas().dropna(subset="test_accuracy").set_index("trial_id")["test_accuracy"]
    assert found.to_dict() == pytest.approx(tests.to_dict())
    path, *_ = sorted(copy.trials_path.glob("*/*.predictions.*"))
    path.write_bytes(b"")
    done = sweep(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"left out: {path}: damaged" in done.stdout
    assert f"{len(frame) - 360} rows in {to}" in done.stdout


@pytest.mark.parametrize("name", ["t.parquet", "t.parquet/tiny"])
def test_predictions_of_a_table_are_refused(tmp_path: Path, name: str) -> None:
    pd.DataFrame({"sweep": ["tiny"]}).to_parquet(tmp_path / "t.parquet")
    done = sweep("export", tmp_path / name, "--predictions", "--to", tmp_path / "p.csv")
    refused(done, ": a table holds no predictions; name the sweep")


def test_what_is_done_is_not_run_again_and_a_stop_is_only_asked_for(ran: SweepStore, tmp_path: Path) -> None:
    before = trajectories(ran)
    command = ("run", ran.path.parent.parent / "tiny.toml", "--place", "debug", "--store", ran.path.parent)
    done = sweep(*command)
    assert (done.returncode, trajectories(ran).equals(before)) == (0, True)
    assert "epoch" not in done.stdout.split("Next:")[0]
    stop = sweep("stop", "tiny", "--store", ran.path.parent)
    assert (stop.returncode, stop.stdout) == (0, "tiny: asked 0 running trials to stop after their epoch.\n")
    assert stop_token(ran.path)


def test_overfit_and_profile_look_at_one_trial_beside_the_sweep(tmp_path: Path) -> None:
    command = (
        "run",
        write(tmp_path, TINY.replace("[8]", "[128]"), 40),
        "--place",
        "debug",
        "--store",
        tmp_path / "runs",
    )
    done = sweep(*command, "--overfit", "1")
    assert done.returncode == 0, done.stderr
    accuracy = re.search(r"train accuracy (\S+) on 32 images after 40 epochs; nothing is stored", done.stdout)
    assert accuracy
    assert float(accuracy[1]) > 0.9  # learnt by heart
    assert not (tmp_path / "runs").exists()
    done = sweep(*command, "--profile")
    assert done.returncode == 0, done.stderr
    (trace,) = (tmp_path / "runs" / "tiny").glob("profile-*.json")
    assert "aten::addmm" in done.stdout
    assert any("addmm" in event["name"] for event in json.loads(trace.read_text())["traceEvents"])
    assert not SweepStore(tmp_path / "runs" / "tiny").exists()


def test_ctrl_c_stops_after_an_epoch_and_the_same_command_ends_as_if_undisturbed(tmp_path: Path) -> None:
    file = write(tmp_path, TINY.replace("seeds = 2", ""), epochs=20)  # still running when the signal comes
    done = sweep("run", file, "--place", "debug", "--store", tmp_path / "undisturbed")
    assert done.returncode == 0, done.stderr
    undisturbed = trajectories(SweepStore(tmp_path / "undisturbed" / "tiny"))

    store = SweepStore(tmp_path / "runs" / "tiny")
    command = sweep_command(file, tmp_path / "runs", "debug")
    process = start(command)
    wait_until(lambda: store.exists() and store.records().num_rows >= 3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Stopping after the running epoch" in output
    assert "run the same command again to resume" in output
    assert "Traceback" not in output
    (info,) = [info for folder in store.trials() if (info := folder.info()) and not info.ended]
    assert info.state == "interrupted"
    rows = store.trial(info.trial_id).records()
    assert rows["epoch"].to_pylist() == list(range(1, info.epoch + 1))

    done = sweep(*command[3:])
    assert done.returncode == 0, done.stderr
    assert trajectories(store).equals(undisturbed)
    assert undisturbed.num_rows == 2 * 20
    again = store.trial(info.trial_id).info()
    assert again is not None
    assert [attempt.from_epoch for attempt in again.attempts] == [0, info.epoch]


def test_a_bug_in_the_users_model_comes_out_with_its_traceback_in_debug(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BROKEN)
    file = write(tmp_path, 'imports = ["mine.py"]\nbase.model = "broken"\nbase.dataset = "digits"')
    done = sweep("run", file, "--place", "debug", "--store", tmp_path / "runs")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert 'mine.py", line 5, in build' in done.stderr
    assert done.stderr.endswith("ValueError: no [such] layer [/]\n")
    trial = next(SweepStore(tmp_path / "runs" / "tiny").trials())
    info = trial.info()
    assert info is not None
    assert (info.state, info.failure) == ("failed", "bug")
    shown = sweep("show", trial.trial_id, "--store", tmp_path / "runs")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "no [such] layer [/]" in shown.stdout
    shown = sweep("status", "tiny", "--store", tmp_path / "runs")
    assert "failures: 1 bug" in shown.stdout
    assert "no [such] layer [/]" in shown.stdout


@pytest.mark.ray
def test_a_failed_trial_is_exit_code_1_in_local_and_its_sweep_goes_on(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BROKEN)
    text = TINY.replace("lr = {{", 'model = {{ grid_search = ["broken", "mlp"] }}\nlr = {{').replace(
        "seeds = 2", 'imports = ["mine.py"]'
    )
    done = sweep("run", write(tmp_path, text), "--place", "local", "--store", tmp_path / "runs")
    assert done.returncode == 1, done.stderr
    assert "4 trials: 2 completed, 2 failed" in done.stdout
    assert "ValueError: no [such] layer [/]" in done.stdout


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "sweep: No space left on device"),
        (PermissionError(13, "Permission denied", "runs/x"), "sweep: runs/x: Permission denied"),
    ],
)
def test_a_disk_that_refuses_is_one_line(
    error: OSError, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise error

    monkeypatch.setattr(app, "app", refuse)
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip() == said
