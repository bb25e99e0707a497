"""Identity of a slide's files by a sample of their bytes, or by all of them; owns what is sampled, knows no format.

A change of size, of the first or last part, or of anything sampled changes the fingerprint; a change confined to bytes
between the samples does not, and is what the full hash is for. Names never enter them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from wsi_seg.errors import RegionReadError

_EDGE_BYTES = 128 << 10
"""Read at either end of a file: headers and directories are there."""
_SAMPLES, _SAMPLE_BYTES = 48, 4096
_PART_BYTES = 8 << 20


def sampled_sha256(paths: Iterable[Path], extra: bytes = b"") -> str:
    """SHA-256 (hex) over `extra` and, for each file in the order given, its size and a sample of its content.

    Raises RegionReadError where a file cannot be read.
    """
    digest = hashlib.sha256(len(extra).to_bytes(8, "little") + extra)
    for path in paths:
        try:
            _add_file(digest, path)
        except OSError as error:
            raise _unreadable(path, error) from error
    return digest.hexdigest()


def full_sha256(paths: Iterable[Path]) -> str:
    """SHA-256 (hex) over the size and all bytes of each file, in the order given.

    Raises RegionReadError where a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb", buffering=0) as file:
                digest.update(path.stat().st_size.to_bytes(8, "little"))
                while part := file.read(_PART_BYTES):
                    digest.update(part)
        except OSError as error:
            raise _unreadable(path, error) from error
    return digest.hexdigest()


def sampled_bytes(paths: Iterable[Path]) -> tuple[int, int]:
    """How many bytes of the files `sampled_sha256` looks at, and how many there are."""
    sizes = [path.stat().st_size for path in paths]
    return sum(count for size in sizes for _, count in _sampled(size)), sum(sizes)


def _unreadable(path: Path, error: OSError) -> RegionReadError:
    return RegionReadError(
        f"{path} cannot be read: {error.strerror or error}",
        rule="all files of a slide are readable",
        remedy="check the file and its permissions",
    )


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        for offset, count in _sampled(size):
            file.seek(offset)
            digest.update(file.read(count))


def _sampled(size: int) -> list[tuple[int, int]]:
    """(offset, count) of what is hashed: everything of a small file, else both ends and evenly spaced pieces."""
    if size <= 2 * _EDGE_BYTES + _SAMPLES * _SAMPLE_BYTES:
        return [(0, size)]
    step = (size - 2 * _EDGE_BYTES) // _SAMPLES
    pieces = [(_EDGE_BYTES + i * step, _SAMPLE_BYTES) for i in range(_SAMPLES)]
    return [(0, _EDGE_BYTES), *pieces, (size - _EDGE_BYTES, _EDGE_BYTES)]
