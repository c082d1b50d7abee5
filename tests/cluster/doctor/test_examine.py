"""`sweep doctor` here and on a real SLURM: its checks, its texts, and that it leaves nothing behind."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixsweep.cluster.doctor.check_result import Check
from mixsweep.cluster.doctor.examine import examine
from mixsweep.cluster.doctor.host import Folder, Gpu, Machine, inspect_folder, inspect_machine
from mixsweep.cluster.doctor.machine_checks import check_gpus, check_python, check_store
from mixsweep.cluster.doctor.probe_job import NodeReport
from mixsweep.cluster.doctor.slurm_checks import check_accounting, check_node, check_preemption, count_gpus
from mixsweep.cluster.places import Place, SlurmPlace
from tests.support.commands import ROOT, finish, kill_family, start, wait_until
from tests.support.slurm_cluster import SlurmCluster

HERE = Place(name="debug", kind="debug")
GIB = 2**30


def by_name(checks: Iterator[Check]) -> dict[str, Check]:
    found = list(checks)
    assert len({check.name for check in found}) == len(found)
    for check in found:
        assert check.state in ("ok", "warning", "failed")
        assert check.found
        assert "\n" not in check.found + check.advice
    return {check.name: check for check in found}


def doctor(*words: str) -> list[str]:
    return [sys.executable, "-m", "mixsweep", "doctor", *words]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder with the names of CIFAR-10's official archive, which is all that is checked."""
    batches = tmp_path / "images" / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (batches / name).write_bytes(bytes(1000))
    return batches.parent


@pytest.fixture(scope="module")
def machine() -> Machine:
    return inspect_machine()


def test_a_healthy_machine_passes_and_creates_no_store(tmp_path: Path, archive: Path) -> None:
    checks = by_name(examine(HERE, tmp_path / "new" / "store", archive))
    assert list(checks) == ["python", "processor", "gpus", "store", "data", "extras"]
    assert {check.state for check in checks.values()} == {"ok"}
    assert checks["python"].found.startswith(".".join(map(str, sys.version_info[:3])))
    assert checks["data"].found.startswith("7 files")
    assert not (tmp_path / "new").exists()


def test_checking_a_store_leaves_nothing_in_it(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.toml").write_text("name = 'x'")
    assert inspect_folder(tmp_path).error == ""
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "sweep",
        "sweep/sweep.toml",
    ]


def test_local_prints_one_line_per_check_or_json(tmp_path: Path) -> None:
    done = finish(doctor("--store", str(tmp_path)))
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    names = ["python", "processor", "gpus", "store", "data"]
    assert [line.split()[1] for line in lines] == [*names, "ray", "extras"]
    assert lines[4].split()[0] == "warning"  # no data folder was given
    assert "SWEEP_DATA" in lines[4]
    report = json.loads(finish(doctor("--place", "debug", "--store", str(tmp_path), "--json")).stdout)
    assert [check["name"] for check in report] == [*names, "extras"]
    assert list(report[0]) == ["name", "state", "found", "advice"]
    assert not list(tmp_path.iterdir())


def test_a_failed_check_gives_exit_code_1_and_no_traceback(read_only: Path, tmp_path: Path) -> None:
    words = ("--place", "debug", "--store", str(read_only / "runs"), "--data", str(tmp_path / "nowhere"))
    done = finish(doctor(*words))
    assert done.returncode == 1
    lines = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert lines["store"].startswith("failed")
    assert "Read-only file system" in lines["store"]
    assert lines["data"].startswith("failed")
    assert "is not a folder" in lines["data"]
    assert "Traceback" not in done.stdout


def test_a_store_below_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check = check_store(inspect_folder(tmp_path / "file" / "runs"))
    assert check.state == "failed"
    assert "Not a directory" in check.found


