"""The child process in which OpenSlide and zarr read: answers requests until its standard input ends.

Owns the limits it lives under and its side of the protocol of `reading_apart`: eight bytes that say how long a JSON
text is, the text, and after an answer with `bytes` so many bytes of pixels. Knows what can be asked, not how it is
done.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LENGTH_BYTES = 8
"""Bytes that say how long a JSON text is, the most significant first."""


class Handles(Protocol):
    """Slides of one kind, held open by name."""

    def facts(self, name: str, path: str) -> dict[str, Any]:
        """Open a slide, if it is not open, and say what it is, in values that JSON knows. Raises ValueError."""

    def read(self, name: str, path: str, asked: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Contiguous pixels. Raises ValueError."""

    def forget(self, name: str) -> None:
        """Close a slide, if it is open."""


def main() -> None:
    """Answer what is asked, one request after the other; no request raises."""
    answers, limits, kinds = os.dup(1), _Limits(), set[str]()
    os.dup2(2, 1)  # nothing that a library prints may come between the answers
    while request := _received():
        handles = _handles(request["kind"])
        if request["kind"] not in kinds:
            kinds.add(request["kind"])
            limits.count_from_here()
        with limits.of(request["memory_bytes"], request["seconds"]):
            said, pixels = _answer(handles, request)
        _write(answers, json.dumps({**said, "held_bytes": limits.held_bytes}).encode(), pixels)


@cache
def _handles(kind: str) -> Handles:
    """The handles of a kind; their library is loaded by the first slide that needs it."""
    if kind == "openslide":
        from wsi_seg.slide.openslide_handle import OpenSlides

        return OpenSlides()
    from wsi_seg.slide.zarr_handle import ZarrImages

    return ZarrImages()


def _answer(handles: Handles, request: Mapping[str, Any]) -> tuple[dict[str, Any], bytes | memoryview]:
    name, path = request["name"], request["path"]
    try:
        match request["do"]:
            case "open":
                return handles.facts(name, path), b""
            case "read":
                pixels = handles.read(name, path, request).data.cast("B")
                return {"bytes": len(pixels)}, pixels
            case _:
                handles.forget(name)
                return {}, b""
    except MemoryError:
        gc.collect()  # what it was about to hold is to be free for the next request
        return {"error": f"it needs more than {request['memory_bytes'] >> 20} MiB of memory", "starved": True}, b""
    except ValueError as error:
        return {"error": str(error) or "it is damaged"}, b""


class _Limits:
    """What a request may take. On systems without such limits the parent's patience alone holds."""

    def __init__(self) -> None:
        for number in ("SIGINT", "SIGTERM", "SIGHUP"):  # they are meant for the parent, whose end closes our input
            with suppress(AttributeError):
                signal.signal(getattr(signal, number), signal.SIG_IGN)
        with suppress(ImportError, OSError, ValueError):
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        self._floor = 0
        self.count_from_here()

    def count_from_here(self) -> None:
        """What is mapped now does not count: the libraries."""
        with suppress(OSError):
            self._floor = _address_space()

    @property
    def held_bytes(self) -> int:
        """What is mapped now and does count; 0 where that cannot be told."""
        with suppress(OSError):
            return _address_space() - self._floor
        return 0

    def of(self, memory_bytes: int, seconds: float) -> _Limits:
        """For one request: so much memory beyond that of the libraries, and an alarm should no parent be there.

        It comes well after the parent's own patience.
        """
        with suppress(ImportError, OSError, ValueError):
            import resource

            _, most = resource.getrlimit(resource.RLIMIT_AS)
            limit = self._floor + memory_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit if most < 0 else min(limit, most), most))
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 2 * seconds)
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)


def _address_space() -> int:
    """Bytes that this process has mapped."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - a path object would be imported for this alone
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _received() -> dict[str, Any] | None:
    """The next request; None where the parent is gone."""
    length = _read(LENGTH_BYTES)
    if length is None:
        return None
    text = _read(int.from_bytes(length, "big"))
    return None if text is None else dict(json.loads(text))


def _read(count: int) -> bytes | None:
    parts = b""
    while len(parts) < count:
        part = os.read(0, count - len(parts))
        if not part:
            return None
        parts += part
    return parts


def _write(descriptor: int, text: bytes, pixels: bytes | memoryview) -> None:
    try:
        for part in (len(text).to_bytes(LENGTH_BYTES, "big") + text, pixels):
            left = memoryview(part)
            while left:
                left = left[os.write(descriptor, left) :]
    except BrokenPipeError:
        sys.exit(0)
