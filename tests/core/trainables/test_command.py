"""A trial that is a command: its words, its records, its checkpoint, and the end of all its processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mixsweep.core.config import Field
from mixsweep.core.errors import ConfigError
from mixsweep.core.execution.run_config import RunConfig
from mixsweep.core.execution.runner import work
from mixsweep.core.store.code_copy import collect_code, keep_code
from mixsweep.core.store.definitions import save_definition
from mixsweep.core.store.integrity import check_sweep
from mixsweep.core.store.retention import Retention
from mixsweep.core.store.store import SweepStore
from mixsweep.core.store.trial.info import TrialInfo
from mixsweep.core.trainables import kinds
from mixsweep.core.trainables.command import guard, trial
from mixsweep.core.trainables.command.kept_files import check_pattern
from mixsweep.core.trainables.command.metrics import make_reader, named_metrics
from mixsweep.core.trainables.command.template import check_template, fill
from mixsweep.core.trainables.command.trial import Command
from mixsweep.core.trainables.definition import make_definition
from tests.support.commands import wait_until
from tests.support.trials import log_text

VALUES = {
    "lr": 1e-3,
    "width": 32,
    "bn": True,
    "off": False,
    "name": "it's; rm -rf /",
    "sizes": (1, 2),
    "none": None,
}


# --- Words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("python train.py --lr {lr}", ["python", "train.py", "--lr", "0.001"]),
        ("run lr={lr},w={width}", ["run", "lr=0.001,w=32"]),
        ("run {name}", ["run", "it's; rm -rf /"]),  # one word, and no shell reads it
        ("run 'a b' \"{width} c\"", ["run", "a b", "32 c"]),
        ("run {bn:--bn} {off:--off} x", ["run", "--bn", "x"]),
        ("run --{bn:yes}", ["run", "--yes"]),
        ("run {sizes} {none}x", ["run", "1,2", "x"]),
        ("run {bn} {{lr}}", ["run", "true", "{lr}"]),
    ],
)
def test_a_template_is_filled_word_by_word(template: str, words: list[str]) -> None:
    check_template(template, VALUES)
    assert fill(template, VALUES) == words


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("run {rl}", "{rl} in 'run {rl}' is no field; allowed: lr, width"),
        ("run {lr", "a single '{'; write '{{' for a brace"),
        ("run 'x", "No closing quotation"),
    ],
)
def test_a_template_that_cannot_be_filled_is_a_line(template: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_template(template, VALUES)
    assert said in str(caught.value)


# --- Records -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metrics", "line", "found"),
    [
        ("json-lines", '{"loss": 1, "name": "x", "ok": true}', [{"loss": 1.0, "ok": 1.0}]),
        ("json-lines", '  {"loss": NaN}', None),
        ("json-lines", "step 3 loss 0.5", []),
        ("json-lines", '{"loss": 1', []),
        ("json-lines", "[1]", []),
        ({"pattern": r"step (?P<step>\d+): loss (?P<loss>\S+)"}, "step 3: loss 0.5, ok", [{"step": 3.0, "loss": 0.5}]),
        ({"pattern": r"loss (?P<loss>\S+)"}, "loss high", []),
        ({"pattern": r"acc (?P<acc>\S+)"}, "acc 93.5%", [{"acc": 93.5}]),
    ],
)  # fmt: skip
def test_records_are_read_from_lines(metrics: Any, line: str, found: Any, tmp_path: Path) -> None:
    read = make_reader(metrics, tmp_path)(line)
    if found is None:
        assert len(read) == 1
        assert read[0]["loss"] != read[0]["loss"]
    else:
        assert read == found


def test_a_growing_csv_is_read_row_by_row(tmp_path: Path) -> None:
    read = make_reader("csv:log.csv", tmp_path)
    assert read("") == []
    (tmp_path / "log.csv").write_text("step,loss\n1,0.5\n2,0.")
    assert read("") == [{"step": 1.0, "loss": 0.5}]
    with open(tmp_path / "log.csv", "a") as file:
        file.write("25\n3,nonsense\n")
    assert read("") == [{"step": 2.0, "loss": 0.25}, {"step": 3.0}]


@pytest.mark.parametrize("metrics", ["lines", "csv:", {"pattern": "("}, {"pattern": "loss"}, {}, 3])
def test_a_way_to_read_records_that_is_none_is_a_line(metrics: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^metrics: "):
        make_reader(metrics, tmp_path)
    assert named_metrics({"pattern": r"(?P<step>\d+) (?P<loss>\S+)"}) == ("loss",)


# --- Trials --------------------------------------------------------------------------------------------

SCRIPT = """
import json, os, sys, time
seed, out = int(sys.argv[1]), sys.argv[2]
first, x = 1, float(seed)
if len(sys.argv) > 3:
    saved = json.load(open(sys.argv[3]))
    first, x = saved["step"] + 1, saved["x"]
