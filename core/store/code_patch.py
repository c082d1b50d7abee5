"""Uncommitted changes of code, ours or a project's, kept once per content, readable by their owner alone."""

from pathlib import Path

from mixsweep.core.store import files

_FOLDER = "code"


def keep_patch(sweep: Path, content: bytes) -> str:
    """Keep uncommitted changes, unless they are kept; return their digest, '' if there are none."""
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
