"""Looks for canaries in whatever was written: bytes as they are, and what they are when unpacked.

Owns the forms in which a word or a picture may hide: compressed chunks of Zarr, text and pixels of PNG, tags and pixels
of TIFF, gzip and zip, UTF-16. Knows no program.
"""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.chaos.planted import COLOUR

_WORD = re.compile(rb"cny[0-9a-f]{10,12}")
_NEAR = 40
"""Grey levels by which a colour may have changed on its way."""
PICTURE = "picture"
"""Stands for a word where the colour of a picture was found."""


def words_in(content: bytes) -> set[str]:
    """Words in a piece of memory, of one or two bytes a letter."""
    return {found.decode() for form in (content, content.replace(b"\0", b"")) for found in _WORD.findall(form.lower())}


def found_in_tree(folder: Path) -> Iterator[tuple[str, str]]:
    """(word, path of the file below `folder`) of all that is found there; names of files count."""
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder).as_posix()
        for word in words_in(place.encode()):
            yield word, f"name of {place}"
        if path.is_file():
            for content in _forms(path):
                for word in _found(content):
                    yield word, place
    for word in _in_zarrs(folder):
        yield word, "a chunk"


def _found(content: bytes | NDArray[np.uint8]) -> set[str]:
    if isinstance(content, bytes):
        return words_in(content)
    seen = words_in(content.tobytes())
    if content.ndim == 3 and content.shape[-1] >= 3:
        apart = np.abs(content[..., :3].astype(np.int16) - COLOUR).max(axis=-1)
        seen |= {PICTURE} if (apart <= _NEAR).any() else set()
    return seen


def _forms(path: Path) -> Iterator[bytes | NDArray[np.uint8]]:
    content = path.read_bytes()
    yield content
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        with Image.open(io.BytesIO(content)) as image:
            yield np.asarray(image.convert("RGB"))
            yield repr(image.info).encode()
    if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        yield from _of_tiff(path)
    if content[:2] == b"\x1f\x8b":
        yield gzip.decompress(content)
    if content[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield from map(archive.read, archive.namelist())


def _of_tiff(path: Path) -> Iterator[bytes | NDArray[np.uint8]]:
    with tifffile.TiffFile(path) as tiff:
        pages = [page for whole in tiff.pages for page in (whole, *(whole.pages or ()))]
        for page in pages:
            for tag in page.tags:
                yield tag.value if isinstance(tag.value, bytes) else str(tag.value).encode()
            yield np.asarray(page.asarray())


def _in_zarrs(folder: Path) -> Iterator[str]:
    import zarr

    for metadata in sorted(folder.rglob("zarr.json")):
        with suppress(KeyError, ValueError, FileNotFoundError):
            node = zarr.open(metadata.parent, mode="r")
            if isinstance(node, zarr.Array):
                values = np.asarray(node[...])
                planar = values.dtype == np.uint8 and not {"labels", "probabilities"} & set(metadata.parts)
                planar &= values.ndim == 3 and values.shape[0] == 3
                yield from _found(values.transpose(1, 2, 0) if planar else values)
