"""The code's uncommitted changes, kept in the store once per content, readable by their owner alone."""

from pathlib import Path

from mixsweep.core.provenance import patch
from mixsweep.core.store import files

_FOLDER = "code"


def keep_patch(sweep: Path) -> str:
    """Keep the uncommitted changes of this process's code; return their digest, '' if there are none."""
    content = patch()
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
