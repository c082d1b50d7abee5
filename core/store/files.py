"""Files of a store: each appears whole or not at all, and says by a digest whether it is still what was written.

Two ways to write: `write_*` replaces a file atomically; `create_exclusive` makes a file that one of several
processes wins. A Parquet file and a JSON file hold a digest of themselves, so that a changed byte is found.
"""

import errno
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mixsweep.core.failures import DamagedError
from mixsweep.core.records import selected, with_all_columns

# A file system without hard links answers with one of these.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK)

# A file beside the one to be written is a leftover of a killed process once it is this old.
LEFTOVER_SECONDS = 600.0

# No client remembers for longer that a file was absent.
_NAMES_SECONDS = 60.0

_DIGEST_KEY = b"mixsweep:digest"  # in the metadata of a Parquet file
_SIGNED = re.compile(rb'\{"digest": "([0-9a-f]{16})",(.*)\n', re.DOTALL)
_BLANK = b"0" * 64


def digest_of(content: bytes | memoryview) -> str:
    """The first 16 hex digits of the SHA-256 of a file's content, as in names of files."""
    return hashlib.sha256(content).hexdigest()[:16]


def beside(path: Path) -> Path:
    """A new name in the same folder for a file that will get this path; names with a leading dot are not read."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")


def write_bytes(path: Path, content: bytes | memoryview, mode: int = 0o666) -> None:
    """Replace a file atomically: write a new one beside it, flush to the disk, rename.

    Args:
        mode: of the file, before the process's umask.
    """
    made = _write_beside(path, content, mode)
    try:
        try:
            move(made, path)
        except FileNotFoundError:  # this process slept, and another took the file for a leftover
            made = _write_beside(path, content, mode)
            move(made, path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise


def move(made: Path, path: Path) -> None:
    """Rename a file or folder. One that was done, and whose reply a file server lost or gave twice, is done."""
    number = os.stat(made).st_ino
    try:
        os.replace(made, path)
    except OSError:
        if not is_listed(path, number):
            raise
        _wait_until_known(path, number)


def is_listed(path: Path, number: int) -> bool:
    """Whether the folder has this inode under this name. A listing is newer than what a client remembers of names."""
    with suppress(OSError), os.scandir(path.parent) as entries:
        return any(entry.name == path.name and entry.inode() == number for entry in entries)
    return False


def _wait_until_known(path: Path, number: int) -> None:
    """Wait until a listed name can be read: a client may remember for a while that there was no such file."""
    end = time.monotonic() + _NAMES_SECONDS
    while not path.exists() and is_listed(path, number) and time.monotonic() < end:
        time.sleep(0.05)


def create_exclusive(path: Path, content: bytes) -> bool:
    """Create a file that does not exist yet, whole; False if there is one already.

    The content must be unlike any other process's (hold a token): then a file that this process did create is
    recognised, although the reply of the file server was lost.
    """
    made = _write_beside(path, content)
    try:
        try:
            made_it = link(made, path)
        except FileNotFoundError:  # as in write_bytes
            made = _write_beside(path, content)
            made_it = link(made, path)
    finally:
        made.unlink(missing_ok=True)
    return _create_without_links(path, content) if made_it is None else made_it


def link(made: Path, path: Path) -> bool | None:
    """Give a file a second name, that nobody else has taken: False if one has, None if there are no links here.

    One that was done, and whose reply a file server lost or gave twice, is done.

    Raises:
        OSError: FileNotFoundError if the file is gone, or another.
    """
    number = os.stat(made).st_ino
    try:
        os.link(made, path)
    except OSError as error:
        if is_listed(path, number):
            _wait_until_known(path, number)
            return True
        if isinstance(error, FileExistsError):
            return False
        if error.errno in NO_LINKS:
            return None
        raise
    return True


def _create_without_links(path: Path, content: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return True


def open_beside(path: Path, mode: int = 0o666) -> tuple[Path, int]:
    """A new file for what will get this path, and its descriptor for reading and writing."""
    made = beside(path)
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
    try:
        return made, os.open(made, flags, mode)
    except (
        FileExistsError
    ):  # made, and the file server was asked twice; or another's, of the same random name
        made = beside(path)
        return made, os.open(made, flags, mode)


def _write_beside(path: Path, content: bytes | memoryview, mode: int = 0o666) -> Path:
    made, descriptor = open_beside(path, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        made.unlink(missing_ok=True)
        raise
    return made


def remove_file(path: Path) -> None:
    """Remove a file, if it is there; a folder of its name is not ours, and stays."""
    with suppress(FileNotFoundError, IsADirectoryError):
        path.unlink()


def remove_leftovers(folder: Path, seconds: float = LEFTOVER_SECONDS) -> None:
    """Remove partial files of killed processes from a folder that this process may write in."""
    now = time.time()
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                facts = entry.stat(follow_symlinks=False)
                is_file = entry.is_file(follow_symlinks=False)
                if entry.name.startswith(".") and is_file and now - facts.st_mtime >= seconds:
                    os.unlink(entry.path)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically; it holds a digest of its values."""
    write_bytes(path, json_bytes(values))


