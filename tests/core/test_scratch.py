"""core.scratch: temporary folders go with their owners, and nobody else's folder ever does."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from mixsweep.core.scratch import owned_folder, scratch_folder
from tests.support.commands import ROOT, wait_until

_OWNER = """
import os, signal, sys
from pathlib import Path
from mixsweep.core.scratch import owned_folder
with owned_folder(sys.argv[1], "ms-") as folder:
    (folder / "work").write_text("half done")
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
"""


def make_old(folder: Path) -> None:
    hour_ago = time.time() - 3600
    for path in (folder, *folder.iterdir()):
        os.utime(path, (hour_ago, hour_ago))


def test_a_folder_goes_with_its_block_whatever_ends_it(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), owned_folder(tmp_path, "ms-") as folder:
        folder.mkdir()
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_folder_is_empty_and_goes_from_whichever_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    block = scratch_folder()
    folder = block.__enter__()
    assert list(folder.iterdir()) == []
    mark = next(path for path in folder.parent.iterdir() if path != folder)
    with pytest.raises(Timeout):
        FileLock(mark, timeout=0).acquire()
    held = os.listdir("/proc/self/fd")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(block.__exit__, None, None, None).result()
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) < len(held)  # the lock is no longer held


def test_a_killed_owners_folder_goes_with_the_next_and_others_stay(tmp_path: Path) -> None:
    theirs = tmp_path / "ms-thesis"
    theirs.mkdir()
    (theirs / "chapter.tex").write_text("important")
    make_old(theirs)
    command = [sys.executable, "-c", _OWNER, str(tmp_path)]
    assert subprocess.run([*command, "SIGKILL"], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    (left,) = set(tmp_path.iterdir()) - {theirs}
    with owned_folder(tmp_path, "ms-"):
        assert left.exists()  # perhaps its owner is about to lock it
    make_old(left)
    with owned_folder(tmp_path, "other-"):
        assert left.exists()
    with owned_folder(tmp_path, "ms-"):
        assert not left.exists()
    assert list(tmp_path.iterdir()) == [theirs]
    assert (theirs / "chapter.tex").exists()


def test_a_living_owners_folder_stays(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", _OWNER, str(tmp_path), "SIGSTOP"], cwd=ROOT)
    try:
        wait_until(lambda: any(tmp_path.glob("ms-*/work")))
        (held,) = tmp_path.iterdir()
        make_old(held)
        with owned_folder(tmp_path, "ms-"):
            assert (held / "work").exists()
    finally:
        owner.kill()
        owner.wait()
