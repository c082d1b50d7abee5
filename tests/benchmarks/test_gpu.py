"""The program for a GPU machine, on a CPU: what it decides, what it writes, and how it ends and goes on. No speeds."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks import gpu, gpu_sections
from tests.benchmarks.gpu_sections import Bench, best_count, is_equal
from tests.support.commands import ROOT

MINIATURE = {
    "dataset": '"digits"', "train_limit": 64, "valid_limit": 32, "batch_size": 32, "blocks": 1, "embed_dim": 8,
}  # fmt: skip
CPU = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def bench(seconds: float = 100.0) -> Bench:
    return Bench(torch.device("cpu"), None, time.monotonic() + seconds)


def command(out: Path, *words: str, epochs: int = 1) -> list[str]:
    settings = [f"base.{name}={value}" for name, value in {**MINIATURE, "epochs": epochs}.items()]
    program = [sys.executable, "-m", "tests.benchmarks.gpu", "--out", str(out)]
    study = ["--sections", "facts", "study", "--presets", "patch-sizes", "--minutes", "3", "--processes", "2"]
    return [*program, *study, *(word for setting in settings for word in ("--set", setting)), *words]


def rates(**by_count: float) -> dict[str, Any]:
    return {count.removeprefix("n"): {"images_per_second": rate} for count, rate in by_count.items()}


def test_losses_are_equal_up_to_what_another_order_of_sums_does() -> None:
    calm, chaotic = [0.0, 1e-7, 1e-7, 1e-7], [1e-6, 1e-5, 1e-2, 1e-1]
    assert is_equal([1e-6, 1e-5, 1e-4, 1e-3], calm)
    assert not is_equal([1e-6, 1e-5, 1e-4, 1e-1], calm)
    assert is_equal([1e-6, 1e-5, 1e-2, 2e-1], chaotic)
    assert not is_equal([1e-2, 1e-5, 1e-2, 2e-1], chaotic)  # before any update there is nothing to amplify


def test_more_trials_at_once_must_pay_for_every_model() -> None:
    assert best_count({}) == 1
    both = {"resnet18": rates(n1=10, n2=18, n4=18.5), "best mixer": rates(n1=10, n2=17, n4=17.5)}
    assert best_count(both) == 2
    assert (
        best_count({"resnet18": rates(n1=10, n2=9), "best mixer": rates(n1=10, n2=9), "cut_short": True}) == 1
    )


def test_a_section_that_fails_is_written_down_and_what_is_done_is_not_done_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []

    def section(name: str, result: Any) -> Any:
        def found(bench: Bench) -> Any:
            calls.append(name)
            if isinstance(result, Exception):
                raise result
            return result

        return found, 30.0

    table = {
        "broken": section("broken", ValueError("no such kernel")),
        "whole": section("whole", {"a": 1}),
        "short": section("short", {"a": 1, "cut_short": True}),
    }
    monkeypatch.setattr(gpu, "SECTIONS", table)
    found: dict[str, Any] = {}
    saved: list[str] = []
    gpu.run_sections(list(table), bench(), found, lambda: saved.append(json.dumps(found)), again=False)
    assert calls == ["broken", "whole", "short"]
    assert found["broken"]["result"]["failed"] == "ValueError: no such kernel"
    assert [len(json.loads(text)) for text in saved] == [1, 2, 3]
    gpu.run_sections(list(table), bench(), found, lambda: None, again=False)
    assert calls[3:] == ["broken", "short"]
    gpu.run_sections(["whole"], bench(), found, lambda: None, again=True)
    assert calls[5:] == ["whole"]
    gpu.run_sections(["whole"], bench(seconds=1), found, lambda: None, again=True)
    assert calls[6:] == []


def test_the_archive_holds_the_store_without_checkpoints_and_another_machine_goes_on_from_it(
    tmp_path: Path,
) -> None:
    trial = tmp_path / "store" / "sweep" / "trials" / "0123456789ab"
    trial.mkdir(parents=True)
    (trial / "1.json").write_text("{}")
    (trial / "1.checkpoint.3.78ecbb936173436b.pt").write_bytes(b"0" * 1000)
    sent, out = tmp_path / "sent", tmp_path / "out"
    sent.mkdir()
    out.mkdir()
    (sent / "gpu.json").write_text('{"facts": {}}')
    assert "too large" not in gpu.archive(tmp_path / "store", tmp_path / "no-logs", sent)
    gpu.go_on_from(sent, tmp_path / "there", out)
    assert [path.name for path in (tmp_path / "there").rglob("*") if path.is_file()] == ["1.json"]
    assert (out / "gpu.json").read_text() == '{"facts": {}}'
    (tmp_path / "there" / "new").touch()
    gpu.go_on_from(sent, tmp_path / "there", out)  # what is there is newer
    assert (tmp_path / "there" / "new").exists()


@pytest.mark.parametrize("name", sorted(set(gpu.SECTIONS) - {"gpu tests", "side by side", "correctness"}))
@pytest.mark.bench
def test_each_section_runs_in_miniature(name: str) -> None:
    section, _ = gpu.SECTIONS[name]
    found = section(bench(200))
    json.dumps(found)
    assert found
    assert "cut_short" not in found


@pytest.mark.bench
def test_processes_side_by_side_are_timed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_sections, "SHARING", ("best mixer",))
    found = gpu_sections.side_by_side(Bench(torch.device("cpu"), None, time.monotonic() + 100, (1, 2)))
    assert [len(rates["each"]) for rates in found["best mixer"].values()] == [1, 2]
    assert best_count(found) in (1, 2)


@pytest.mark.bench
def test_the_study_is_trained_by_several_processes_and_goes_on_elsewhere(tmp_path: Path) -> None:
    out = tmp_path / "out"
    subprocess.run(command(out), cwd=ROOT, env=CPU, check=True, timeout=200)
    found = json.loads((out / "gpu.json").read_text())
    assert found["completed"]["patch-sizes"]["states"] == {"completed": 12}
    assert [process["exit_code"] for process in found["study"][0]["processes"]["patch-sizes"]] == [0, 0]
    shutil.copytree(out, tmp_path / "sent")
    there = command(tmp_path / "again", "--earlier", str(tmp_path / "sent"), epochs=1)
    subprocess.run(there, cwd=ROOT, env=CPU, check=True, timeout=200)
    again = json.loads((tmp_path / "again" / "gpu.json").read_text())
    assert again["completed"] == found["completed"]
    assert not list((tmp_path / "again-store").glob("patch-sizes/trials/*/2.*"))  # no second attempt


@pytest.mark.bench
def test_sigterm_ends_the_processes_and_saves_what_there_is(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(command(out, epochs=100_000), cwd=ROOT, env=CPU)
    records = tmp_path / "out-store" / "patch-sizes" / "trials"
    until = time.monotonic() + 150
    while not list(records.glob("*/*.records.*")) and time.monotonic() < until:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 130
    found = json.loads((out / "gpu.json").read_text())
    states = found["completed"]["patch-sizes"]["states"]
    assert set(states) <= {"interrupted", "running", "waiting"}
    assert "bytes" in found["archive"]
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path) not in running
