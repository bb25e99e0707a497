"""The example input and the free axes with which a module is traced for export; owned once, for every format."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wsi_seg.card import ModelCard

_COARSEST = 16
"""Least side, px, of what the deepest features of an example stand for."""


def traced_input(module: nn.Module, card: ModelCard) -> tuple[Tensor, dict[int, Any]]:
    """An example (2, 3, H, W) float32 and the free axes N, H and W by index, H and W multiples of the output stride.

    H and W differ, and no axis has a size that an exporter could take for a constant.
    """
    stride = card.output_stride
    side = getattr(getattr(module, "network", module), "traced_side", 4)
    example = torch.zeros(2, 3, side * max(stride, _COARSEST), (side + 1) * max(stride, _COARSEST))
    height, width = torch.export.Dim("H", min=1, max=2**20), torch.export.Dim("W", min=1, max=2**20)
    return example, {0: torch.export.Dim("N", min=1, max=2**16), 2: stride * height, 3: stride * width}
