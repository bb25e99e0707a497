"""Torch modules on their way out: activation inside, weights in half, as ONNX or as a torch.export archive.

Owns what of a user's module goes into the program.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsi_seg.card import METADATA_KEY, ModelCard
from wsi_seg.errors import ModelLoadError
from wsi_seg.infer.program.output_forms import output_layout
from wsi_seg.infer.runtime.torch_predictor import tensor_of
from wsi_seg.model.tracing import traced_input

_KINDS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Planar(nn.Module):  # type: ignore[misc]
    """A user's module and what is still to be done for probabilities in planar layout, as its card says.

    `network` maps (N, 3, H, W) or (N, H, W, 3) to a tensor, or to several of which the card names one.
    """

    def __init__(self, network: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.network = network
        self.card = card
        with torch.inference_mode():
            shape = self._output(torch.zeros(1, 3, card.tile_size, card.tile_size)).shape
        self.no_channels = len(shape) == 3
        self.channels_last = len(shape) == 4 and output_layout(shape, card) == "NHWC"

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> probabilities (N, C, H, W)."""
        y = self._output(x)
        if self.no_channels:
            y = y.unsqueeze(1)
        elif self.channels_last:
            y = y.permute(0, 3, 1, 2)
        if self.card.activation == "softmax":
            return torch.softmax(y, dim=1)
        return torch.sigmoid(y) if self.card.activation == "sigmoid" else y

    def _output(self, x: Tensor) -> Tensor:
        y = self.network(x if self.card.layout == "NCHW" else x.permute(0, 2, 3, 1))
        return tensor_of(y, self.card.output, self.card.name)


class Converted(nn.Module):  # type: ignore[misc]
    """A module whose weights and arithmetic have another type; float32 goes in and comes out."""

    def __init__(self, module: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).to(kind)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) float32 -> (N, C, H, W) float32."""
        return self.module(x.to(self.kind)).float()


def as_probabilities(module: nn.Module, card: ModelCard) -> nn.Module:
    """A user's module as one of probabilities (N, C, H, W) of normalised (N, 3, H, W) float32."""
    return Planar(module, card).eval()


def write_onnx(module: nn.Module, card: ModelCard, path: Path) -> None:
    """Write an ONNX program, dynamic in N, H and W, with the card in its metadata. Raises ModelLoadError."""
    from wsi_seg.model.onnx_export import export_onnx

    with _traceable(card.name):
        export_onnx(module, card, path)


def write_torch(module: nn.Module, card: ModelCard, precision: str, path: Path) -> None:
    """Write a torch.export archive, dynamic in N, H and W, with the card in its extra files."""
    program = _exported(module, card, precision)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of slices of one storage, which are saved as they are
        torch.export.save(program, path, extra_files={METADATA_KEY: card.to_json()})


def _exported(module: nn.Module, card: ModelCard, precision: str) -> Any:
    example, shapes = traced_input(module, card)
    kind = _KINDS[precision]
    with warnings.catch_warnings(), _traceable(card.name):
        warnings.simplefilter("ignore")
        return torch.export.export(
            module if kind == torch.float32 else Converted(module, kind), (example,), dynamic_shapes=(shapes,)
        )


@contextmanager
def _traceable(name: str) -> Iterator[None]:
    """Tracing runs a user's code with sizes that are symbols: whatever it raises is one error."""
    try:
        yield
    except Exception as error:
        text = " ".join(str(error.__cause__ or error).split())
        raise ModelLoadError(
            f"torch cannot trace {name}: {type(error.__cause__ or error).__name__}: {text[:300]}",
            rule="a program is traced for any batch, height and width that are multiples of the output stride",
            remedy="state --output-stride if it is larger than was measured, or write the ONNX file yourself with "
            "fixed sides (torch.onnx.export) and export that",
        ) from error
