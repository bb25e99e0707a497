"""Damage of files, from random numbers: flipped bits, lost ranges, absurd numbers where a header has numbers."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from tests.chaos.tiff_entries import entries_of

ABSURD = (0, 1, 2, 3, 7, 255, 256, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
HEAD = 4096
"""Bytes at either end that are hit as often as all the rest."""
JSON_VALUES = ("0", "-1", "1e9", "2147483647", "9" * 30, "null", "[]", '""', '"uint16"', '"blosc"', "1.5", "true", "{}")


def mutated(content: bytes, chance: Random) -> tuple[bytes, str]:
    """A damaged copy, and in words how; one to three mutations."""
    damaged, told = bytearray(content), []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        kind = chance.choice(_KINDS)
        kind(damaged, chance)
        told.append(kind.__name__.strip("_"))
        if not damaged:
            break
    return bytes(damaged), ", ".join(told)


def mutated_json(content: bytes, chance: Random) -> tuple[bytes, str]:
    """Metadata of which one value is another one, a key is missing, or bytes are damaged."""
    text = content.decode()
    values = list(re.finditer(r'(?<=: )("[^"]*"|-?[\d.]+|true|false|null)|(?<=\[|\s)-?\d+(?=[,\n])', text))
    if chance.random() < 0.3 or not values:
        return mutated(content, chance)
    value = chance.choice(values)
    if chance.random() < 0.2:
        keys = list(re.finditer(r'"[a-z_]+"(?=:)', text))
        value = chance.choice(keys) if keys else value
        return (text[: value.start()] + '"x"' + text[value.end() :]).encode(), f"key {value[0]}"
    new = chance.choice(JSON_VALUES)
    return (text[: value.start()] + new + text[value.end() :]).encode(), f"{value[0]} = {new}"


def _place(damaged: bytearray, chance: Random) -> int:
    """Somewhere, half of the time near an end or in a TIFF directory."""
    size = len(damaged)
    where = chance.random()
    if where < 0.25:
        return chance.randrange(min(size, HEAD))
    if where < 0.4:
        return max(0, size - 1 - chance.randrange(HEAD))
    if where < 0.6 and (entries := entries_of(damaged)):
        return min(size - 1, chance.choice(entries).position + chance.randrange(12))
    return chance.randrange(size)


def _bits(damaged: bytearray, chance: Random) -> None:
    for _ in range(chance.choice((1, 2, 8, 64))):
        damaged[_place(damaged, chance)] ^= 1 << chance.randrange(8)


def _zeros(damaged: bytearray, chance: Random) -> None:
    start = _place(damaged, chance)
    end = min(len(damaged), start + chance.choice((2, 16, 200, 5000, 100_000)))
    damaged[start:end] = bytes(end - start)


def _noise(damaged: bytearray, chance: Random) -> None:
    start = _place(damaged, chance)
    end = min(len(damaged), start + chance.choice((4, 32, 500)))
    damaged[start:end] = chance.randbytes(end - start)


def _end(damaged: bytearray, chance: Random) -> None:
    del damaged[_place(damaged, chance) :]


def _removed(damaged: bytearray, chance: Random) -> None:
    start = _place(damaged, chance)
    del damaged[start : start + chance.choice((1, 4, 100))]


def _inserted(damaged: bytearray, chance: Random) -> None:
    start = _place(damaged, chance)
    damaged[start:start] = chance.randbytes(chance.choice((1, 4, 100)))


def _number(damaged: bytearray, chance: Random) -> None:
    """An absurd number of 2 or 4 bytes."""
    start, order = _place(damaged, chance) & ~1, chance.choice("<>")
    value = chance.choice(ABSURD)
    packed = struct.pack(f"{order}I", value) if chance.random() < 0.7 else struct.pack(f"{order}H", value & 0xFFFF)
    damaged[start : start + len(packed)] = packed


def _tag(damaged: bytearray, chance: Random) -> None:
    """A TIFF tag's type, number of values, value or name; or two tags' values, swapped."""
    entries = entries_of(damaged)
    if not entries:
        return _number(damaged, chance)
    entry = chance.choice(entries)
    what = chance.choice(("type", "count", "value", "value", "value", "name", "swap"))
    if what == "swap":
        one, other = entry.value, chance.choice(entries).value
        damaged[one], damaged[other] = damaged[other], damaged[one]
        return None
    part = {"type": entry.type, "count": entry.count, "value": entry.value, "name": entry.name}[what]
    number = chance.choice((*ABSURD, chance.randrange(2**32), chance.randrange(400)))
    width = part.stop - part.start
    damaged[part] = (number % (1 << 8 * width)).to_bytes(width, "little" if entry.little else "big")
    return None


def _text(damaged: bytearray, chance: Random) -> None:
    """A digit of some text that the file holds."""
    digits = [found.start() for found in re.finditer(rb"(?<=[=\"> ])\d(?=[\d.]*[\"<| \r\n])", damaged[: 1 << 20])]
    if not digits:
        return _bits(damaged, chance)
    damaged[(place := chance.choice(digits)) : place + 1] = chance.choice((b"9", b"0", b"-", b"x", b"e", b"99999999"))
    return None


_KINDS: Sequence[Callable[[bytearray, Random], None]] = (
    _bits, _zeros, _noise, _end, _removed, _inserted, _number, _number, _tag, _tag, _tag, _text,
)  # fmt: skip


def mutate_folder(folder: Path, chance: Random) -> str:
    """Damage one file of a Zarr folder, metadata half of the time; in words."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    texts = [path for path in files if path.name in ("zarr.json", ".zarray", ".zattrs", ".zgroup")]
    file = chance.choice(texts if chance.random() < 0.5 else files)
    key = file.relative_to(folder).as_posix()
    if chance.random() < 0.05:
        file.unlink()
        return f"{key} gone"
    damaged, how = (mutated_json if file in texts else mutated)(file.read_bytes(), chance)
    file.write_bytes(damaged)
    return f"{key}: {how}"
