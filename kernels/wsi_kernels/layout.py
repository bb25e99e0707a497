"""How arrays reach a kernel: checked, and as one flat layout; owns argument checks, knows no kernel.

Numba compiles a function again (0.3-0.5 s) for each memory layout and for read-only input. So every kernel gets arrays
as 1-D C-contiguous views from their first to their last element, inputs read-only, plus the element strides of all axes
but the last. One specialisation then serves whole arrays, views of a canvas and read-only memory alike, and a row
`flat[o : o + n]` is contiguous for the compiler, which its vectoriser needs.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Flat = tuple[NDArray[Any], tuple[int, ...]]
"""A 1-D view and the element strides of all axes but the last."""
Labels = NDArray[np.uint8] | NDArray[np.uint16]
"""Label map, (h, w) uint8 or uint16."""
LABEL_DTYPES = (np.uint8, np.uint16)


def expect(name: str, array: NDArray[Any], dtypes: tuple[type, ...], shape: tuple[int | str, ...]) -> None:
    """Raise TypeError or ValueError unless `array` has one of the dtypes and the shape; a letter stands for any size.

    >>> expect("tile", np.zeros((2, 3)), (np.uint16,), ("C", "H", "W"))
    Traceback (most recent call last):
        ...
    TypeError: tile is float64 (2, 3); expected uint16 (C, H, W)
    """
    fits = len(array.shape) == len(shape) and all(
        isinstance(want, str) or have == want for have, want in zip(array.shape, shape, strict=True)
    )
    sound = any(array.dtype == dtype for dtype in dtypes)
    if fits and sound:
        return
    wanted = "|".join(np.dtype(dtype).name for dtype in dtypes) + f" ({', '.join(map(str, shape))})"
    raise (ValueError if sound else TypeError)(f"{name} is {array.dtype} {array.shape}; expected {wanted}")


def flat_input(array: NDArray[Any]) -> Flat:
    """Read-only flat view; copies only where the last axis is not contiguous or a stride is negative."""
    if not _is_flat(array):
        array = np.ascontiguousarray(array)
    flat = _flat(array)
    flat.flags.writeable = False
    return flat, _strides(array)


def flat_output(name: str, array: NDArray[Any]) -> Flat:
    """Writable flat view. Raises ValueError where the last axis is not contiguous or the array is read-only."""
    if not array.flags.writeable:
        raise ValueError(f"{name} is read-only; expected an array to write into")
    if not _is_flat(array):
        raise ValueError(f"{name} has strides {array.strides} bytes; expected a contiguous last axis")
    return _flat(array), _strides(array)


def _is_flat(array: NDArray[Any]) -> bool:
    item = array.itemsize
    if array.flags.c_contiguous and array.flags.aligned:
        return True
    rows = all(stride >= item and stride % item == 0 for stride in array.strides[:-1])
    return rows and array.strides[-1] == item and array.flags.aligned


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    if array.flags.c_contiguous or array.size == 0:
        return array.reshape(-1)
    last = sum((size - 1) * stride for size, stride in zip(array.shape, _strides(array), strict=False))
    return as_strided(array, (last + array.shape[-1],), (array.itemsize,))


def _strides(array: NDArray[Any]) -> tuple[int, ...]:
    """Element strides of all axes but the last; those of an empty array or an axis of size 1 are never used."""
    if array.size == 0:
        return tuple(prod(array.shape[axis + 1 :]) for axis in range(array.ndim - 1))
    return tuple(stride // array.itemsize for stride in array.strides[:-1])