def test_more_cores_or_gpus_than_the_machine_has_is_reported(tmp_path: Path) -> None:
    checks = by_name(examine(dataclasses.replace(HERE, cpus=5000, gpus=99), tmp_path, None))
    assert checks["processor"].state == "warning"
    assert "cpus = 5000" in checks["processor"].found
    assert checks["gpus"].state == "failed"
    assert "99 asked for" in checks["gpus"].found


def test_a_library_that_does_not_load_fails_with_its_error(tmp_path: Path) -> None:
    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')", encoding="utf-8"
    )
    code = "import sys; sys.path.insert(0, sys.argv[1]); sys.path.insert(1, sys.argv[2])\n"
    code += "from mixsweep.cluster.doctor.host import inspect_machine\n"
    code += "from mixsweep.cluster.doctor.machine_checks import check_python\n"
    code += "print(check_python(inspect_machine()))"
    done = finish([sys.executable, "-c", code, str(tmp_path), str(ROOT)])
    assert "state='failed'" in done.stdout
    assert "operator torchvision::nms does not exist" in done.stdout


# GPU checks on the facts of machines that the test does not have.
A100 = Gpu(name="A100", memory_bytes=80 * GIB, free_bytes=79 * GIB, has_bf16=True)


@pytest.mark.parametrize(
    ("facts", "wanted", "state", "said"),
    [
        ({"gpus": (A100, A100)}, 2, "ok", "A100, 79 GiB of 80 GiB free, bf16 native, A100"),
        ({"gpus": (A100,), "visible": "0"}, 2, "failed", "(CUDA_VISIBLE_DEVICES=0); 2 asked for"),
        ({"driver": "470.82", "cuda": "13.0"}, 0, "warning", "driver is 470.82, torch is built for CUDA 13.0"),
        ({"driver": "470.82", "cuda": ""}, 1, "failed", "torch is built without CUDA"),
        ({"driver": "580.65", "visible": ""}, None, "ok", "CUDA_VISIBLE_DEVICES= hides them"),
        ({"gpus": (Gpu(name="K80", error="no kernel image"),)}, 1, "failed", "K80: no kernel image"),
        ({"gpus": (dataclasses.replace(A100, free_bytes=GIB),)}, 1, "warning", "1,024 MiB of 80 GiB free"),
    ],
)  # fmt: skip
def test_gpus_are_compared_with_the_request_and_a_mismatch_is_reported(
    facts: dict, wanted: int | None, state: str, said: str, machine: Machine
) -> None:
    bare = dataclasses.replace(machine, gpus=(), driver="", visible=None, gpu_warning="")
    check = check_gpus(dataclasses.replace(bare, **facts), wanted)
    assert check.state == state
    assert said in check.found


@pytest.mark.parametrize(
    ("options", "count"),
    [({"gpus": 2}, 2), ({"gres": "gpu:a100:4"}, 4), ({"gres": "gpu:3"}, 3), ({"gres": "gpu"}, 1),
     ({"gres": "gpu:a100"}, 1), ({"gres": "nvme:1,gpu:1"}, 1), ({"gres": "nvme:2", "gpus": 1}, 0)],
)  # fmt: skip
def test_the_gpus_of_a_task_are_also_read_from_gres(options: dict, count: int) -> None:
    assert count_gpus(SlurmPlace(**options)) == count


def test_an_old_torch_is_a_warning(machine: Machine) -> None:
    assert check_python(machine).state == "ok"
    assert check_python(dataclasses.replace(machine, versions={"torch": "2.4.0"})).state == "warning"


