"""Encodes one shard as zarr v3 `sharding_indexed` stores it: zstd + crc32c chunks, then an index with its crc32c.

Owns the bytes of a shard. Knows no file. Written because zarr's own pipeline costs three times the CPU (measured: 0.33
against 0.10 CPU s for 33 Mpx of labels) and orders chunks by its own taste; here equal pixels give equal bytes. A test
reads every shape back through zarr. Format: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import product
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import compress
from numpy.typing import NDArray

ZSTD_LEVEL = 1
"""Measured on blobs and noise: level 3 costs 10 to 30 % more CPU for 4 % smaller files."""

_ABSENT = np.uint64(2**64 - 1)


def encode_shard(pixels: NDArray[Any], side: int, chunk: int, fill: int) -> bytes | None:
    """Bytes of the shard that begins with `pixels`.

    Args:
        pixels: (h, w) or (C, h, w), uint8 or uint16; at most `side` px high and wide, the rest of the shard is `fill`.
        side: side of the shard, px.
        chunk: side of a chunk, px; divides `side`. A chunk holds one channel.
        fill: value of pixels that are not stored; a chunk that holds nothing else is left out.

    Returns:
        The shard, or None where every pixel is `fill`.
    """
    height, width = pixels.shape[-2:]
    if side % chunk or height > side or width > side:
        raise ValueError(f"{height} x {width} px in a shard of {side} px, chunks of {chunk} px")
    planes = pixels.reshape(-1, height, width)
    per_side = side // chunk
    index = np.full((len(planes), per_side, per_side, 2), _ABSENT, dtype="<u8")
    parts: list[bytes] = []
    offset = 0
    for position, piece in _filled_chunks(planes, chunk, fill):
        content = encode_chunk(_padded(piece, chunk, fill))
        index[position] = offset, len(content)
        parts.append(content)
        offset += len(content)
    return b"".join([*parts, _with_checksum(index.tobytes())]) if parts else None


def encode_chunk(pixels: NDArray[Any]) -> bytes:
    """Bytes of one chunk: little-endian, zstd, crc32c."""
    little = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<"))
    return _with_checksum(compress(little, ZSTD_LEVEL))


def _filled_chunks(planes: NDArray[Any], chunk: int, fill: int) -> Iterator[tuple[tuple[int, int, int], NDArray[Any]]]:
    """(plane, row, column) and pixels of every chunk that holds anything but `fill`."""
    n, height, width = planes.shape
    for plane, y, x in product(range(n), range(0, height, chunk), range(0, width, chunk)):
        piece = planes[plane, y : y + chunk, x : x + chunk]
        if piece[0, 0] != fill or (piece != fill).any():
            yield (plane, y // chunk, x // chunk), piece


def _padded(piece: NDArray[Any], chunk: int, fill: int) -> NDArray[Any]:
    """The chunk in full size."""
    if piece.shape == (chunk, chunk):
        return piece
    whole = np.full((chunk, chunk), fill, dtype=piece.dtype)
    whole[: piece.shape[0], : piece.shape[1]] = piece
    return whole


def _with_checksum(content: bytes) -> bytes:
    return content + struct.pack("<I", google_crc32c.value(content))
