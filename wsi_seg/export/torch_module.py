"""Torch modules on their way out: activation inside, weights in half, as a torch.export archive or for Core ML.

The only place of this room that imports torch.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsi_seg.card import METADATA_KEY, ModelCard
from wsi_seg.errors import ModelLoadError
from wsi_seg.model.tracing import traced_input

_KINDS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Activated(nn.Module):  # type: ignore[misc]
    """A module of logits and the activation that its card asks for."""

    def __init__(self, module: nn.Module, activation: str) -> None:
        super().__init__()
        self.module = module
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> probabilities (N, C, H, W)."""
        y = self.module(x)
        return torch.softmax(y, dim=1) if self.activation == "softmax" else torch.sigmoid(y)


class Converted(nn.Module):  # type: ignore[misc]
    """A module whose weights and arithmetic have another type; float32 goes in and comes out."""

    def __init__(self, module: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).to(kind)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) float32 -> (N, C, H, W) float32."""
        return self.module(x.to(self.kind)).float()


def with_activation(module: nn.Module, activation: str) -> nn.Module:
    """The module with its activation inside; itself where there is nothing to add."""
    return module if activation == "probabilities" else Activated(module, activation).eval()


def write_torch(module: nn.Module, card: ModelCard, precision: str, path: Path) -> None:
    """Write a torch.export archive, dynamic in N, H and W, with the card in its extra files."""
    program = _exported(module, card, precision)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of slices of one storage, which are saved as they are
        torch.export.save(program, path, extra_files={METADATA_KEY: card.to_json()})


def write_coreml(module: nn.Module, card: ModelCard, precision: str, path: Path) -> None:
    """Write a Core ML package of one tile at the card's size. Raises ModelLoadError where coremltools is missing."""
    try:
        import coremltools as ct
    except ImportError as error:
        raise ModelLoadError(
            "Core ML needs coremltools, which is not installed", remedy="pip install coremltools"
        ) from error
    side = card.tile_size
    example = torch.zeros(1, 3, side, side)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        model = ct.convert(
            torch.jit.trace(module, example), convert_to="mlprogram",
            inputs=[ct.TensorType("image", example.shape)], outputs=[ct.TensorType("probabilities")],
            compute_precision=ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32,
            minimum_deployment_target=ct.target.iOS16,
        )  # fmt: skip
    model.user_defined_metadata[METADATA_KEY] = card.to_json()
    model.save(str(path))


def _exported(module: nn.Module, card: ModelCard, precision: str) -> Any:
    example, shapes = traced_input(module, card)
    kind = _KINDS[precision]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(
            module if kind == torch.float32 else Converted(module, kind), (example,), dynamic_shapes=(shapes,)
        )
