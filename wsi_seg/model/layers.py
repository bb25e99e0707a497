"""Blocks that the convolutional networks are built of. Knows no architecture."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SeparableConv(nn.Module):  # type: ignore[misc]
    """A 3x3 filter per channel, then a 1x1 convolution over channels; no bias (Sifre 2014; arXiv:1704.04861)."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(n_in, n_in, 3, stride, 1, groups=n_in, bias=False)
        self.pointwise = nn.Conv2d(n_in, n_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_in, H, W) -> (N, n_out, ceil(H / stride), ceil(W / stride))."""
        return self.pointwise(self.depthwise(x))


IMAGE_CHANNELS = 3
"""Convolutions on the image itself stay whole: three filters would be all a separable one could see."""


class ConvUnit(nn.Module):  # type: ignore[misc]
    """Bias-free 3x3 convolution, batch normalisation, ReLU (arXiv:1502.03167)."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1, separable: bool = False) -> None:
        super().__init__()
        if separable and n_in > IMAGE_CHANNELS:
            self.conv = SeparableConv(n_in, n_out, stride)
        else:
            self.conv = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(n_out)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_in, H, W) -> (N, n_out, ceil(H / stride), ceil(W / stride)), >= 0."""
        return self.act(self.norm(self.conv(x)))


def double_conv(n_in: int, n_out: int, separable: bool = False, stride: int = 1) -> nn.Sequential:
    """Two convolution units; the first one strides."""
    return nn.Sequential(ConvUnit(n_in, n_out, stride, separable), ConvUnit(n_out, n_out, 1, separable))


def first_stage(width: int, stem_stride: int, separable: bool) -> nn.Sequential:
    """The image to `width` channels at 1 / stem_stride.

    A stem's kernel is twice its stride wide, so that every output sees its own block of px and as much around it on
    each side.
    """
    if stem_stride == 1:
        return double_conv(IMAGE_CHANNELS, width, separable)
    stem = nn.Conv2d(IMAGE_CHANNELS, width, 2 * stem_stride, stem_stride, stem_stride // 2, bias=False)
    return nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU(inplace=True), double_conv(width, width, separable))


def down_stage(n_in: int, n_out: int, down: str, separable: bool) -> nn.Sequential:
    """Half the size: max pooling (`pool`) before a double block, or a first convolution of stride 2 (`stride`)."""
    if down == "stride":
        return double_conv(n_in, n_out, separable, stride=2)
    return nn.Sequential(nn.MaxPool2d(2), double_conv(n_in, n_out, separable))


class Up(nn.Module):  # type: ignore[misc]
    """Twice the size: `transposed` convolution of 2x2, or `resize`: 1x1 convolution, bilinear.

    Interpolation and 1x1 convolution commute; convolving first costs a quarter.
    """

    def __init__(self, n_in: int, n_out: int, kind: str) -> None:
        super().__init__()
        self.resize = kind == "resize"
        if self.resize:
            self.conv = nn.Conv2d(n_in, n_out, 1, bias=False)
        else:
            self.conv = nn.ConvTranspose2d(n_in, n_out, 2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_in, H, W) -> (N, n_out, 2 H, 2 W)."""
        x = self.conv(x)
        return nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear") if self.resize else x


class UpStage(nn.Module):  # type: ignore[misc]
    """Deeper features up-sampled, joined with the skips of this size, double block."""

    def __init__(self, n_deep: int, n_skips: int, n_out: int, up: str, separable: bool) -> None:
        super().__init__()
        self.up = Up(n_deep, n_out, up)
        self.block = double_conv(n_out + n_skips, n_out, separable)

    def forward(self, deep: Tensor, *skips: Tensor) -> Tensor:
        """(N, n_deep, H, W) and skips (N, ., 2 H, 2 W) -> (N, n_out, 2 H, 2 W)."""
        return self.block(torch.cat([*skips, self.up(deep)], dim=1))


class Head(nn.Module):  # type: ignore[misc]
    """Features to logits at `stride` times their size: r*r values per class and position, then laid out as px.

    Sub-pixel convolution (Shi et al. 2016, arXiv:1609.05158); starts with equal values per position, as
    nearest-neighbour up-sampling would give (Aitken et al. 2017, arXiv:1707.02937).
    """

    def __init__(self, n_in: int, n_classes: int, stride: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.conv = nn.Conv2d(n_in, n_classes * stride**2, 1)
        self.shuffle = nn.PixelShuffle(stride) if stride > 1 else nn.Identity()
        with torch.no_grad():
            weight = nn.init.kaiming_normal_(torch.empty(n_classes, n_in, 1, 1), nonlinearity="linear")
            self.conv.weight.copy_(weight.repeat_interleave(stride**2, dim=0))
            self.conv.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_in, H, W) -> (N, C, stride H, stride W)."""
        return self.shuffle(self.conv(self.dropout(x)))


def initialise(module: nn.Module) -> None:
    """Kaiming normal for every convolution without bias below `module` (arXiv:1502.01852); norms stay 1 and 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d) and part.bias is None:
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
