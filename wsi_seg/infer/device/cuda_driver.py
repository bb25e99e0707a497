"""What the NVIDIA driver answers, asked through its own library: which GPUs are there, and page-locked memory.

Owns ctypes. Needs no CUDA toolkit and no Python package, so a machine without a GPU learns that at no cost. All calls
are those of the driver API of CUDA 12 and later.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LIBRARY = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
_NAME_BYTES = 256
_PORTABLE = 1  # CU_MEMHOSTREGISTER_PORTABLE: page-locked for every context


@lru_cache(maxsize=1)
def gpu_names() -> tuple[str, ...]:
    """Product names of the GPUs that answer, by number; none where there is no driver."""
    driver = _driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(_name(driver, number) for number in range(count.value))


def lock_pages(array: NDArray[Any], number: int = 0) -> bool:
    """Page-lock an array's memory, from which a GPU then copies without a detour; True where that was done.

    `number` is the GPU's. Give it back with `unlock_pages` before the array goes.
    """
    driver = _driver()
    context = ctypes.c_void_p()
    if driver is None or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), ctypes.c_int(number)) != 0:
        return False
    if driver.cuCtxSetCurrent(context) != 0:
        return False
    start = ctypes.c_void_p(array.ctypes.data)
    return bool(driver.cuMemHostRegister_v2(start, ctypes.c_size_t(array.nbytes), ctypes.c_uint(_PORTABLE)) == 0)


def unlock_pages(array: NDArray[Any]) -> None:
    """Undo `lock_pages`."""
    driver = _driver()
    if driver is not None:
        driver.cuMemHostUnregister(ctypes.c_void_p(array.ctypes.data))


class LockedArray:
    """A uint8 array whose pages are locked for as long as it lives, where the driver does it."""

    def __init__(self, shape: tuple[int, ...], number: int) -> None:
        self.values: NDArray[np.uint8] = np.empty(shape, np.uint8)
        self._locked = lock_pages(self.values, number)

    def __del__(self) -> None:
        if getattr(self, "_locked", False):
            unlock_pages(self.values)


@lru_cache(maxsize=1)
def _driver() -> Any:
    """The driver's library, initialised; None where there is none."""
    try:
        driver = ctypes.CDLL(_LIBRARY)
        return driver if driver.cuInit(0) == 0 else None
    except (OSError, AttributeError):
        return None


def _name(driver: Any, number: int) -> str:
    text = ctypes.create_string_buffer(_NAME_BYTES)
    answered = driver.cuDeviceGetName(text, ctypes.c_int(_NAME_BYTES), ctypes.c_int(number)) == 0
    return text.value.decode(errors="replace") if answered else "NVIDIA GPU"
