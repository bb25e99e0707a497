"""A label array whose px are made when they are asked for, that NumPy, Dask and napari take for an array.

Owns NumPy's basic indices and the bridge to Dask. Knows neither block, slide nor model: a subclass answers rows and
columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from operator import index
from types import EllipsisType
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import DTypeLike, NDArray

from wsi_seg.errors import UsageError

LARGEST_BY_ACCIDENT = 1 << 30
"""Px up to which `np.asarray` makes the whole array; more are made only where somebody writes `[:]`."""

Labels = NDArray[Any]
Index = Any
"""An int, a slice, `...`, or a tuple of at most two of them and one `...`."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a basic index of a two-dimensional array picks."""

    rows: range
    columns: range
    picked: tuple[int | slice, int | slice]
    """Index of the answer in the array (rows, columns): 0 for an axis that an int has taken away."""


class OnDemandArray(ABC):
    """Two-dimensional labels, made when they are indexed. For several threads; does not pickle.

    Every index makes a new array, which is the caller's.
    """

    ndim = 2

    def __init__(self, shape: tuple[int, int], dtype: np.dtype[Any], side: int) -> None:
        """`side`: of the squares that are made at once, px."""
        self.shape, self.dtype = shape, dtype
        self.chunks = min(side, shape[0]), min(side, shape[1])
        self._name = f"labels-on-demand-{uuid4().hex}"

    @abstractmethod
    def _made(self, rows: range, columns: range) -> Labels:
        """The labels (len(rows), len(columns)) of px in the array; both ranges hold something and ascend."""

    @property
    def size(self) -> int:
        """Px."""
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array, were it made."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Index) -> Any:
        """Labels as NumPy's basic indexing gives them: an array, or a scalar for two ints. Raises IndexError."""
        chosen = selection(key, self.shape)
        rows, columns = chosen.rows, chosen.columns
        if not rows or not columns:
            return np.empty((len(rows), len(columns)), self.dtype)[chosen.picked]
        labels = self._made(_ascending(rows), _ascending(columns))
        return labels[:: _sign(rows), :: _sign(columns)][chosen.picked]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Labels:
        """All of it. Raises UsageError for more than `LARGEST_BY_ACCIDENT` px, ValueError for `copy=False`."""
        if copy is False:
            raise ValueError("labels that are made on demand are always a new array; leave copy=False out")
        if self.size > LARGEST_BY_ACCIDENT:
            height, width = self.shape
            raise UsageError(
                f"the whole of {height} x {width} labels ({self.nbytes / 1e9:.1f} GB) as a NumPy array",
                rule=f"more than {LARGEST_BY_ACCIDENT / 1e9:.1f} Gpx are predicted only where that is meant",
                remedy="index a part, take a coarser level, or write [:] for all of it",
            )
        labels: Labels = self[:]
        return labels if dtype is None else labels.astype(dtype, copy=False)

    def to_dask(self) -> Any:
        """A dask.array.Array of the same labels, in chunks of `chunks`; for schedulers of this process."""
        import dask.array

        meta = np.empty((0, 0), self.dtype)
        return dask.array.from_array(self, chunks=self.chunks, name=self._name, lock=False, meta=meta)


def selection(key: Index, shape: tuple[int, int]) -> Selection:
    """What `key` picks of an array of `shape`, by NumPy's rules. Raises IndexError, and TypeError as slices do.

    >>> selection((slice(-3, None, 2), 5), (10, 20))
    Selection(rows=range(7, 10, 2), columns=range(5, 6), picked=(slice(None, None, None), 0))
    """
    parts = list(key) if isinstance(key, tuple) else [key]
    if sum(isinstance(part, EllipsisType) for part in parts) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    at = next((n for n, part in enumerate(parts) if isinstance(part, EllipsisType)), len(parts))
    given = len(parts) - (at < len(parts))
    if given > 2:
        raise IndexError(f"{given} indices for labels of 2 dimensions")
    parts[at : at + 1] = [slice(None)] * (2 - given)
    (rows, row), (columns, column) = (_axis(part, length) for part, length in zip(parts, shape, strict=True))
    return Selection(rows, columns, (row, column))


def cut(wanted: range, side: int) -> Iterator[tuple[int, slice, slice]]:
    """Of an ascending range of px, piece by piece of `side` px: (piece, where in the range, where in the piece).

    >>> list(cut(range(3, 9, 2), 4))
    [(0, slice(0, 1, None), slice(3, 4, 2)), (1, slice(1, 3, None), slice(1, 4, 2))]
    """
    done = 0
    while done < len(wanted):
        piece, first = divmod(wanted[done], side)
        n = min(len(wanted) - done, -(-(side - first) // wanted.step))
        yield piece, slice(done, done + n), slice(first, first + (n - 1) * wanted.step + 1, wanted.step)
        done += n


def _axis(part: Any, length: int) -> tuple[range, int | slice]:
    if isinstance(part, slice):
        return range(*part.indices(length)), slice(None)
    try:
        if isinstance(part, bool | np.bool):
            raise TypeError
        place = index(part)
    except TypeError:
        raise IndexError(
            f"index {part!r:.80}; labels that are made on demand take ints, slices and '...': "
            "make a part first, and index that"
        ) from None
    if not -length <= place < length:
        raise IndexError(f"index {place} is out of bounds for an axis of {length} px")
    return range(place % length, place % length + 1), 0


def _sign(wanted: range) -> int:
    return 1 if wanted.step > 0 else -1


def _ascending(wanted: range) -> range:
    return wanted if wanted.step > 0 else wanted[::-1]
