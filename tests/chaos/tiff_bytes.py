"""TIFF files from bare entries, right or wrong: what no library would write."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

SHORT, LONG, ASCII, UNDEFINED = 3, 4, 2, 7
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION = 256, 257, 258, 259, 262, 270
STRIP_OFFSETS, SAMPLES, ROWS, STRIP_COUNTS, PLANAR = 273, 277, 278, 279, 284
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, SUB_IFDS = 322, 323, 324, 325, 330
Value = int | bytes | Sequence[int]


def rgb(height: int, width: int, tile: tuple[int, int], compression: int = 1) -> dict[int, Value]:
    """Entries of an 8-bit RGB page but for its tiles."""
    photometric = 6 if compression == 7 else 2
    return {
        WIDTH: width, HEIGHT: height, BITS: (8, 8, 8), COMPRESSION: compression, PHOTOMETRIC: photometric, SAMPLES: 3,
        PLANAR: 1, TILE_WIDTH: tile[1], TILE_HEIGHT: tile[0],
    }  # fmt: skip


def directory(entries: Mapping[int, Value], at: int, following: int = 0) -> bytes:
    """A classical little-endian directory that begins at byte `at`, its longer values after it."""
    head = struct.pack("<H", len(entries))
    values_at = at + 2 + 12 * len(entries) + 4
    rows, values = b"", b""
    for tag, value in sorted(entries.items()):
        if isinstance(value, bytes):
            kind, count, packed = ASCII if tag == DESCRIPTION else UNDEFINED, len(value), value
        else:
            numbers = (value,) if isinstance(value, int) else value
            kind = SHORT if tag == BITS else LONG
            count, packed = len(numbers), struct.pack(f"<{len(numbers)}{'H' if kind == SHORT else 'I'}", *numbers)
        if len(packed) > 4:
            rows += struct.pack("<HHII", tag, kind, count, values_at + len(values))
            values += packed + bytes(len(packed) % 2)
        else:
            rows += struct.pack("<HHI", tag, kind, count) + packed.ljust(4, b"\0")
    return head + rows + struct.pack("<I", following) + values


def one_page(entries: Mapping[int, Value], tiles: Sequence[bytes] = (), *, following: int | None = None) -> bytes:
    """A file of one page; without `following`, the last one. Each of `tiles` is stored and listed, if there are any."""
    start, listed = 8, dict(entries)
    payload = b""
    if tiles:
        offsets = []
        for tile in tiles:
            offsets.append(start + len(payload))
            payload += tile + bytes(len(tile) % 2)
        listed[TILE_OFFSETS], listed[TILE_COUNTS] = tuple(offsets), tuple(len(tile) for tile in tiles)
    at = start + len(payload)
    return b"II*\0" + struct.pack("<I", at) + payload + directory(listed, at, following or 0)
