"""Requests to stop: of a sweep, by `sweep stop`, and of one command alone, by a signal to it.

A command notes the token of the last request that it finds when it is given, and a task that it queues keeps that
token. A request is for them where the token is another one, so no clock matters.
"""

import hashlib
import time
import uuid
from contextlib import suppress
from pathlib import Path

from mixsweep.core import records
from mixsweep.core.store import files

_SWEEP, _COMMANDS = "stop", "stops"
_OLD_SECONDS = 86_400.0  # a command's file of this age was left by a killed one


def stop_token(sweep: Path) -> str:
    """What identifies the last request to stop a sweep, '' if there was none; any content is one."""
    try:
        return hashlib.sha256((sweep / _SWEEP).read_bytes()).hexdigest()[:16]
    except FileNotFoundError:
        return ""
    except IsADirectoryError:
        return "a folder"


def stopped_at(sweep: Path) -> str:
    """When a sweep was last asked to stop, ISO, by the clock of the host that asked; '' if that is not known."""
    with suppress(OSError):
        return (sweep / _SWEEP).read_text(encoding="utf-8", errors="replace").partition(" ")[0]
    return ""


def request_stop(sweep: Path) -> None:
    """Ask every process that trains for a sweep to stop at its next safe point."""
    files.write_bytes(sweep / _SWEEP, f"{records.now().isoformat()} {uuid.uuid4().hex}\n".encode())


def stop_command(sweep: Path, command_id: str) -> None:
    """Ask the processes that one command has started to stop at their next safe point."""
    (sweep / _COMMANDS).mkdir(parents=True, exist_ok=True)
    (sweep / _COMMANDS / command_id).touch()


def stop_requested(sweep: Path, command_id: str, seen: str) -> bool:
    """Whether a command's processes have to stop.

    Args:
        seen: the token of the last request when the command was given.
    """
    return stop_token(sweep) != seen or (bool(command_id) and (sweep / _COMMANDS / command_id).exists())


def forget_command(sweep: Path, command_id: str) -> None:
    """Remove a command's request when the command has ended, and old ones of killed commands."""
    with suppress(OSError):
        (sweep / _COMMANDS / command_id).unlink(missing_ok=True)
        for path in (sweep / _COMMANDS).iterdir():
            if time.time() - path.stat().st_mtime > _OLD_SECONDS:
                path.unlink(missing_ok=True)
        (sweep / _COMMANDS).rmdir()  # if it is empty
