"""Engines that were built on this machine, kept for the next run; owns who may put something there.

An engine is executable, so only what this user alone can write is ever loaded: folder 0700, files 0600, published
whole by renaming.
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
from wsi_seg.infer.tensorrt_engine import Profile
from wsi_seg.user_cache import cache_folder

_LOG = logging.getLogger(__name__)
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


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
    for checked in (path.parent, path):
        try:
            found = checked.lstat()
        except FileNotFoundError:
            return None
        except OSError as error:
            _LOG.warning("cannot read %s: %s", checked, error.strerror)
            return None
        if stat.S_ISLNK(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & _OTHERS_WRITE:
            raise ModelLoadError(
                f"{checked} is a link, belongs to another user or may be written by others",
                rule="engines are executable: they are loaded only from a folder that is yours alone",
                remedy=f"remove {checked}",
            )
    try:
        return path.read_bytes()
    except OSError as error:
        _LOG.warning("cannot read %s: %s", path, error.strerror)
        return None


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
