"""Two users on one store: a reader who may not write, a group that trains together, and processes that are hidden."""

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixsweep.core.store.store import SweepStore
from tests.faults.commands import Commands, Fault, own_environment
from tests.faults.stores import age, differences, findings
from tests.faults.system_calls import SWEEP, TUNING

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(280),
    pytest.mark.skipif(os.getuid() != 0, reason="acts as other users: run as root"),
]

ANN, BOB, GROUP = 50_001, 50_002, 50_000


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that all users see; pytest's own are this user's alone."""
    made = Path(tempfile.mkdtemp(prefix="mixsweep-users-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def commands(folder: Path) -> Iterator[Commands]:
    with own_environment(folder), Commands(folder / "commands") as made:
        (folder / "commands").chmod(0o777)
        for name in ("cache", "config"):
            (folder / name).mkdir(exist_ok=True)
            (folder / name).chmod(0o777)
        yield made


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    path = folder / "small.toml"
    path.write_text(SWEEP.format(epochs=3, activations='["relu", "tanh"]', keep="all"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def undisturbed(commands: Commands, file: Path, folder: Path) -> SweepStore:
    done = commands.run(
        "run", str(file), "--place", "debug", "--store", str(folder / "undisturbed"), tuning=TUNING
    )
    assert done.code == 0, done.output
    return SweepStore(folder / "undisturbed" / "small")


def state_of(root: Path) -> dict[str, tuple[int, int]]:
    """Times and sizes of all files below a folder."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in root.rglob("*")
        if path.is_file()
    }


READS = (
    "status",
    "status small",
    "status small --json",
    "plan {file}",
    "show {trial}",
    "show {trial} --json",
    "logs {trial}",
    "export small --to {own}/table.csv",
    "report small --out {own}/report",
    "doctor --store {store}",
)
WRITES = (
    "report small",
    "mirror small --offline",
    "stop small",
    "run {file} --place debug --set base.epochs=4",
)


def test_a_reader_who_may_not_write_reads_everything_and_is_told_in_a_line_what_he_may_not(
    commands: Commands, undisturbed: SweepStore, folder: Path, file: Path
) -> None:
    own = folder / "bobs"
    own.mkdir()
    os.chown(own, BOB, GROUP)
    root, trial = undisturbed.path.parent, undisturbed.trial_names()[0]
    before = state_of(root)
    for words in (*READS, *WRITES):
        filled = words.format(file=file, trial=trial, own=own, store=root).split()
        more = [] if "--store" in filled else ["--store", str(root)]
        done = commands.run(*filled, *more, user=BOB, group=GROUP, environment={"HOME": str(own)}, folder=own)
        assert "Traceback" not in done.output, (words, done.output)
        if words in READS:
            assert done.code == 0, (words, done.output)
        else:
            assert done.code == (1 if words.startswith("mirror") else 2), (words, done.output)
            (line,) = [line for line in done.output.splitlines() if not line.startswith("W&B: ")]
            assert "ermission denied" in line, (words, done.output)
    assert state_of(root) == before


def test_two_users_of_a_group_go_on_with_each_others_trials(
    commands: Commands, undisturbed: SweepStore, folder: Path, file: Path
) -> None:
    root = folder / "shared"
    root.mkdir()
    os.chown(root, ANN, GROUP)
    root.chmod(0o2775)
    words = ("run", str(file), "--place", "debug", "--store", str(root))
    kill = Fault(root=root, at="rename:*.checkpoint.2.*:1", action="kill")
    ann = {"user": ANN, "group": GROUP, "umask": 0o002, "tuning": TUNING}
    assert commands.run(*words, fault=kill, **ann).code == -signal.SIGKILL
    age(root)
    done = commands.run(*words, **{**ann, "user": BOB})
    assert done.code == 0, done.output
    done = commands.run(*words, "--set", "base.epochs=4", **ann)
    assert done.code == 0, done.output
    store = SweepStore(root / "small")
    assert findings(store) == []
    assert [info.epoch for folder in store.trials() if (info := folder.info())] == [4, 4]


def test_a_live_lease_of_a_process_that_one_cannot_see_is_not_taken(
    commands: Commands, undisturbed: SweepStore, folder: Path, file: Path
) -> None:
    root = folder / "hidden"
    root.mkdir()
    os.chown(root, ANN, GROUP)
    root.chmod(0o2775)
    words = ("run", str(file), "--place", "debug", "--store", str(root))
    ann = {"user": ANN, "group": GROUP, "umask": 0o002, "tuning": TUNING, "hides_processes": True}
    stop = Fault(root=root, at="rename:*.checkpoint.2.*:1", action="stop")
    sleeper = commands.start(*words, fault=stop, **ann)
    with contextlib.ExitStack() as stack:
        stack.callback(sleeper.kill)
        assert sleeper.wait(stops=True) is None
        done = commands.run(*words, **{**ann, "user": BOB})
        assert done.code == 1, done.output
        store = SweepStore(root / "small")
        states = sorted(info.state for trial in store.trials() if (info := trial.info()))
        assert states == ["completed", "running"]
        sleeper.wake()
        ended = sleeper.wait()
        assert ended is not None
        assert ended.code == 0, ended.output
    assert differences(store, undisturbed, ends=()) == []
