"""The tiles of a TIFF copy of a result: taken over from its chunks as they are compressed, or compressed anew.

Owns the choice between the two, and how each proves that the file holds what was written. A chunk of gzip and a tile of
zlib hold the same deflate stream: only the frame differs. Memory is bounded by one row of tiles. Knows no TIFF tags.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import CorruptOutputError
from wsi_seg.geometry import MIN_SHARD, Box, ceil_div
from wsi_seg.output.label_store import Result
from wsi_seg.output.result_spec import GZIP, LABELS, ZSTD, shard_key
from wsi_seg.output.shard_codec import encode_chunk, index_bytes, read_index, standalone

TIFF_TILE = 512
"""Side of a tile that is compressed anew, px."""
BUFFER_BYTES = 32 << 20
"""Of tiles that tifffile keeps for its threads."""

_TAKEN_OVER = {"zlib": GZIP, "zstd": ZSTD}
"""Which codec of chunks each compression of a TIFF can take over."""
_DIGEST_BYTES = 32


class Tiles(Protocol):
    """The tiles of all levels of one TIFF, in row-major order; tells `step` after every row written and read back."""

    def side(self, level: int) -> int:
        """Side of a tile, px."""

    def written(self, level: int) -> Iterator[Any]:
        """What tifffile is to write: bytes, or pixels that it compresses."""

    def check(self, page: Any, level: int) -> None:
        """Read a level back, `page` of tifffile. Raises CorruptOutputError where it is not what was written."""


def tiles_of(result: Result, compression: str, step: Callable[[], None]) -> Tiles:
    """The tiles of a result: copied where its chunks are files' and compressed alike, else compressed anew."""
    if isinstance(result.path, Path) and _TAKEN_OVER.get(compression) == result.spec.codec:
        return CopiedTiles(result, step)
    return EncodedTiles(result, step)


class EncodedTiles:
    """Tiles of pixels; proven by decoding every one and holding it against the result, which is decoded again."""

    def __init__(self, result: Result, step: Callable[[], None]) -> None:
        self._result, self._step = result, step

    def side(self, level: int) -> int:  # noqa: ARG002 the same in all levels
        """Side of a tile, px."""
        return TIFF_TILE

    def written(self, level: int) -> Iterator[NDArray[Any]]:
        """Pixels of tiles, cut at the level's end; reads one row of tiles at a time. Raises CorruptOutputError."""
        height, width = self._result.spec.layout.level_size(level)

        def row(y: int) -> Iterator[NDArray[Any]]:
            band = self._result.read_labels(level, Box(y, 0, min(y + TIFF_TILE, height), width))
            self._step()
            return (band[:, x : x + TIFF_TILE] for x in range(0, width, TIFF_TILE))

        return chain.from_iterable(map(row, range(0, height, TIFF_TILE)))

    def check(self, page: Any, level: int) -> None:
        """Decode every tile of a level. Raises CorruptOutputError where one is not what the result holds."""
        found = (segment for segment, _, _ in page.segments(buffersize=BUFFER_BYTES))
        for n, expected in enumerate(self.written(level)):
            try:
                cause = "" if _equal(next(found, None), expected) else "differs from the result"
            except Exception as error:  # tifffile and its codecs raise many kinds
                cause = f"cannot be decoded ({error})"
            if cause:
                raise _not_as_written(page, level, n, cause)


