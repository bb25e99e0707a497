"""Engines that were built on this machine, kept for the next run; owns who may put something there.

An engine is executable, so only what this user alone can write is ever loaded: folder 0700, files 0600, published
whole by renaming. A runtime that keeps its engines itself gets a folder 0700 of its own inside.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile

from wsi_seg.card import ModelCard
from wsi_seg.errors import ModelLoadError
from wsi_seg.infer.runtime.tensorrt_engine import Profile
from wsi_seg.user_cache import cache_folder

_LOG = logging.getLogger(__name__)
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_ENTER = stat.S_IRWXG | stat.S_IRWXO


def engine_name(program: bytes, card: ModelCard, where: tuple[str, str, str], profile: Profile) -> str:
    """File name of an engine: a hash of everything that it follows from.

    `where` is library, its version, and the GPU with its compute capability. The card holds the precision.
    """
    facts = [sha256(program).hexdigest(), card.to_json(), card.precision, where, asdict(profile)]
    return sha256(json.dumps(facts).encode()).hexdigest() + ".engine"


def timing_name(where: tuple[str, str, str]) -> str:
    """File name of the kernel timings that builds of one library on one kind of GPU share."""
    return sha256(json.dumps(where).encode()).hexdigest() + ".timing"


def read_kept(name: str) -> bytes | None:
    """What was published under a name; None where nothing was. Raises ModelLoadError where others could have put it."""
    path = _folder() / name
    try:
        for checked in (path.parent, path):
            _refuse_foreign(checked, _OTHERS_WRITE)
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        if isinstance(error, ModelLoadError):
            raise
        _LOG.warning("cannot read %s: %s", path, error.strerror)
        return None


def own_folder(name: str) -> Path | None:
    """A folder for a runtime that keeps its engines itself, made where there is none; None where it cannot be made.

    Nobody else may enter it, so what rights the runtime gives to its files does not matter. Raises ModelLoadError where
    others could have put something in it.
    """
    folder = _folder() / name
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_foreign(folder.parent, _OTHERS_WRITE)
        folder.mkdir(mode=0o700, exist_ok=True)
        _refuse_foreign(folder, _OTHERS_ENTER)
        for file in folder.iterdir():
            _refuse_foreign(file, 0)
    except OSError as error:
        if isinstance(error, ModelLoadError):
            raise
        _LOG.warning("engines are not kept in %s: %s", folder, error.strerror)
        return None
    return folder


def _refuse_foreign(path: Path, rights: int) -> None:
    """Raise ModelLoadError where others could have written a path, or have one of the `rights`; OSError as it comes."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & rights:
        raise ModelLoadError(
            f"{path} is a link, belongs to another user or may be written by others",
            rule="engines are executable: they are loaded only from a folder that is yours alone",
            remedy=f"remove {path}",
        )


def publish(name: str, content: bytes) -> None:
    """Keep a file under a name; another process that publishes the same one does no harm. Best effort."""
    folder = _folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder, delete=False) as file:  # made 0600
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(folder / name)
            except OSError:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        _LOG.warning("%s is not kept for the next run: %s", name, error)


def _folder() -> Path:
    return cache_folder() / "engines"
