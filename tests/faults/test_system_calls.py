"""A command is stopped or killed at one of its system calls on the store; another finishes; nothing is lost."""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.commands import Commands, interposer, own_environment
from tests.faults.system_calls import SCENARIOS, Campaign, read_trace, sample
from tests.faults.tables import COMMAND
from tests.support.commands import ROOT, sweep_command

pytestmark = [pytest.mark.faults, pytest.mark.timeout(280)]

SEED = 11
CALLS = ("rename", "link", "unlink", "mkdir", "fsync", "write")


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    folder = tmp_path_factory.mktemp("commands")
    with own_environment(folder), Commands(folder) as made:
        yield made


@pytest.mark.parametrize(
    ("scenario", "ways", "count"),
    [
        ("train", ("pause", "sleep", "kill", "torn"), 10),
        ("resume", ("pause", "kill"), 5),
        ("extend", ("pause", "kill"), 3),
        ("upgrade", ("pause", "kill"), 3),
        ("report", ("kill",), 1),
    ],
)
def test_whatever_call_a_command_is_stopped_or_killed_at_the_store_ends_as_an_undisturbed_one(
    commands: Commands, tmp_path: Path, scenario: str, ways: tuple[str, ...], count: int
) -> None:
    campaign = Campaign(commands, SCENARIOS[scenario], tmp_path)
    for case in sample(campaign.cases(ways), count, SEED):
        result = campaign.play(case)
        assert not result.problems, "\n".join([f"{COMMAND} call '{case}'", result.struck, *result.problems])


def test_the_interposer_sees_every_call_on_the_store_that_the_kernel_sees(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            "needs strace: apt-get install strace"
        )
    file, store, trace, seen = (
        tmp_path / "small.toml",
        tmp_path / "store",
        tmp_path / "trace",
        tmp_path / "seen",
    )
    file.write_text(SCENARIOS["train"].sweep, encoding="utf-8")
    inside = {"LD_PRELOAD": str(interposer(tmp_path)), "FAULT_ROOT": str(store), "FAULT_TRACE": str(seen)}
    words = ["strace", "-f", "-y", "-qq", "-o", str(trace), "-e", f"trace={','.join(CALLS)}"]
    words += [word for name, value in inside.items() for word in ("-E", f"{name}={value}")]
    words += sweep_command(file, store, "debug")
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    kernel = Counter(
        re.sub(r"^[0-9]+ +", "", line).partition("(")[0]
        for line in trace.read_text(errors="replace").splitlines()
        if str(store) in line and "resumed>" not in line
    )
    ours = Counter(call for call, _ in read_trace(seen))
    assert all(ours[name] for name in CALLS)
    assert {name: kernel[name] for name in CALLS} == {name: ours[name] for name in CALLS}
