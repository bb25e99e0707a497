"""A level's labels as PNG, written row by row: class indices as grey values, or as a palette with the classes' colours.

Owns the PNG format (ISO/IEC 15948), of which this is the part that a label map needs: Pillow would want the whole
picture in memory. Knows no region.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.convert.new_file import new_file
from wsi_seg.errors import ConversionError
from wsi_seg.output.result_spec import ResultSpec

MOST_PX = 1 << 31
"""Of a picture: beyond, hardly a program opens it."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3
_UP = 2
"""Filter: the difference from the row above, which is mostly nothing."""
_PIECE = 1 << 20


def write_png(
    rows: Iterable[NDArray[Any]], spec: ResultSpec, level: int, out: Path, *, coloured: bool, overwrite: bool = False
) -> None:
    """Write a level's labels; not analysed stays 255 (65535), transparent in a palette.

    Args:
        rows: labels of the level from the top, (h, w) each; further rows are left away.
        spec: of the result.
        level: of the pyramid.
        out: the file.
        coloured: a palette of the classes' colours instead of grey.
        overwrite: replace an existing file.

    Raises:
        ConversionError: too large, or more classes than a palette has.
        OutputExistsError, WriteError, and what the rows raise.
    """
    height, width = spec.layout.level_size(level)
    if height * width > MOST_PX:
        raise ConversionError(
            f"level {level} has {height:,} x {width:,} px",
            rule=f"a PNG has at most {MOST_PX:,}",
            remedy="a higher --level",
        )
    if coloured and spec.dtype != np.uint8:
        raise ConversionError(
            f"{len(spec.classes)} classes", rule="a palette has 256 colours", remedy="leave --coloured away"
        )
    depth = 8 * spec.dtype.itemsize
    with new_file(out, overwrite=overwrite) as file:
        file.write(_SIGNATURE)
        head = struct.pack(">IIBBBBB", width, height, depth, _PALETTE if coloured else _GREY, 0, 0, 0)
        _write_chunk(file, b"IHDR", head)
        _write_chunk(file, b"pHYs", struct.pack(">IIB", *_px_per_m(spec, level), 1))
        if coloured:
            palette = np.zeros((256, 3), np.uint8)
            palette[: len(spec.classes)] = [entry.rgb for entry in spec.classes]
            _write_chunk(file, b"PLTE", palette.tobytes())
            _write_chunk(file, b"tRNS", bytes([255] * 255 + [0]))
        for piece in _compressed(rows, (height, width)):
            _write_chunk(file, b"IDAT", piece)
        _write_chunk(file, b"IEND", b"")


def _px_per_m(spec: ResultSpec, level: int) -> tuple[int, int]:
    mpp = spec.level_mpp(level)
    return round(1e6 / mpp.x), round(1e6 / mpp.y)


def _compressed(rows: Iterable[NDArray[Any]], size: tuple[int, int]) -> Iterator[bytes]:
    packer, held, done = zlib.compressobj(6), b"", 0
    above = np.zeros((1, size[1]), np.uint8)
    for more in rows:
        part = more[: size[0] - done]
        if not len(part):
            break
        done += len(part)
        plain = part.astype(part.dtype.newbyteorder(">")).view(np.uint8).reshape(len(part), -1)
        if above.shape[1] != plain.shape[1]:
            above = np.zeros((1, plain.shape[1]), np.uint8)
        filtered = np.full((len(plain), plain.shape[1] + 1), _UP, np.uint8)
        filtered[:, 1:] = plain - np.concatenate([above, plain[:-1]])
        above = plain[-1:].copy()
        held += packer.compress(filtered.tobytes())
        if len(held) >= _PIECE:
            yield held
            held = b""
    yield held + packer.flush()


def _write_chunk(file: IO[bytes], kind: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))