def test_a_clock_offset_other_versions_and_an_unshared_folder_on_a_node_are_reported(
    machine: Machine,
) -> None:
    report = NodeReport(
        node="n7", shared="", sees_lease=True, data=None, scheduler_error="", requeue=False, internet=True,
        folder=Folder(free_bytes=GIB, clock_seconds=-30.0),
        machine=dataclasses.replace(machine, versions=machine.versions | {"torch": "2.12.0"}),
    )  # fmt: skip
    checks = by_name(iter(check_node(SlurmPlace(), report, False, Folder())))
    assert checks["node store"].state == "failed"
    assert checks["node clock"].found.startswith("+30.0 s")
    assert checks["node clock"].state == "warning"
    assert checks["node versions"].found == f"torch 2.12.0 (here {machine.versions['torch']})"
    assert checks["node requeue"].state == "warning"
    assert "can be reached" in checks["node internet"].found
    unseen = dataclasses.replace(report, sees_lease=False)
    assert "lease" in by_name(iter(check_node(SlurmPlace(), unseen, True, Folder())))["node store"].found


# On the real scheduler.


def examined(place: SlurmPlace, store: Path, wait: float = 120, data: Path | None = None) -> dict[str, Check]:
    return by_name(examine(Place(name="p", kind="slurm", slurm=place), store, data, wait_seconds=wait))


@pytest.fixture
def store(tmp_path: Path, slurm: SlurmCluster) -> Iterator[Path]:
    """A store whose path needs quoting; after the test neither it nor the queue holds anything of the doctor."""
    path = tmp_path / "Läufe mit Platz"
    yield path
    assert not path.exists() or not list(path.iterdir())
    assert not slurm.jobs()


@pytest.mark.slurm
def test_a_healthy_cluster_is_reported_in_full_by_a_job_on_a_node(store: Path, archive: Path) -> None:
    said = ["echo loading the modules >&2", "export MODULES='a b'"]
    checks = examined(SlurmPlace(partition="debug", time=10, setup=tuple(said)), store, data=archive)
    assert {name: check for name, check in checks.items() if check.state != "ok"} == {}
    assert list(checks) == [
        "python", "store", "data", "scheduler", "arrays", "requeue", "partition", "preemption", "accounting",
        "extras", "job", "node python", "node gpus", "node store", "node data", "node clock", "node versions",
        "node requeue", "node internet", "node tmp",
    ]  # fmt: skip
    assert re.search(r" ran on n[12], \d+ s in all$", checks["job"].found)
    assert "2 of 2 nodes idle, MaxTime 01:00:00" in checks["partition"].found
    assert checks["arrays"].found.startswith("63 tasks")
    assert "5 s from SIGTERM" in checks["arrays"].found
    assert checks["accounting"].found.startswith("off")
    assert checks["node versions"].found == "as here"


@pytest.mark.slurm
def test_the_preemption_of_a_partition_is_reported(slurm: SlurmCluster) -> None:
    place = Place(name="p", kind="slurm", slurm=SlurmPlace(partition="scavenge"))
    checks = by_name(examine(place, ROOT, None, with_job=False))
    assert checks["preemption"].found == "REQUEUE, GraceTime 0 s (preempt/partition_prio)"
    assert "job" not in checks
    by_qos = {"PreemptType": "preempt/qos", "PreemptMode": "CANCEL"}
    assert "no --detach" in check_preemption(by_qos, ["scavenge"]).advice


@pytest.mark.slurm
def test_with_accounting_the_account_of_another_user_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with SlurmCluster(nodes=1, accounting=True) as cluster:
        monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        (own,) = check_accounting(SlurmPlace(account="lab"))
        (foreign,) = check_accounting(SlurmPlace(account="physics"))
    assert own.state == "ok"
    assert {"lab", "spare"} <= set(re.split("[ ,]+", own.found))
    assert foreign.state == "failed"
    assert "physics" in foreign.advice


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("options", "name", "said"),
    [
        ({"partition": "gpu-lnog"}, "partition", "gpu-lnog"),
        ({"time": 100}, "partition", "MaxTime=01:00:00"),
    ],
)
def test_a_failed_check_submits_no_job(options: dict, name: str, said: str, store: Path) -> None:
    checks = examined(SlurmPlace(**options), store)
    assert checks[name].state == "failed"
    assert said in checks[name].found
    assert checks["job"] == Check("job", "warning", "not tried", "first fix what failed")


