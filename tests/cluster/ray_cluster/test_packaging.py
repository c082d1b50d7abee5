"""cluster.ray_cluster.packaging: what is shipped to a cluster, and what is refused."""

import subprocess
import sys
from pathlib import Path, PurePath

import pytest

from mixsweep.cluster.ray_cluster.packaging import PackagingError, select, stage

LARGE = 600 * 2**20  # over Ray's 512 MiB


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project, not yet in git, with all kinds of files that are never shipped."""
    root = tmp_path / "project"
    for name in (
        "pyproject.toml", "core/a.py", "sweep/b.py", "mine.py", ".git/config", ".venv/lib/x.py",
        "runs/s/trials/t/log.txt", "core/__pycache__/a.pyc", "x.egg-info/PKG", "data/big.bin",
        "results/many/sweep.toml", "results/many/trials/t/checkpoint.pt", "notes/today.md",
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    return root


LEAN = ["core/a.py", "mine.py", "notes/today.md", "pyproject.toml", "sweep/b.py"]


def test_git_environments_runs_caches_data_and_stores_are_not_shipped(checkout: Path) -> None:
    assert [str(path) for path in select(checkout).files] == LEAN


def test_in_a_checkout_ignored_files_are_left_out_and_untracked_ones_are_shipped(checkout: Path) -> None:
    (checkout / ".git" / "config").unlink()
    subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    (checkout / ".gitignore").write_text("secret.txt\n")
    (checkout / "secret.txt").write_text("x")
    assert [str(path) for path in select(checkout).files] == LEAN


def test_excluded_patterns_and_folders_are_not_shipped(checkout: Path) -> None:
    found = select(checkout, ["notes/", "*.toml"]).files
    assert list(found) == [PurePath("core/a.py"), PurePath("mine.py"), PurePath("sweep/b.py")]


def test_a_project_is_shipped_with_its_imports_wherever_they_are(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text("there")
    imports = [str(checkout / "mine.py"), str(tmp_path / "elsewhere.py")]
    shipment = stage(tmp_path / "staged", imports, str(checkout))
    assert shipment.imports == ("mine.py", "imports/1/elsewhere.py")
    assert (shipment.working_dir / "imports/1/elsewhere.py").read_text() == "there"
    found = {str(p.relative_to(shipment.working_dir)) for p in shipment.working_dir.rglob("*") if p.is_file()}
    assert found == {*LEAN, "imports/1/elsewhere.py"}


def test_a_sweep_without_imports_ships_mixsweep_alone_as_it_is_installed(tmp_path: Path) -> None:
    shipment = stage(tmp_path / "staged")
    assert list(shipment.working_dir.iterdir()) == []
    assert not list(shipment.package.rglob("__pycache__"))
    code = "import mixsweep, mixsweep.sweep.run; print(mixsweep.__file__, mixsweep.sweep.run.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(shipment.package.parent), "PATH": ""},
        capture_output=True, text=True, check=True, cwd=shipment.working_dir,
    )  # fmt: skip
    assert all(Path(path).is_relative_to(shipment.package) for path in done.stdout.split())


def test_a_project_over_rays_limit_is_refused_with_its_largest_files_and_copied_nowhere(
    checkout: Path, tmp_path: Path
) -> None:
    with open(checkout / "notes" / "weights.bin", "wb") as file:
        file.truncate(LARGE)
    imports = [str(checkout / "mine.py")]
    with pytest.raises(
        PackagingError, match=r"600\.0 MiB would be shipped.*notes/weights\.bin \(600\.0 MiB\)"
    ):
        stage(tmp_path / "staged", imports, str(checkout))
    stage(tmp_path / "staged-without", imports, str(checkout), ["notes/*.bin"])


SECRET_FILES = (
    ".env",
    ".env.local",
    ".netrc",
    "id_ed25519",
    "deploy.pem",
    "conf/credentials.json",
    "conf/api.py",
)
SECRET = 'api_key = "2f6c1b7e9d0a4c3f"'


def fill_with_secrets(root: Path) -> None:
    for name in SECRET_FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(SECRET)


@pytest.mark.parametrize("is_checkout", [False, True])
def test_untracked_files_that_look_like_secrets_are_left_out_and_named(
    checkout: Path, tmp_path: Path, is_checkout: bool
) -> None:
    (checkout / ".git" / "config").unlink()
    if is_checkout:
        subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    fill_with_secrets(checkout)
    shipment = stage(tmp_path / "staged", [str(checkout / "mine.py")], str(checkout))
    shipped = [path.read_text() for path in shipment.working_dir.rglob("*") if path.is_file()]
    assert shipped == ["x"] * len(LEAN)
    assert set(shipment.left_out) == {f"{name} (looks like a secret)" for name in SECRET_FILES}
    assert shipment.notice == (
        "Not shipped: .env (looks like a secret), .env.local (looks like a secret), .netrc (looks like a secret), "
        "conf/api.py (looks like a secret), conf/credentials.json (looks like a secret) and 2 more; "
        "a file that git tracks is."
    )


def test_a_tracked_file_is_shipped_and_so_is_an_import_whatever_they_hold(
    checkout: Path, tmp_path: Path
) -> None:
    (checkout / ".git" / "config").unlink()
    subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    fill_with_secrets(checkout)
    subprocess.run(["git", "-C", str(checkout), "add", "-f", ".env"], check=True)
    shipment = stage(tmp_path / "staged", [str(checkout / "conf/api.py")], str(checkout))
    assert (shipment.working_dir / ".env").is_file()
    assert (shipment.working_dir / "conf/api.py").is_file()
    assert not any(".env " in line or "conf/api.py" in line for line in shipment.left_out)


@pytest.mark.parametrize("is_checkout", [False, True])
def test_a_link_out_of_the_project_is_not_followed(checkout: Path, tmp_path: Path, is_checkout: bool) -> None:
    (checkout / ".git" / "config").unlink()
    if is_checkout:
        subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    (tmp_path / "private.txt").write_text(SECRET)
    (checkout / "out.txt").symlink_to(tmp_path / "private.txt")
    (checkout / "in.py").symlink_to("mine.py")
    if is_checkout:
        subprocess.run(["git", "-C", str(checkout), "add", "out.txt", "in.py"], check=True)
    shipment = stage(tmp_path / "staged", [str(checkout / "mine.py")], str(checkout))
    assert (shipment.working_dir / "in.py").read_text() == "x"
    assert not (shipment.working_dir / "out.txt").exists()
    assert shipment.left_out == ("out.txt (links out of the project)",)