for step in range(first, 6):
    x = x * 0.5 + seed
    json.dump({"step": step, "x": x}, open(out + "/new", "w"))
    os.replace(out + "/new", out + "/checkpoint")
    print(json.dumps({"step": step, "loss": x}), flush=True)
    if step == int(os.environ.get("STOP_AT", "0")):
        time.sleep(60)
"""
RUN = f"{sys.executable} train.py {{seed}} {{trial_dir}}"
Train = Callable[..., TrialInfo]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Trains one trial of a command whose script is given, and returns how it ended."""

    def train(
        script: str = SCRIPT,
        folder: str = "sweep",
        run: str = RUN,
        pause: Callable[[], str] = lambda: "",
        environment: Mapping[str, str] | None = None,
        until: int | None = None,
        **changes: Any,
    ) -> TrialInfo:
        code = tmp_path / f"code-{folder}"
        code.mkdir(exist_ok=True)
        (code / "train.py").write_text(script)
        store = SweepStore(tmp_path / folder)
        seed = Field(name="seed", type=int, default=1, doc="", applies={})
        definition = make_definition(source="command", name=run, fields=[seed], metrics={"loss": "min"})
        trainable = kinds.declare(definition)
        save_definition(store.path, definition)
        kept = keep_code(store.path, collect_code(code, ["*.py"]))
        command = Command(run=run, metrics="json-lines", code=str(kept), environment=environment or {})
        trial.attach(definition.kind, replace(command, **changes))
        run_config = RunConfig(
            store=store.path, checkpoint_share=1.0, retention=Retention("all", "loss", "min"), until=until
        )
        config = trainable.config({})
        list(work([config], run_config, pause=pause))
        info = store.trial(config.trial_id).info()
        assert info is not None
        return info

    return train


def losses(path: Path, info: TrialInfo) -> list[tuple[int, int, float]]:
    table = SweepStore(path).trial(info.trial_id).records()
    return [(row["epoch"], row["step"], row["loss"]) for row in table.to_pylist()]


AT = 4  # calls of `pause`: one before the trial, and one after each record
WHOLE = [(1, 1, 1.5), (2, 2, 1.75), (3, 3, 1.875), (4, 4, 1.9375), (5, 5, 1.96875)]


def test_a_script_is_a_trial(train: Train, tmp_path: Path) -> None:
    info = train()
    assert (info.state, info.epoch) == ("completed", 5)
    assert losses(tmp_path / "sweep", info) == WHOLE
    assert train().attempts == info.attempts
    log = log_text(SweepStore(tmp_path / "sweep").trial(info.trial_id))
    assert '{"step": 5, "loss": 1.96875}' in log
    assert list(check_sweep(SweepStore(tmp_path / "sweep"))) == []


@pytest.mark.parametrize("resume", ["{checkpoint}", ""])
def test_a_paused_script_goes_on_from_its_checkpoint_or_starts_again(
    train: Train, tmp_path: Path, resume: str
) -> None:
    asked: list[int] = []

    def pause() -> str:
        asked.append(1)
        return "preempted" if len(asked) >= AT else ""

    begun = train(pause=pause, resume=resume, environment={"STOP_AT": "3"})
    assert (begun.state, begun.epoch) == ("interrupted", 3)
    info = train(resume=resume)
    assert (info.state, info.epoch, info.attempts[-1].from_epoch) == ("completed", 5, 3 if resume else 0)
    assert losses(tmp_path / "sweep", info) == WHOLE
    log = log_text(SweepStore(tmp_path / "sweep").trial(info.trial_id))
    assert ("no checkpoint that the command can resume from: it starts again" in log) is (not resume)


