"""How kernels are compiled; owns the one decorator, knows no kernel.

Serial on purpose: Dask owns the parallelism, and Numba's always-present `workqueue` layer aborts the process when two
threads enter it. No fastmath: results must not depend on how a loop was vectorised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first call, without the GIL, cached on disk where a cache folder can be written.

    `error_model="numpy"` only drops the check for division by zero, which would keep loops scalar; no kernel divides by
    a variable that can be 0.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        compiled: Callable[..., Any] = njit(cache=True, **options)(function)
    except RuntimeError:  # read-only installation and no writable home: Numba finds no place for its cache
        compiled = njit(**options)(function)
    return compiled
