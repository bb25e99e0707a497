"""U-Net decoder on a ResNet-18 or -34 encoder: He et al. 2016, DOI 10.1109/CVPR.2016.90 (arXiv:1512.03385).

The encoder's tensors are named and shaped as torchvision names them (width 64, depth 4), so that a local file of
pretrained weights loads.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from wsi_seg.model.layers import IMAGE_CHANNELS, Head, SeparableConv, UpStage, initialise
from wsi_seg.model.network import NetworkOptions, UShaped

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Basic blocks per layer."""
DEEPEST = 4
"""Layers of a ResNet."""
STEM_STRIDE = 2


@dataclass(frozen=True, slots=True)
class ResNetUNetOptions(NetworkOptions):
    """What a ResNet U-Net can be; `depth`: its layers in use, at most `DEEPEST`; `width` 64 for pretrained weights."""

    resnet_layers: int = 18
    """18 or 34."""
    up: str = "resize"
    """`resize` or `transposed`."""
    separable: bool = False
    """Depthwise-separable convolutions but for the stem; then pretrained files do not fit."""


class BasicBlock(nn.Module):  # type: ignore[misc]
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int, separable: bool) -> None:
        super().__init__()
        self.conv1 = _conv(n_in, n_out, stride, separable)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = _conv(n_out, n_out, 1, separable)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_in, H, W) -> (N, n_out, H / stride, W / stride), >= 0."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNetEncoder(nn.Module):  # type: ignore[misc]
    """Stem and layers of a ResNet, without its classifier."""

    def __init__(self, options: ResNetUNetOptions) -> None:
        super().__init__()
        n_in = options.width
        self.conv1 = nn.Conv2d(IMAGE_CHANNELS, n_in, 7, STEM_STRIDE, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(n_in)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for index, n_blocks in enumerate(BLOCKS[options.resnet_layers][: options.depth]):
            n_out = options.width * 2**index
            strides = [1 if index == 0 else 2] + [1] * (n_blocks - 1)
            blocks = [
                BasicBlock(n_out if k else n_in, n_out, stride, options.separable) for k, stride in enumerate(strides)
            ]
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
            n_in = n_out

    def stages(self) -> tuple[nn.Module, ...]:
        """Stem, then the layers; the first one with the pooling before it."""
        layers = [part for name, part in self.named_children() if name.startswith("layer")]
        stem = nn.Sequential(self.conv1, self.bn1, self.relu)
        return (stem, nn.Sequential(self.maxpool, layers[0]), *layers[1:])


class ResNetUNet(UShaped):
    """ResNet encoder, U-Net decoder; output stride = 2 * 2**depth. The head predicts the stem's px as sub-pixels."""

    def __init__(self, n_classes: int, options: ResNetUNetOptions = ResNetUNetOptions()) -> None:
        width = options.width
        widths = [width] + [width * 2**index for index in range(options.depth)]  # of stem and layers
        super().__init__(n_classes, STEM_STRIDE * 2**options.depth, widths[-1], options.checkpointing)
        self.encoder = ResNetEncoder(options)
        self.decoder = nn.ModuleList(
            UpStage(deep, skip, skip, options.up, options.separable)
            for deep, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        initialise(self)
        self.head = Head(width, n_classes, STEM_STRIDE, options.dropout)

    def encoder_stages(self) -> tuple[nn.Module, ...]:
        """The stem, at half the size, and each layer."""
        stages: tuple[nn.Module, ...] = self.encoder.stages()
        return stages


def _conv(n_in: int, n_out: int, stride: int, separable: bool) -> nn.Module:
    return SeparableConv(n_in, n_out, stride) if separable else nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
