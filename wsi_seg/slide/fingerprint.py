"""Identity of a slide's files by a sample of their bytes; owns what is sampled, knows no format.

A change of size, of the first or last part, or of anything sampled changes the fingerprint; a change confined to bytes
between the samples does not. Names never enter it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from wsi_seg.errors import RegionReadError

_EDGE_BYTES = 128 << 10
"""Read at either end of a file: headers and directories are there."""
_SAMPLES, _SAMPLE_BYTES = 48, 4096


def sampled_sha256(paths: Iterable[Path], extra: bytes = b"") -> str:
    """SHA-256 (hex) over `extra` and, for each file in the order given, its size and a sample of its content.

    Raises RegionReadError where a file cannot be read.
    """
    digest = hashlib.sha256(len(extra).to_bytes(8, "little") + extra)
    for path in paths:
        try:
            _add_file(digest, path)
        except OSError as error:
            raise RegionReadError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


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