@pytest.mark.slurm
def test_a_partition_that_is_down_fails(store: Path, slurm: SlurmCluster) -> None:
    slurm.scontrol("update", "PartitionName=short", "State=DOWN")
    try:
        check = examined(SlurmPlace(partition="short", time=1), store)["partition"]
    finally:
        slurm.scontrol("update", "PartitionName=short", "State=UP")
    assert check.state == "failed"
    assert check.found.startswith("short down")


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"setup": ("echo no such module", "exit 3")}, "FAILED, exit code 3:0; within its setup lines; last "
         "output: no such module"),
        ({"python": "/no/such/python"}, "/no/such/python: No such file or directory"),
        ({"python": "python3 -S"}, "No module named"),
        ({"mem": "900G"}, "sbatch: "),
    ],
)  # fmt: skip
def test_a_job_without_a_report_is_described_by_its_last_output(
    options: dict, said: str, store: Path
) -> None:
    check = examined(SlurmPlace(**options), store)["job"]
    assert check.state == "failed"
    assert said in check.found


@pytest.mark.slurm
def test_a_failing_setup_line_is_named_where_the_job_continues(store: Path) -> None:
    checks = examined(SlurmPlace(setup=("export A=1", "cat /no/such/profile", "export B=2")), store)
    assert checks["setup"].state == "warning"
    assert checks["setup"].found == "this line fails: cat /no/such/profile"
    assert checks["job"].state == "ok"


@pytest.mark.slurm
def test_a_node_that_cannot_write_the_store_is_reported(store: Path, tmp_path: Path) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("needs unshare and the right to mount: run as root")
    blind = tmp_path / "python"
    store.mkdir()
    blind.write_text(
        f'#!/bin/sh\nexec unshare --mount sh -c \'mount --bind "{store}" "{store}" && '
        f'mount -o remount,bind,ro "{store}" && exec "{sys.executable}" "$@"\' sh "$@"\n',
        encoding="utf-8",
    )
    blind.chmod(0o755)
    check = examined(SlurmPlace(python=str(blind)), store)["job"]
    assert check.state == "failed"
    assert "Read-only file system" in check.found


@pytest.mark.slurm
def test_a_job_that_does_not_start_in_time_is_cancelled_and_its_reason_reported(
    store: Path, slurm: SlurmCluster
) -> None:
    checks = examined(SlurmPlace(directives={"begin": "now+1hour"}), store, wait=3)
    assert checks["job"].state == "failed"
    assert "did not start in" in checks["job"].found
    assert "BeginTime; cancelled" in checks["job"].found


@pytest.mark.slurm
def test_a_queue_that_is_only_full_is_a_warning(store: Path, slurm: SlurmCluster) -> None:
    full = slurm.sbatch("--exclusive", "--nodes=2", "--time=5", "--output=/dev/null", "--wrap", "sleep 300")
    try:
        wait_until(lambda: slurm.jobs().get(full) == "RUNNING", 60)
        check = examined(SlurmPlace(), store, wait=4)["job"]
    finally:
        slurm.scancel(full)
        wait_until(lambda: not slurm.jobs(), 60)
    assert check.state == "warning"
    assert re.search(r": (Resources|Priority|None); cancelled", check.found)


@pytest.mark.slurm
def test_ctrl_c_removes_the_job_and_its_files(
    store: Path, tmp_path: Path, slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    places = tmp_path / "config" / "mixsweep" / "places.toml"
    places.parent.mkdir(parents=True)
    places.write_text('[late]\nkind = "slurm"\ndirectives = { begin = "now+1hour" }\n')
    process = start(doctor("--place", "late", "--store", str(store)))
    try:
        wait_until(lambda: bool(slurm.jobs()) or process.poll() is not None, 60)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            kill_family(process)
    assert process.returncode == 130, output
    assert "Traceback" not in output