def test_records_that_are_told_again_replace_those_from_there_on(train: Train, tmp_path: Path) -> None:
    behind = SCRIPT.replace('first, x = saved["step"] + 1, saved["x"]', "first, x = 2, 1.5")
    asked: list[int] = []

    def pause() -> str:
        asked.append(1)
        return "preempted" if len(asked) >= AT else ""

    train(behind, pause=pause, resume="{checkpoint}", environment={"STOP_AT": "3"})
    info = train(behind, resume="{checkpoint}")
    assert losses(tmp_path / "sweep", info) == WHOLE


def test_a_script_that_tells_without_end_waits_and_can_be_stopped(train: Train) -> None:
    flood = (
        "import json, itertools\nfor n in itertools.count(1): print(json.dumps({'loss': 1 / n, 'step': n}))"
    )
    asked: list[int] = []

    def pause() -> str:
        asked.append(1)
        return "preempted" if len(asked) >= 50 else ""

    begun = time.monotonic()
    info = train(flood, pause=pause, resume="{checkpoint}")
    assert info.state == "interrupted"
    assert 49 <= info.epoch < 50_000  # and what it had told when it was ended
    assert time.monotonic() - begun < 60


FAILURES: dict[str, tuple[dict[str, Any], str, str]] = {
    "an exit code": (
        {"script": "print('a'); print('b'); print('no such'); exit(3)"}, "bug", "exit code 3: a | b | no such",
    ),
    "a traceback": ({"script": "raise KeyError('layer')"}, "bug", "KeyError: 'layer'"),
    "no output": ({"script": ""}, "config", "the trial ended without a record"),
    "nonsense": ({"script": "print('loss low')"}, "config", "the trial ended without a record"),
    "another metric": (
        {"script": "print('{\"acc\": 1}')"}, "config", "no record has the metric 'loss'; the last one has acc, seconds",
    ),
    "no such program": ({"run": "no-such-program {seed}"}, "config", "exit code 127: no-such-program: No such file"),
    "inputs that this machine lacks": (
        {"inputs": {"data": "/no/such/data"}}, "config", "inputs: /no/such/data is not on ",
    ),
    "a time limit": (
        {"script": "import time; time.sleep(30)", "time_limit": 0.5}, "bug", "longer than its time limit of 0.5 s",
    ),
    "memory": ({"script": "print('CUDA out of memory'); exit(1)"}, "oom", "CUDA out of memory"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_a_command_that_fails_has_its_kind_and_says_why(train: Train, case: str) -> None:
    changes, kind, said = FAILURES[case]
    info = train(**changes)
    assert (info.state, info.failure) == ("failed", kind)
    assert said in info.attempts[-1].message


def test_a_member_without_a_checkpoint_where_its_population_waits_fails(train: Train) -> None:
    info = train("print('{\"loss\": 1}')", until=1)
    assert (info.state, info.failure) == ("failed", "config")
    assert "it left no checkpoint of record 1, from which its population goes on" in info.attempts[-1].message


def test_a_nan_in_the_metric_diverges(train: Train) -> None:
    assert train("print('{\"loss\": NaN}', flush=True); import time; time.sleep(30)").state == "diverged"


def test_each_attempt_has_a_copy_of_the_code_and_the_inputs(train: Train, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.txt").write_text("0.25")
    script = (
        "import os, json, pathlib; pathlib.Path('mine.txt').write_text('x');"
        "assert os.environ['OMP_NUM_THREADS'] == '1' and os.environ['COLOUR'] == 'red';"
        "print(json.dumps({'loss': float(open('data/x.txt').read())}))"
    )
    info = train(script, inputs={"data": str(tmp_path / "data")}, environment={"COLOUR": "red"})
    assert losses(tmp_path / "sweep", info)[0][2] == 0.25
    kept = [path for path in (tmp_path / "sweep" / "code").iterdir() if path.is_dir()]
    assert [path.name for path in kept[0].iterdir()] == ["train.py"]  # not what the attempt wrote


KEEPS = SCRIPT.replace(
    "    json.dump(",
    "    os.makedirs(out + '/samples', exist_ok=True)\n"
    "    open(f'{out}/samples/{step}.txt', 'w').write(f'{step} since {first}')\n"
    "    open(out + '/other.txt', 'w').write('x')\n"
    "    json.dump(",
)


@pytest.mark.parametrize("resume", ["{checkpoint}", ""])
def test_files_that_match_are_kept_also_those_of_the_attempt_that_is_resumed(
    train: Train, tmp_path: Path, resume: str
) -> None:
    asked: list[int] = []

    def pause() -> str:
        asked.append(1)
        return "preempted" if len(asked) >= AT else ""

    store = SweepStore(tmp_path / "sweep")

    def kept(info: TrialInfo) -> dict[str, str]:
        files = store.trial(info.trial_id).kept_files()
        return {name: path.read_text() for name, path in files.items()}

    begun = train(KEEPS, pause=pause, resume=resume, environment={"STOP_AT": "3"}, keep=("samples/*",))
    assert kept(begun) == {f"samples/{n}.txt": f"{n} since 1" for n in (1, 2, 3)}
    info = train(KEEPS, resume=resume, keep=("samples",))
    first = 4 if resume else 1
    assert kept(info) == {f"samples/{n}.txt": f"{n} since {1 if n < first else first}" for n in range(1, 6)}
    assert list(check_sweep(store)) == []


def test_a_command_that_is_stopped_saves_before_its_files_are_kept(train: Train, tmp_path: Path) -> None:
    script = (
        "import json, signal, sys, time\n"
        "def save(*_): open(sys.argv[2] + '/last.txt', 'w').write('saved'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print(json.dumps({'loss': float('nan')}), flush=True)\n"
        "time.sleep(30)\n"
    )
    info = train(script, keep=("**",))
    assert info.state == "diverged"
    files = SweepStore(tmp_path / "sweep").trial(info.trial_id).kept_files()
    assert [(name, path.read_text()) for name, path in files.items()] == [("last.txt", "saved")]


@pytest.mark.parametrize("pattern", ["", "/etc/*", "../*", "a/../../b", "a**b", "checkpoint/*"])
def test_a_pattern_that_names_no_files_of_the_trial_is_a_line(pattern: str) -> None:
    with pytest.raises(ConfigError):
        check_pattern(pattern)


def test_code_is_kept_once_for_each_content(tmp_path: Path) -> None:
    for name, text in (("a.py", "1"), ("lib/b.py", "2"), ("lib/deep/c.py", "3"), ("lib/d.txt", "4")):
        (tmp_path / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / name).write_text(text)
    code = collect_code(tmp_path / "code", ["a.py", "lib/**.py"])
    assert set(code.files) == {"a.py", "lib/b.py", "lib/deep/c.py"}
    kept = keep_code(tmp_path / "sweep", code)
    assert kept == keep_code(tmp_path / "sweep", code)
    (tmp_path / "code" / "a.py").write_text("changed")
    assert collect_code(tmp_path / "code", ["a.py", "lib/**.py"]).digest != kept.name
    assert code.digest == kept.name  # what was read is what is kept, whatever is edited meanwhile
    assert (kept / "a.py").read_text() == "1"
    with pytest.raises(ConfigError, match=r"'x/\*\.py' names no file below"):
        collect_code(tmp_path / "code", ["x/*.py"])


# --- The end of its processes --------------------------------------------------------------------------

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
for options in ({}, {"start_new_session": True}):
    subprocess.Popen([sys.executable, "-c", child], env=os.environ | {"MARK": sys.argv[1]}, **options)
print("started", flush=True)
time.sleep(300)
"""


def marked(mark: str) -> list[int]:
    """The processes that have this in their environment or their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if mark.encode() in words and state != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("end", ["SIGTERM", "the death of its parent"])
def test_a_command_that_ignores_sigterm_ends_with_all_its_children(end: str, tmp_path: Path) -> None:
    mark = f"mark-{os.getpid()}-{len(end)}"
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    words = [sys.executable, "-I", guard.__file__, "0.5", sys.executable, str(tmp_path / "stubborn.py"), mark]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"started\n"
    assert len(marked(mark)) >= 4
    if end == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    else:
        process.stdin.close()
    begun = time.monotonic()
    wait_until(lambda: not marked(mark), 20)
    assert time.monotonic() - begun < 10
    assert process.wait() == 128 + signal.SIGKILL
    process.stdout.close()
    process.stdin.close()


def test_a_child_that_outlives_its_command_is_ended(tmp_path: Path) -> None:
    mark = f"outlives-{os.getpid()}"
    script = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)', sys.argv[1]],"
        " start_new_session=True)"
    )
    words = [sys.executable, "-I", guard.__file__, "5", sys.executable, "-c", script, mark]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        assert process.wait(20) == 0
    assert marked(mark) == []