def json_bytes(values: Mapping[str, Any], indent: int | None = 1) -> bytes:
    """A JSON file's content; its first field is a digest of all that follows.

    Strings may hold bytes that are not UTF-8, as surrogates: they are written as escapes.
    """
    assert values, "a digest of nothing says nothing"
    body = json.dumps(values, indent=indent, ensure_ascii=False).encode("utf-8", "backslashreplace")[1:]
    return b'{"digest": "%s",%s\n' % (digest_of(body).encode(), body)


def read_json(path: Path) -> dict[str, Any]:
    """The values of a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is not what was written.
    """
    try:
        content = path.read_bytes()
    except IsADirectoryError as error:
        raise DamagedError(f"{path}: damaged, not a file") from error
    found = _SIGNED.fullmatch(content)
    if found is None or digest_of(found[2]).encode() != found[1]:
        raise DamagedError(f"{path}: damaged, its digest does not match")
    values: dict[str, Any] = json.loads(b"{" + found[2])
    return values


def write_table(table: pa.Table, path: Path) -> None:
    """Replace a Parquet file atomically."""
    write_bytes(path, table_bytes(table))


def table_bytes(table: pa.Table, repetitive: Sequence[str] | None = None) -> memoryview:
    """A table as a Parquet file that holds a digest of itself: of the file in which the digest is all zeros.

    Args:
        repetitive: the columns with few different values, which take less space as references to them; None: all.
    """
    metadata = {**(table.schema.metadata or {}), _DIGEST_KEY: _BLANK}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        compression="zstd",
        store_schema=True,
        use_dictionary=True if repetitive is None else list(repetitive),
    )
    content = bytearray(sink.getvalue())
    start = _digest_position(content)
    assert start >= 0, "the metadata of a Parquet file is stored as it is"
    content[start : start + len(_BLANK)] = hashlib.sha256(content).hexdigest().encode()
    return memoryview(content)


def table_from_bytes(
    content: bytes | memoryview, where: Path, columns: Sequence[str] | None = None
) -> pa.Table:
    """The table in a Parquet file's content; one of an older store may have no digest.

    Raises:
        DamagedError: it is not what was written.
    """
    copy = bytearray(content)
    start = _digest_position(copy)
    if start >= 0:
        expected = bytes(copy[start : start + len(_BLANK)])
        copy[start : start + len(_BLANK)] = _BLANK
        if hashlib.sha256(copy).hexdigest().encode() != expected:
            raise DamagedError(f"{where}: damaged, its digest does not match")
    try:
        # Small tables gain nothing from Arrow's threads, which can crash a process that exits right afterwards.
        file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(copy)))
        names = None if columns is None else [n for n in columns if n in file.schema_arrow.names]
        table = file.read(columns=names, use_threads=False)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DamagedError(f"{where}: damaged, not a whole Parquet file") from error
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != _DIGEST_KEY}
    return table.replace_schema_metadata(metadata or None)


def _digest_position(content: bytearray) -> int:
    """Where the digest begins in a Parquet file's content, -1 if it has none.

    Metadata stands in the footer at the end: the key, then the length of the value in one byte, then the value.
    """
    key = content.rfind(_DIGEST_KEY)
    start = content.find(b"\x40", key + len(_DIGEST_KEY)) + 1 if key >= 0 else 0
    return start if 0 < start - key - len(_DIGEST_KEY) <= 4 else -1


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file of the store in one go, so that no reader holds a file open that a writer replaces.

    Args:
        columns: only these, as far as the file has them; left out: all.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is not what was written.
    """
    try:
        content = path.read_bytes()
    except IsADirectoryError as error:
        raise DamagedError(f"{path}: damaged, not a file") from error
    return table_from_bytes(content, path, columns)


def read_records(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file of records with the columns of this schema; an empty table if there is no file yet.

    Args:
        columns: as for read_table.

    Raises:
        DamagedError: it is not what was written.
    """
    try:
        table = read_table(path, columns)
    except FileNotFoundError:
        return selected(schema, columns).empty_table()
    return table if columns is not None else with_all_columns(table, schema)
