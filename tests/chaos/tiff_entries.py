"""Where the entries of a TIFF's directories lie, read without trust: damaged files are damaged again here."""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAX_ENTRIES = 4000


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: parts of the file as slices of its bytes."""

    position: int
    tag: int
    little: bool
    name: slice
    type: slice
    count: slice
    value: slice


def entries_of(content: bytes | bytearray) -> list[Entry]:
    """Entries of all pages and SubIFDs; empty where it is no TIFF."""
    if len(content) < 16 or bytes(content[:2]) not in (b"II", b"MM"):
        return []
    little = bytes(content[:2]) == b"II"
    order = "<" if little else ">"
    big = struct.unpack_from(f"{order}H", content, 2)[0] == 43
    found: list[Entry] = []
    waiting = [struct.unpack_from(f"{order}{'Q' if big else 'I'}", content, 8 if big else 4)[0]]
    seen: set[int] = set()
    while waiting and len(found) < MAX_ENTRIES:
        start = waiting.pop()
        if start in seen or start <= 0 or start + 10 > len(content):
            continue
        seen.add(start)
        n = struct.unpack_from(f"{order}{'Q' if big else 'H'}", content, start)[0]
        first, width = start + (8 if big else 2), 20 if big else 12
        for position in range(first, min(first + n * width, len(content) - width), width):
            tag = struct.unpack_from(f"{order}H", content, position)[0]
            half = position + 4 + (8 if big else 4)
            parts = slice(position, position + 2), slice(position + 2, position + 4), slice(position + 4, half)
            found.append(Entry(position, tag, little, *parts, slice(half, position + width)))
            if len(found) >= MAX_ENTRIES:
                return found
            if tag == 330:
                waiting.append(int.from_bytes(content[half : position + width], "little" if little else "big"))
        end = first + n * width
        if end + 8 < len(content):
            waiting.append(struct.unpack_from(f"{order}{'Q' if big else 'I'}", content, end)[0])
    return found
