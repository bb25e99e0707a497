"""The benchmark's networks in torch, with the weights of the ONNX file; for peers that take torch modules.

Runs in the peers' environments: NumPy and torch only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

CLOSE = 1e-4
BATCH = 1
"""Tiles per prediction: torch on a CPU takes 0.7 CPU s per Mpx at 1, 0.8 at 2 and 0.9 at 4 (U-Net, fp32, tile 512)."""


class Identity(nn.Module):
    """Returns its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Unet(nn.Module):
    """The U-Net of `benchmarks.networks`: (N, 3, H, W) -> probabilities (N, C, H, W); H and W multiples of 2^depth."""

    def __init__(self, base_channels: int, depth: int, n_classes: int) -> None:
        super().__init__()
        widths = [base_channels * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(_double(n_in, n_out) for n_in, n_out in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList()
        self.merge = nn.ModuleList()
        for width in reversed(widths[:-1]):
            self.up.append(nn.ConvTranspose2d(2 * width, width, 2, stride=2, bias=False))
            self.merge.append(_double(2 * width, width))
        self.head = nn.Conv2d(base_channels, n_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level in self.down[:-1]:
            skips.append(level(x))
            x = nn.functional.max_pool2d(skips[-1], 2)
        x = self.down[-1](x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([up(x), skips.pop()], dim=1))
        return self.head(x).softmax(dim=1)

    def in_graph_order(self) -> list[nn.Parameter]:
        """Parameters as the ONNX graph lists them."""
        parts = [*self.down, *(part for pair in zip(self.up, self.merge, strict=True) for part in pair), self.head]
        return [parameter for part in parts for parameter in part.parameters()]


def _double(n_in: int, n_out: int) -> nn.Sequential:
    convolutions = nn.Conv2d(n_in, n_out, 3, padding=1), nn.Conv2d(n_out, n_out, 3, padding=1)
    return nn.Sequential(convolutions[0], nn.ReLU(inplace=True), convolutions[1], nn.ReLU(inplace=True))


def load(weights: Path, precision: str) -> nn.Module:
    """The network of a file of `networks.save_weights`, channels last, ready to predict in fp32 or bf16.

    Raises ValueError where it does not answer the file's example within 1e-4.
    """
    with np.load(weights) as file:
        values = [file[f"w{index}"] for index in range(sum(name.startswith("w") for name in file.files))]
        example, expected = torch.from_numpy(file["input"]), torch.from_numpy(file["output"])
    network = _unet(values) if values else Identity()
    network = network.eval().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        error = (network(example) - expected).abs().max().item()
    if not error <= CLOSE:
        raise ValueError(f"torch differs from ONNX Runtime by {error:.2g}")
    return network.to(torch.bfloat16) if precision == "bf16" else network


def _unet(values: list[np.ndarray]) -> Unet:
    n_up = sum(value.shape[2:] == (2, 2) for value in values)
    network = Unet(len(values[0]), n_up, len(values[-1]))
    with torch.no_grad():
        for parameter, value in zip(network.in_graph_order(), values, strict=True):
            if parameter.shape != value.shape:
                raise ValueError(f"{tuple(parameter.shape)} in torch, {value.shape} in the file")
            parameter.copy_(torch.from_numpy(value))
    return network
