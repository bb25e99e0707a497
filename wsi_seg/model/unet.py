"""U-Net: Ronneberger, Fischer and Brox 2015, DOI 10.1007/978-3-319-24574-4_28 (arXiv:1505.04597).

With batch normalisation, padded convolutions, and a choice of how to come down and up; a stem of stride 2 or 4 makes it
as cheap as a quarter or a sixteenth, its head then predicts sub-pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from wsi_seg.model.layers import Head, UpStage, down_stage, first_stage, initialise
from wsi_seg.model.network import NetworkOptions, UShaped


@dataclass(frozen=True, slots=True)
class UNetOptions(NetworkOptions):
    """What a U-Net can be."""

    stem_stride: int = 1
    """Down-sampling before the first stage: 1, 2 or 4."""
    down: str = "pool"
    """`pool` or `stride`."""
    up: str = "resize"
    """`resize` or `transposed`."""
    separable: bool = False
    """Depthwise-separable convolutions."""

    @property
    def widths(self) -> list[int]:
        """Channels of each stage, finest first."""
        return [self.width * 2**level for level in range(self.depth + 1)]


def conv_encoder(options: UNetOptions) -> nn.ModuleList:
    """Encoder stages, finest first: features at 1 / stem_stride, then each at half the size."""
    widths = options.widths
    stages = [first_stage(widths[0], options.stem_stride, options.separable)]
    for n_in, n_out in pairwise(widths):
        stages.append(down_stage(n_in, n_out, options.down, options.separable))
    return nn.ModuleList(stages)


class UNet(UShaped):
    """U-Net; output stride = stem_stride * 2**depth. Features: width * 2**i channels at 1 / (stem_stride * 2**i)."""

    def __init__(self, n_classes: int, options: UNetOptions = UNetOptions()) -> None:
        widths = options.widths
        super().__init__(n_classes, options.stem_stride * 2**options.depth, widths[-1], options.checkpointing)
        self.encoder = conv_encoder(options)
        self.decoder = nn.ModuleList(
            UpStage(2 * width, width, width, options.up, options.separable) for width in reversed(widths[:-1])
        )
        initialise(self)
        self.head = Head(widths[0], n_classes, options.stem_stride, options.dropout)
