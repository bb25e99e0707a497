"""TensorRT as it is installed here, `tensorrt` (10 and later) or `tensorrt_rtx`: the only file that imports them.

Owns what differs between them, and the logger that turns an answer of None into a reason. Knows no model.
"""

from __future__ import annotations

import importlib
from collections import deque
from types import ModuleType
from typing import Any

from wsi_seg.errors import ModelLoadError

FLAVOURS = ("tensorrt", "tensorrt_rtx")
"""Modules of one API, in order of preference: the first runs on every recent GPU, the second on RTX GPUs only."""
_OLDEST = 10
_KEPT_MESSAGES = 4


def load_library() -> ModuleType:
    """The module. Raises ModelLoadError where none is installed, or is too old."""
    reasons = []
    for name in FLAVOURS:
        try:
            library = importlib.import_module(name)
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == name
            reasons += [] if missing else [f"{name}: {error}"]
            continue
        if name == "tensorrt" and major(library) < _OLDEST:
            reasons.append(f"tensorrt {library.__version__} is older than {_OLDEST}")
            continue
        return library
    raise ModelLoadError(
        "TensorRT is not installed" + (f" ({'; '.join(reasons)})" if reasons else ""),
        rule="--runtime tensorrt needs the package tensorrt or tensorrt-rtx",
        remedy="pip install tensorrt, on RTX GPUs also pip install tensorrt-rtx; or --runtime onnxruntime",
    )


def installed() -> bool:
    """True where one of the flavours can be imported."""
    try:
        load_library()
    except ModelLoadError:
        return False
    return True


def major(library: ModuleType) -> int:
    """Major version.

    >>> library = ModuleType("tensorrt")
    >>> library.__version__ = "10.13.0"
    >>> major(library)
    10
    """
    return int(str(library.__version__).split(".", maxsplit=1)[0])


def make_logger(library: ModuleType) -> Any:
    """A logger whose `reason()` is the last warnings and errors, in one line."""
    severities = library.ILogger.Severity

    class Log(library.ILogger):  # type: ignore[misc, name-defined]  # the base class is only known at run time
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self._messages: dict[bool, deque[str]] = {kind: deque(maxlen=_KEPT_MESSAGES) for kind in (True, False)}

        def log(self, severity: Any, message: str) -> None:
            if severity in (severities.INTERNAL_ERROR, severities.ERROR, severities.WARNING):
                self._messages[severity != severities.WARNING].append(" ".join(message.split()))

        def reason(self) -> str:
            return "; ".join(self._messages[True] or self._messages[False])[-600:] or "it gives no reason"

    return Log()


def make_network(library: ModuleType, builder: Any) -> Any:
    """An empty, strongly typed network: 10 has to be told, from 11 on (and in RTX) there is no other kind."""
    asks = library.__name__ == "tensorrt" and major(library) == _OLDEST
    return builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if asks else 0)
