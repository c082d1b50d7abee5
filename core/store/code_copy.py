"""Copies of a user's code in a sweep's folder, one for each meaning: `code/<digest>/`, and this code's own changes.

The digest of Python is that of what it means, so the copy is that of the first content that was seen with it.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

from mixsweep.core.code.installed import installed_files, installed_versions
from mixsweep.core.code.meaning import meaning_of
from mixsweep.core.errors import ConfigError, UserError
from mixsweep.core.secret_text import text_looks_secret
from mixsweep.core.store import files

_FOLDER = "code"
_VERSIONS = "installed.txt"  # in a copy: the distributions of an installed module, and their versions
_NEVER = ("__pycache__", ".git", ".venv", "node_modules")
_MOST_BYTES = 100 * 2**20
_DIGITS = 20  # of a digest; those of versions that digested bytes have fewer


@dataclass(frozen=True)
class CodeFile:
    """A file of code: its content, and its permissions."""

    content: bytes
    mode: int


@dataclass(frozen=True)
class Code:
    """Files of code by their paths in a copy, as they were when they were read."""

    files: Mapping[str, CodeFile]

    @cached_property
    def digest(self) -> str:
        """The first 20 hex digits of a digest of paths, contents, and what its owner may execute.

        Of Python its meaning counts, without comments and layout.
        """
        digest = hashlib.sha256()
        for name, file in sorted(self.files.items()):
            meaning = meaning_of(file.content) if name.endswith(".py") else None
            content = file.content if meaning is None else meaning
            kind = "bytes" if meaning is None else "python"
            digest.update(f"{name}\0{kind}\0{len(content)}\0{file.mode & 0o100:o}\0".encode())
            digest.update(content)
        return digest.hexdigest()[:_DIGITS]


def read_code(paths: Mapping[str, Path]) -> Code:
    """The code in these files, by their paths in a copy."""
    files = {name: CodeFile(path.read_bytes(), path.stat().st_mode & 0o777) for name, path in paths.items()}
    return Code(files)


def installed_code(module: ModuleType) -> Code:
    """The code of an installed module, with the version of its distribution."""
    code, versions = read_code(installed_files(module)), installed_versions(module)
    own = {_VERSIONS: CodeFile(versions.encode(), 0o644)} if versions else {}
    return Code({**code.files, **own})


def versions_of(code: Code) -> str:
    """The distributions of an installed module in this code, like `walks 1.0`; '' without one."""
    file = code.files.get(_VERSIONS)
    return "" if file is None else ", ".join(file.content.decode("utf-8", "replace").splitlines())


def kept_versions(sweep: Path, digest: str) -> str:
    """The distributions of an installed module in a kept copy, '' where it has none or is gone."""
    path = code_path(sweep, digest) / _VERSIONS
    return versions_of(read_code({_VERSIONS: path})) if path.is_file() else ""


def collect_code(root: Path, patterns: Iterable[str]) -> Code:
    """The code below a folder that patterns like `lib/**.py` name.

    Raises:
        ConfigError: a pattern names no file, or they are too large for code.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        # `lib/**.py` means every Python file below lib, which pathlib writes as `lib/**/*.py`.
        paths = root.glob(pattern.replace("**.", "**/*."))
        files = [path for path in sorted(paths) if path.is_file() and not set(path.parts) & set(_NEVER)]
        if not files:
            raise ConfigError(f"code: {pattern!r} names no file below {root}")
        found |= {str(path.relative_to(root)): path for path in files}
    size = sum(path.stat().st_size for path in found.values())
    if size > _MOST_BYTES:
        raise ConfigError(
            f"code: {size / 2**20:.0f} MiB are too large; name data under `inputs`, which is linked"
        )
    return read_code(found)


def code_path(sweep: Path, digest: str) -> Path:
    """Where a copy of this content is."""
    return sweep / _FOLDER / digest


def kept_code(sweep: Path, digest: str) -> Path:
    """The folder of a kept copy, checked.

    Raises:
        UserError: it is gone, or is not what was kept.
    """
    read_kept(sweep, digest)
    return code_path(sweep, digest)


def read_kept(sweep: Path, digest: str) -> Code:
    """The code in a kept copy, checked.

    Raises:
        UserError: it is gone, or is not what was kept.
    """
    path = code_path(sweep, digest)
    try:
        code = read_code(_files_in(path))
    except OSError as error:
        raise UserError(f"{path}: the submitted code cannot be read: {error.strerror or error}") from error
    if not code.files:
        raise UserError(f"{path}: the submitted code is gone; run the same command again")
    if code.digest != digest:
        raise UserError(
            f"{path}: not the code that was kept; delete this folder and run the same command again"
        )
    return code


def same_code(sweep: Path, digest: str) -> str:
    """A digest that two attempts share if the same code trained them, also where an older version made this one."""
    if len(digest) in (0, _DIGITS):
        return digest
    try:
        files = _files_in(code_path(sweep, digest))
        return read_code(files).digest if files else digest
    except OSError:
        return digest


def _files_in(folder: Path) -> dict[str, Path]:
    """The files of a copy, by their paths in it."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def keep_code(sweep: Path, code: Code) -> Path:
    """Keep a copy of this code, unless there is one; return its folder.

    A file that looks like a secret is for its owner only.
    """
    target = code_path(sweep, code.digest)
    if target.is_dir():
        return target
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        for name, file in code.files.items():
            copy = beside / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            mode = file.mode & 0o700 if text_looks_secret(file.content) else file.mode
            copy.touch(0o600)
            copy.write_bytes(file.content)
            copy.chmod(mode)
        try:
            os.rename(beside, target)
        except OSError:
            if not target.is_dir():  # else another command has kept it meanwhile
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def keep_patch(sweep: Path, content: bytes) -> str:
    """Keep uncommitted changes, unless they are kept, for their owner alone; return their digest, '' if none."""
    if not content:
        return ""
    digest = files.digest_of(content)
    path = patch_path(sweep, digest)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, content, mode=0o600)
    return digest


def patch_path(sweep: Path, digest: str) -> Path:
    """The file of a patch in a sweep's folder."""
    return sweep / _FOLDER / f"{digest}.patch"
