"""A predictor that answers one class with certainty; owns the name `constant:K/C`. For tests and dry runs."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import ModelCard, named_classes
from wsi_seg.errors import ModelLoadError
from wsi_seg.infer.protocol import RuntimeFacts

_NAME = re.compile(r"constant:(\d+)/(\d+)")


class ConstantProgram:
    """Probability 1 for one class, 0 for the others, everywhere."""

    def __init__(self, index: int, n_classes: int) -> None:
        self._one_hot = np.eye(n_classes, dtype=np.float32)[index]
        self.facts = RuntimeFacts("numpy", np.__version__, "CPU", "fp32")

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """(N, H, W, 3) uint8 -> (N, C, H, W) float32."""
        count, height, width, _ = batch.shape
        output = np.empty((count, self._one_hot.size, height, width), np.float32)
        output[:] = self._one_hot[:, None, None]
        return output

    def close(self) -> None:
        """Nothing is held."""


def is_constant(model: str) -> bool:
    """True for names that this file answers.

    >>> is_constant("constant:1/3"), is_constant("model.onnx")
    (True, False)
    """
    return model.startswith("constant:")


def constant_parts(model: str) -> tuple[ConstantProgram, ModelCard]:
    """Program and card of `constant:K/C`: class K of C, K from 0. Raises ModelLoadError."""
    match = _NAME.fullmatch(model)
    index, n_classes = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (index < n_classes and 2 <= n_classes <= 65534):
        raise ModelLoadError(
            f"model {model!r}", rule="constant:K/C answers class K of C, with 0 <= K < C and 2 <= C <= 65534",
            remedy="for example constant:1/3",
        )  # fmt: skip
    classes = named_classes([f"class {number}" for number in range(n_classes)])
    return ConstantProgram(index, n_classes), ModelCard(model, 0.5, classes, halo=0, licence="Apache-2.0")
