"""Files that survive a crash and a power cut.

Owns one discipline: a file appears under its name only when all its bytes are on the disk (temp file in the same
folder, fsync, rename, fsync of the folder). Maps the system's errors to WriteError. Knows no format. POSIX file
systems only: a network file system must honour fsync and rename.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from wsi_seg.errors import WriteError, WsiSegError

TEMP_SUFFIX = ".wsi-seg-tmp"
"""Ends the name of every unfinished file; a folder nobody writes to may be swept of them."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_RESUME = "run the same command again: finished parts are kept"


def json_bytes(content: Any) -> bytes:
    """Canonical JSON: sorted keys, two-space indent, no NaN; equal content gives equal bytes."""
    return json.dumps(content, sort_keys=True, indent=2, allow_nan=False).encode() + b"\n"


def record_digest(record: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a JSON record without its own digest, `sha256`."""
    return sha256(json_bytes({key: value for key, value in record.items() if key != "sha256"})).hexdigest()


def write_durably(path: Path, content: bytes, *, exclusive: bool = False) -> None:
    """Write a whole file, on the disk when this returns; makes its folders.

    A crash leaves the old file or the new one, never a part. With `exclusive` an existing file is left alone and
    FileExistsError is raised. Raises WriteError.
    """
    with mapped_errors(path, len(content)):
        make_folder(path.parent)
        with temporary_beside(path) as temp:
            with temp.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            taken = not publish(temp, path, exclusive=exclusive)
    if taken:
        raise FileExistsError(f"{path} exists")


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Yield an unused name in the folder of `path`; whatever is left under it at the end is removed."""
    temp = path.with_name(f".{path.name}.{uuid4().hex}{TEMP_SUFFIX}")
    try:
        yield temp
    finally:
        temp.unlink(missing_ok=True)


def publish(temp: Path, path: Path, *, exclusive: bool = False) -> bool:
    """Give a complete, synced file its name, for good; with `exclusive` False where the name is taken."""
    if exclusive:
        try:
            os.link(temp, path)  # rename would replace silently; link does not
        except FileExistsError:
            return False
    else:
        temp.replace(path)
    sync_folder(path.parent)
    return True


def file_record(path: Path) -> tuple[str, int] | None:
    """(SHA-256, bytes) of a file, None where there is none. Raises WriteError where it cannot be read."""
    digest, n_bytes = sha256(), 0
    with mapped_errors(path, 0):
        try:
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
                    n_bytes += len(piece)
        except (FileNotFoundError, NotADirectoryError):
            return None
    return digest.hexdigest(), n_bytes


def remove_durably(path: Path) -> None:
    """Remove a file if it is there. Raises WriteError."""
    with mapped_errors(path, 0):
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and its parents so that they survive a power cut."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)  # another thread may have been faster
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Put the names in a folder on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Put the bytes of a file that somebody else wrote and closed on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> int:
    """Remove unfinished files below a folder that nobody writes to; answers how many."""
    found = [path for path in folder.rglob(f".*{TEMP_SUFFIX}") if path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


@contextmanager
def mapped_errors(path: Path, n_bytes: int) -> Iterator[None]:
    """Turn the system's errors inside the `with` into WriteError; our own pass unchanged."""
    try:
        yield
    except WsiSegError:  # some of ours are OSErrors too
        raise
    except OSError as error:
        raise _write_error(path, n_bytes, error) from error


def _write_error(path: Path, n_bytes: int, error: OSError) -> WriteError:
    what = f"cannot write {path}: {error.strerror or error}"
    if error.errno in _FULL:
        return WriteError(
            what,
            rule=f"this file needs {n_bytes:,} bytes, {_free_bytes(path)} bytes are free",
            remedy=f"free space or raise the quota, then {_RESUME}",
        )
    return WriteError(what, rule="every write must reach the disk", remedy=f"check the disk, then {_RESUME}")


def _free_bytes(path: Path, usage: Callable[[Path], Any] = shutil.disk_usage) -> str:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        return f"{usage(folder).free:,}"
    except OSError:
        return "an unknown number of"
