"""Copies of a user's code in a sweep's folder, one for each content: `code/<digest>/`."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mixsweep.core.errors import ConfigError
from mixsweep.core.secret_text import text_looks_secret

_FOLDER = "code"
_NEVER = ("__pycache__", ".git", ".venv", "node_modules")
_MOST_BYTES = 100 * 2**20


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
        """The first 16 hex digits of a digest of paths, contents, and what may be executed."""
        digest = hashlib.sha256()
        for name, file in sorted(self.files.items()):
            digest.update(f"{name}\0{len(file.content)}\0{file.mode & 0o111:o}\0".encode())
            digest.update(file.content)
        return digest.hexdigest()[:16]


def read_code(paths: Mapping[str, Path]) -> Code:
    """The code in these files, by their paths in a copy."""
    files = {name: CodeFile(path.read_bytes(), path.stat().st_mode & 0o777) for name, path in paths.items()}
    return Code(files)


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
