"""core.provenance: a kept patch makes the code again, whatever git is set to, and holds no secret."""

import os
import subprocess
from pathlib import Path

import pytest

from mixsweep.core.provenance import patch_of, project_revision
from mixsweep.core.secret_text import looks_secret

LATIN = "größer\n".encode("latin-1")


def git(folder: Path, *words: str) -> bytes:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b"]
    return subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a commit and changes of every kind on top."""
    root = tmp_path / "checkout"
    root.mkdir()
    git(root, "init", "--quiet")
    for name, content in (
        ("model.py", b"width = 3\n" * 30),
        ("old.py", b"gone\n"),
        ("notes.txt", LATIN),
        ("weights.bin", bytes(range(256))),
        ("n\u00e4me with blank.py", b"x = 1\n"),
        ("run.sh", b"echo\n"),
    ):
        (root / name).write_bytes(content)
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "first")
    (root / "model.py").write_bytes(b"width = 4\n" + b"width = 3\n" * 29 + b"\f\x1b[31mred\n ")
    (root / "old.py").unlink()
    (root / "notes.txt").write_bytes(LATIN * 2)
    (root / "weights.bin").write_bytes(bytes(reversed(range(256))))
    (root / "n\u00e4me with blank.py").write_bytes(b"x = 2\n")
    os.chmod(root / "run.sh", 0o755)
    (root / "added.py").write_bytes(b"new = True\n")
    git(root, "add", "added.py")
    return root


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.name: (path.read_bytes(), path.stat().st_mode & 0o111)
        for path in root.iterdir()
        if path.is_file()
    }


def applied(checkout: Path, patch: bytes, to: Path) -> Path:
    git(checkout.parent, "clone", "--quiet", str(checkout), str(to))
    (to.parent / "kept.patch").write_bytes(patch)
    git(to, "apply", str(to.parent / "kept.patch"))
    return to


@pytest.mark.parametrize(
    "setting",
    [
        ("diff.external", "false"),
        ("diff.noprefix", "true"),
        ("diff.mnemonicPrefix", "true"),
        ("color.ui", "always"),
        ("color.diff", "always"),
        ("core.quotePath", "false"),
        ("diff.renames", "copies"),
        ("diff.context", "0"),
        ("diff.algorithm", "histogram"),
        ("diff.orderFile", "/nonexistent"),
        ("core.pager", "false"),
        ("diff.wsErrorHighlight", "all"),
    ],
    ids=lambda setting: setting[0],
)
def test_a_patch_makes_the_code_again_whatever_git_is_set_to(
    checkout: Path, tmp_path: Path, setting: tuple[str, str]
) -> None:
    git(checkout, "config", *setting)
    if setting[0] == "diff.orderFile":
        git(checkout, "config", setting[0], str(checkout / "run.sh"))
    assert contents(applied(checkout, patch_of(checkout), tmp_path / "again")) == contents(checkout)


def test_the_environment_of_another_git_changes_nothing(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = patch_of(checkout)
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "false")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert patch_of(checkout) == expected
    assert expected


def test_git_is_asked_without_locks(checkout: Path) -> None:
    (checkout / ".git" / "index.lock").touch()  # a person commits at this moment
    index = (checkout / ".git" / "index").stat().st_mtime_ns
    assert patch_of(checkout)
    assert (checkout / ".git" / "index").stat().st_mtime_ns == index


def test_a_file_with_a_secret_is_left_out_and_named_and_the_rest_applies(
    checkout: Path, tmp_path: Path
) -> None:
    secret = "hf_" + "a1B2" * 9
    (checkout / "model.py").write_text(f'login("{secret}")\n')
    patch = patch_of(checkout)
    assert secret.encode() not in patch
    assert patch.startswith(b"# left out: model.py: its changes look like a secret\n")
    again = contents(applied(checkout, patch, tmp_path / "again"))
    assert again.pop("model.py")[0] == b"width = 3\n" * 30
    assert again.items() <= contents(checkout).items()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{secret}\nwidth = 3\n", "width = 3\n"),
        ("{secret}\nwidth = 3\n", "{secret}\nwidth = 4\n"),
        ("{secret}\n" + "    x\n" * 9 + "width = 3\n", "{secret}\n" + "    x\n" * 9 + "width = 4\n"),
    ],
    ids=["removed", "unchanged", "in the head of a hunk"],
)
def test_a_secret_in_what_a_patch_quotes_leaves_its_file_out(before: str, after: str, checkout: Path) -> None:
    secret = 'api_key = "abcdef0123456789"'
    (checkout / "keys.py").write_text(before.format(secret=secret))
    git(checkout, "add", "keys.py")
    git(checkout, "commit", "--quiet", "-m", "second")
    (checkout / "keys.py").write_text(after.format(secret=secret))
    assert secret.encode() in git(checkout, "diff", "HEAD")
    patch = patch_of(checkout)
    assert secret.encode() not in patch
    assert b"# left out: keys.py: its changes look like a secret\n" in patch


def test_a_very_large_change_is_left_out_and_named(checkout: Path, tmp_path: Path) -> None:
    (checkout / "weights.bin").write_bytes(os.urandom(3_000_000))
    patch = patch_of(checkout)
    assert b"# left out: weights.bin: its changes are " in patch
    assert contents(applied(checkout, patch, tmp_path / "again"))["notes.txt"][0] == LATIN * 2


def test_a_projects_revision_says_whether_its_own_folder_is_changed(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = git(checkout, "rev-parse", "HEAD").decode().strip()
    assert project_revision(checkout) == (head, True)
    git(checkout, "reset", "--quiet", "--hard")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # of another git, such as a hook's
    assert project_revision(checkout) == (head, False)
    monkeypatch.undo()
    inner = checkout / "inner"
    inner.mkdir()
    (inner / "train.py").write_text("x = 1\n")
    assert project_revision(checkout) == (head, False)  # untracked files are no change
    assert project_revision(inner) == ("", False)  # the checkout knows nothing of it
    git(checkout, "add", "inner")
    git(checkout, "commit", "--quiet", "-m", "second")
    second = git(checkout, "rev-parse", "HEAD").decode().strip()
    (checkout / "model.py").write_text("width = 5\n")
    assert project_revision(inner) == (second, False)
    (inner / "train.py").write_text("x = 2\n")
    assert project_revision(inner) == (second, True)
    assert project_revision(tmp_path) == project_revision(tmp_path / "none") == ("", False)


def test_the_patch_of_a_folder_in_a_checkout_has_its_own_changes_and_applies_to_the_checkout(
    checkout: Path, tmp_path: Path
) -> None:
    inner = checkout / "inner"
    inner.mkdir()
    (inner / "train.py").write_text("x = 1\n")
    git(checkout, "add", "inner")
    git(checkout, "commit", "--quiet", "-m", "second")
    (inner / "train.py").write_text("x = 2\n")
    (checkout / "model.py").write_text("width = 5\n")
    git(checkout, "config", "diff.relative", "true")
    patch = patch_of(inner)
    assert b"model.py" not in patch
    again = applied(checkout, patch, tmp_path / "again")
    assert (again / "inner" / "train.py").read_text() == "x = 2\n"


def test_a_projects_revision_is_asked_without_locks(checkout: Path) -> None:
    index = (checkout / ".git" / "index").stat().st_mtime_ns
    os.utime(checkout / "run.sh")  # git would refresh its index
    (checkout / ".git" / "index.lock").touch()  # a person commits at this moment
    assert project_revision(checkout)[1]
    assert (checkout / ".git" / "index").stat().st_mtime_ns == index


@pytest.mark.parametrize(
    "line",
    [
        'api_key = "0123456789abcdef"',
        "export WANDB_API_KEY=0123456789abcdef0123",
        "'password': 'correct-horse'",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "git clone https://me:hunter22@example.org/x",
        "AKIAABCDEFGHIJKLMNOP",
    ],
)
def test_what_looks_like_a_secret(line: str) -> None:
    assert looks_secret(line)


@pytest.mark.parametrize(
    "line",
    [
        "token = uuid.uuid4().hex",
        "tokens = count_the_tokens_of_a_line(line)",
        'key = "lr"',
        "for key, value in table.items():",
        "AUTHORS=me",
        "see https://example.org/keys",
        'token_path = "/home/me/.ray/auth_token"',
        "SECRET_FILE=/run/secrets/of-mine",
    ],
)
def test_what_does_not(line: str) -> None:
    assert not looks_secret(line)


def test_the_path_of_a_secret_hides_no_secret_beside_it() -> None:
    assert looks_secret('key_file = "/x"; api_token = "2f6c1b7e9d0a4c3f"')
