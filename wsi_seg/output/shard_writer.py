"""Writes the shards of a result, whole ones only, each with a record of its stored bytes.

Owns the rule that a shard has one writer and is written whole (zarr v3 loses data of partial writes without an
error), and the check that the store holds what was sent. Knows no zarr library: workers need not load it.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import CorruptOutputError
from wsi_seg.geometry import Box
from wsi_seg.output.result_spec import LABELS, PROBABILITIES, ResultSpec, shard_key
from wsi_seg.output.shard_codec import encode_shard
from wsi_seg.output.store import Record, Url, location_of, store_at

ShardRecord = Record | None
"""(SHA-256, bytes) of a stored shard; None where every pixel has the fill value and nothing is stored."""


class ResultWriter:
    """Writes shards of one result; pickles, and may be called from several threads (each on its own shards)."""

    def __init__(self, path: str | Path | Url, spec: ResultSpec) -> None:
        self.path, self.spec = location_of(path), spec

    def write_labels(self, level: int, box: Box, labels: NDArray[Any]) -> tuple[str, ShardRecord]:
        """Write one shard of labels.

        Args:
            level: label level.
            box: one whole shard in px of `level`, cut at the level's end.
            labels: (h, w) of the spec's dtype, class indices or `not_analysed`.

        Returns:
            Key and record of the shard, for the task's marker.

        Raises:
            ValueError: the box is not one whole shard, or the array does not fit it.
            WriteError: the store refused. CorruptOutputError: it holds other bytes than were written.
        """
        row, column = self.spec.shard_row_column(level, box)
        _check_array(labels, box.size, self.spec.dtype)
        key = shard_key(f"{LABELS}/{level}", row, column)
        return key, self._write(key, level, labels, self.spec.not_analysed)

    def write_probabilities(self, level: int, box: Box, probabilities: NDArray[np.uint8]) -> tuple[str, ShardRecord]:
        """Write one shard of probabilities, (C, h, w) uint8 in 1/255; box, answer and errors as of `write_labels`."""
        if not self.spec.probabilities:
            raise ValueError("this result stores no probabilities")
        row, column = self.spec.shard_row_column(level, box)
        _check_array(probabilities, (self.spec.n_channels, *box.size), np.dtype(np.uint8))
        key = shard_key(f"{PROBABILITIES}/{level}", 0, row, column)
        return key, self._write(key, level, probabilities, 0)

    def _write(self, key: str, level: int, pixels: NDArray[Any], fill: int) -> ShardRecord:
        store, spec = store_at(self.path), self.spec
        content = encode_shard(pixels, spec.layout.shard(level), spec.chunk(level), fill, spec.codec)
        if content is None:
            store.remove(key)
            return None
        store.write(key, content)
        record = sha256(content).hexdigest(), len(content)
        if (stored := store.record(key)) != record:
            raise CorruptOutputError(
                f"{store.describe(key)} holds {stored} right after writing {record}",
                rule="a store must return the bytes it was given",
                remedy="check the disk, the network file system or the object store",
            )
        return record


def _check_array(pixels: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if pixels.shape != shape or pixels.dtype != dtype:
        raise ValueError(f"array {pixels.shape} {pixels.dtype} for a shard of {shape} {dtype}")
