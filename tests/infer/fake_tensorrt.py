"""A TensorRT that computes on the CPU, class 1 where red is at least 128, to test what surrounds an engine."""

from __future__ import annotations

import ctypes
from types import ModuleType, SimpleNamespace

import numpy as np

CLASSES = 2


class _Context:
    def __init__(self, engine: Engine) -> None:
        self._engine, self._shape, self._places = engine, (), {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        count, height, width, _ = self._shape
        return count, CLASSES, height, width

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._places[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if self._engine.content == b"refuses":
            self._engine.logger.log(self._engine.logger.severities.ERROR, "out of\n patience")
            return False
        source, target = (
            np.ctypeslib.as_array((kind * int(np.prod(shape))).from_address(self._places[name])).reshape(shape)
            for name, kind, shape in (
                ("wsi_seg_pixels", ctypes.c_uint8, self._shape),
                ("wsi_seg_probabilities", ctypes.c_float, self.get_tensor_shape("")),
            )
        )
        target[:, 1] = source[..., 0] >= 128
        target[:, 0] = 1 - target[:, 1]
        return True


class Engine:
    def __init__(self, content: bytes, logger: object) -> None:
        self.content, self.logger = content, logger

    def create_execution_context(self) -> _Context | None:
        return None if self.content == b"no context" else _Context(self)


def make(version: str = "11.4.0", *, loads: bool = True) -> ModuleType:
    """The module; `loads=False` gives one that refuses every engine, as on a GPU that it does not know."""
    library = ModuleType("tensorrt")
    library.__version__ = version

    class ILogger:
        severities = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3)
        Severity = severities

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
            if loads:
                return Engine(content, self._logger)
            self._logger.log(ILogger.severities.INFO, "all is well")
            self._logger.log(ILogger.severities.ERROR, "unknown compute capability")
            return None

    library.ILogger, library.Runtime = ILogger, Runtime
    return library