class CopiedTiles:
    """The chunks of a result, each in the frame of a TIFF; proven by what was written, byte for byte.

    Every chunk is decoded once on its way, and held against its crc32c and, of gzip, the crc32 of its pixels. Then the
    bytes of the file are held against SHA-256 of the bytes that were handed over. Chunks that a result leaves out are
    written all the same, as one tile of `not_analysed` again and again: readers differ about tiles without bytes.
    Chunks smaller than a tile are put together and compressed as the larger one would have been, to the same bytes.
    """

    def __init__(self, result: Result, step: Callable[[], None]) -> None:
        self._result, self._step = result, step
        self._proofs: dict[int, bytearray] = {}  # SHA-256 of the bytes of every tile of a level, one after the other

    def side(self, level: int) -> int:
        """Side of a tile, px: that of the result's chunks, whatever its blocks are."""
        spec = self._result.spec
        return MIN_SHARD if spec.codec == GZIP else spec.chunk(level)

    def written(self, level: int) -> Iterator[bytes]:
        """Tiles of a level; holds one row of them. Raises CorruptOutputError that names a damaged chunk."""
        spec, side = self._result.spec, self.side(level)
        rows, columns = self._grid(level)
        proof, chunks = self._proofs.setdefault(level, bytearray()), _Chunks(self._result, level)
        empty = self._compressed(np.full((side, side), spec.not_analysed, spec.dtype))
        for row in range(rows):
            found = chunks.framed(row, columns) if spec.chunk(level) == side else self._joined(level, row)
            tiles = [empty if tile is None else tile for tile in found]
            proof += b"".join(sha256(tile).digest() for tile in tiles)
            self._step()
            yield from tiles

    def check(self, page: Any, level: int) -> None:
        """Hold the bytes of every tile against those handed over. Raises CorruptOutputError."""
        (rows, columns), proof, file = self._grid(level), self._proofs[level], page.parent.filehandle
        offsets, sizes = page.dataoffsets, page.databytecounts
        if not len(offsets) == len(sizes) == rows * columns:
            raise CorruptOutputError(
                f"level {level} of {file.path} has {len(offsets)} tiles, {len(sizes)} sizes",
                rule=f"{rows} x {columns} were written",
            )
        for n, (offset, n_bytes) in enumerate(zip(offsets, sizes, strict=True)):
            file.seek(offset)
            if sha256(file.read(n_bytes)).digest() != proof[n * _DIGEST_BYTES : (n + 1) * _DIGEST_BYTES]:
                raise _not_as_written(page, level, n, "differs from what was written")
            if (n + 1) % columns == 0:
                self._step()

    def _joined(self, level: int, row: int) -> Iterator[bytes]:
        """A row of tiles, each of several chunks."""
        (height, width), side = self._result.spec.layout.level_size(level), self.side(level)
        band = np.full((side, ceil_div(width, side) * side), self._result.spec.not_analysed, self._result.spec.dtype)
        box = Box(row * side, 0, min((row + 1) * side, height), width)
        band[: box.size[0], :width] = self._result.read_labels(level, box)
        return (self._compressed(band[:, x : x + side]) for x in range(0, band.shape[1], side))

    def _compressed(self, pixels: NDArray[Any]) -> bytes:
        codec = self._result.spec.codec
        return standalone(encode_chunk(pixels, codec), pixels.nbytes, codec)

    def _grid(self, level: int) -> tuple[int, int]:
        """(rows, columns) of tiles."""
        height, width = self._result.spec.layout.level_size(level)
        return ceil_div(height, self.side(level)), ceil_div(width, self.side(level))


class _Chunks:
    """The encoded chunks of one level, read row by row; keeps the indices of the shards that the row crosses."""

    def __init__(self, result: Result, level: int) -> None:
        spec = result.spec
        self._root, self._array, self._codec = Path(str(result.path)), f"{LABELS}/{level}", spec.codec
        self._shard, self._chunk = spec.layout.shard(level), spec.chunk(level)
        self._chunk_bytes = self._chunk**2 * spec.dtype.itemsize
        self._indices: dict[str, NDArray[np.uint64] | None] = {}

    def framed(self, row: int, columns: int) -> Iterator[bytes | None]:
        """The tiles of a row of chunks, None where one is not stored. Raises CorruptOutputError."""
        per_shard = self._shard // self._chunk
        shard_row, row_inside = divmod(row, per_shard)
        if row_inside == 0:
            self._indices.clear()
        for shard_column in range(ceil_div(columns, per_shard)):
            key = shard_key(self._array, shard_row, shard_column)
            n = min(per_shard, columns - shard_column * per_shard)
            yield from self._of_shard(key, row_inside, n)

    def _of_shard(self, key: str, row: int, n: int) -> Iterator[bytes | None]:
        column = None
        try:
            if key not in self._indices:
                self._indices[key] = self._index(key)
            index = self._indices[key]
            if index is None:
                yield from [None] * n
                return
            with (self._root / key).open("rb") as file:
                for column in range(n):
                    offset, n_bytes = map(int, index[row, column])
                    if n_bytes == 0:
                        yield None
                        continue
                    file.seek(offset)
                    yield standalone(file.read(n_bytes), self._chunk_bytes, self._codec)
        except (OSError, ValueError, RuntimeError) as error:  # codecs raise RuntimeErrors of their own
            place = "" if column is None else f"chunk {row}, {column} of "
            raise CorruptOutputError(
                f"{place}{self._root / key} cannot be read: {error}",
                rule="a TIFF takes over sound chunks only",
                remedy="run the same command again; of a finished result, `wsi-seg verify` names all that is broken",
            ) from error

    def _index(self, key: str) -> NDArray[np.uint64] | None:
        """None where the shard is not stored."""
        n_bytes = index_bytes(self._shard, self._chunk)
        try:
            with (self._root / key).open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - n_bytes))
                return read_index(file.read(), size)
        except FileNotFoundError:
            return None


def _equal(segment: NDArray[Any] | None, expected: NDArray[Any]) -> bool:
    """A decoded tile may come padded, or with axes of length 1."""
    if segment is None:
        return False
    pixels = segment.reshape(segment.shape[-3:-1])[: expected.shape[0], : expected.shape[1]]
    return np.array_equal(pixels, expected)


def _not_as_written(page: Any, level: int, n: int, cause: str) -> CorruptOutputError:
    return CorruptOutputError(
        f"tile {n} of level {level} of {page.parent.filehandle.path} {cause} right after writing",
        rule="the disk must return the bytes it was given",
        remedy="check the disk, then export again",
    )
