"""Which failures mean that memory ran out, whatever the runtime; owns that judgement.

Runtimes tell it in their own words: torch by a class of its own on devices and by text on a CPU, ONNX Runtime and
OpenVINO by text only. Knows no runtime: programs raise PredictorError from what they met, and its causes are read here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import PredictorError, PredictorOutOfMemory
from wsi_seg.infer.protocol import Program

Answer = TypeVar("Answer")

_TYPES = ("OutOfMemoryError", "_OutOfMemoryError")
"""Names of exception classes: `torch.OutOfMemoryError`, `torch.cuda.OutOfMemoryError`."""
_WORDS = (
    "out of memory",  # CUDA, torch, TensorRT, HIP
    "bad_alloc", "bad allocation",  # C++, on Linux and Windows
    "failed to allocate", "unable to allocate", "can't allocate memory", "cannot allocate memory",
    "alloc_failed",  # cuBLAS and cuDNN
    "cl_out_of_resources", "cl_mem_object_allocation_failure", "out of gpu resources", "exceeded max size of memory",
)  # fmt: skip


def run_program(program: Program, batch: NDArray[np.uint8], name: str) -> NDArray[np.floating[Any]]:
    """What the program answers for a batch (N, H, W, 3) uint8. Raises as `answered`."""
    return answered(program.run, batch, name)


def answered(ask: Callable[[NDArray[np.uint8]], Answer], batch: NDArray[np.uint8], name: str) -> Answer:
    """What `ask`, a method of a program, answers for a batch (N, H, W, 3) uint8.

    Raises PredictorOutOfMemory where memory ran out, without a cause, so that nothing of the failed call is kept alive;
    PredictorError as the program does.
    """
    try:
        return ask(np.ascontiguousarray(batch))
    except (PredictorError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        what = _first_line(error)
    # Outside the handler: inside, the new error would hold the old one, whose frames hold the call's tensors.
    raise out_of_memory(name, batch.shape, what)


def out_of_memory(name: str, shape: tuple[int, ...], reason: str) -> PredictorOutOfMemory:
    """The error for a batch of `shape` that did not fit."""
    return PredictorOutOfMemory(
        f"model {name!r} ran out of memory on a batch {shape} ({reason})",
        rule="a batch and what the network makes of it fit the memory of the device",
        remedy="a smaller --batch-size or --tile, or fewer --workers",
    )


def ran_out_of_memory(error: BaseException) -> bool:
    """True where the error, or one that caused it, says that memory could not be had.

    >>> ran_out_of_memory(RuntimeError("CUDA error: out of memory")), ran_out_of_memory(RuntimeError("bad shape"))
    (True, False)
    """
    return any(
        isinstance(one, MemoryError) or type(one).__name__ in _TYPES or any(word in str(one).lower() for word in _WORDS)
        for one in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__


def _first_line(error: BaseException) -> str:
    """What was asked for in vain, in the runtime's words, shortened."""
    deepest = list(_causes(error))[-1]
    lines = [line.strip() for line in str(deepest).splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line.lower() for word in _WORDS)]
    return (telling or lines or [type(deepest).__name__])[0][-160:]
