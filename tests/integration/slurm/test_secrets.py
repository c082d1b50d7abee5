"""A canary secret, planted wherever a secret may lie, and looked for in all that mixsweep writes, prints or ships."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

from mixsweep.cluster.ray_cluster.packaging import stage
from tests.support.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.slurm

CANARY = "hf_CanaryThatMustNotBeSung0123456789abcd"

MODEL = """
import os
import re
from torch import nn
from mixsweep import register_model
from utils import WIDTH

def build(config, classes):
    assert os.environ["SITE_TOKEN"] == os.environ["WANDB_API_KEY"], "the secrets have not reached the job"
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))

register_model("ours", build)
"""
SWEEP = {
    "name": "canary",
    "imports": ["ours.py"],
    "base": {"model": "ours", "dataset": "digits", "batch_size": 32, "train_limit": 64, "epochs": 1},
    "space": {"lr": {"grid_search": [1e-2, 1e-3]}},
}
PLACES = {
    "campus": {
        "kind": "slurm",
        "partition": "debug",
        "time": 10,
        "setup": [f"export SITE_TOKEN={CANARY}"],
        "environment": {"WANDB_API_KEY": CANARY, "HTTPS_PROXY": f"http://me:{CANARY}@proxy"},
    }
}
PLANTED = (".env", ".netrc", "utils.py", "places.toml", "id_ed25519")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the canary in files that git does not track, in an uncommitted change and in a place."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "ours.py").write_text(MODEL)
    (root / "utils.py").write_text("WIDTH = 8\n")
    (root / "canary.toml").write_text(tomli_w.dumps(SWEEP))
    _git(root, "init", "-q")
    _git(root, "add", ".")
    _git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first")
    (root / "utils.py").write_text(f'WIDTH = 8\nLOGIN = dict(token="{CANARY}")\n')
    (root / ".env").write_text(f"WANDB_API_KEY={CANARY}\n")
    (root / ".netrc").write_text(f"machine api.example.com login user password {CANARY}\n")
    (root / "id_ed25519").write_text(f"-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}\n")
    (root / "places.toml").write_text(tomli_w.dumps(PLACES))
    monkeypatch.chdir(root)
    monkeypatch.setenv("SITE_TOKEN", CANARY)
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return root


def _git(root: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(root), *words], check=True)


def sweep(*words: str, ends: int = 0) -> str:
    """Run a command, and return all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "mixsweep", *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == ends, done.stdout + done.stderr
    return done.stdout + done.stderr


def files_with_the_canary(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        if path.is_file() and CANARY.encode() in path.read_bytes():
            yield path


def test_no_secret_is_written_where_others_read_it_nor_printed_nor_shipped(
    project: Path, tmp_path: Path, slurm: SlurmCluster
) -> None:
    store = ("--store", "runs")
    printed = [
        sweep("plan", "canary.toml", "--place", "campus", *store),
        sweep("doctor", "--place", "campus", *store, "--json"),
        sweep("run", "canary.toml", "--place", "campus", *store),
        sweep("run", "canary.toml", "--place", "debug", "--store", "runs-debug"),
        sweep("-v", "run", "canary.toml", "--place", "local", "--store", "runs-local"),
        sweep("status", "canary", *store),
        sweep("report", "canary", *store),
        sweep("export", "canary", "--to", "table.csv", *store),
        sweep("mirror", "canary", "--offline", *store),
    ]
    ids = [path.name for path in Path("runs/canary/trials").iterdir()]
    printed += [sweep("show", f"canary/{ids[0]}", *store), sweep("logs", f"canary/{ids[0]}", *store)]
    printed += [slurm.scontrol("show", "job")]
    for job in re.findall(r"JobId=([0-9]+)", printed[-1]):
        printed.append(slurm.scontrol("write", "batch_script", job, "-"))
    assert [text for text in printed if CANARY in text] == []

    found = [path.relative_to(project) for path in files_with_the_canary(project)]
    private = [path for path in found if path.match("runs/canary/jobs/0001/secret-?.sh")]
    assert len(private) == 3  # two variables and a line
    copies = [path for path in found if path.match("runs*/canary/code/*/utils.py")]
    assert len(copies) == 3  # of the imported code, one in each store
    private += copies
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert {str(path) for path in found} - set(PLANTED) == {str(path) for path in private}

    shipment = stage(tmp_path / "staged", [str(project / "ours.py")], str(project))
    shipped = [path.relative_to(shipment.working_dir) for path in files_with_the_canary(tmp_path / "staged")]
    assert [str(path) for path in shipped] == ["utils.py"]  # git tracks it: it is code
    named = {line.partition(" ")[0] for line in shipment.left_out}
    assert named >= {".env", ".netrc", "id_ed25519", "places.toml"}
    assert os.environ["SITE_TOKEN"] == CANARY
