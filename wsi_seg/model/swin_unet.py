"""Swin-Unet: Cao et al. 2022, DOI 10.1007/978-3-031-25066-8_9 (arXiv:2105.05537).

Patch embedding of 4 px, Swin blocks, patch merging and expanding, skips joined by a linear layer. Unlike the paper, the
last expansion to pixels is the head itself (a sub-pixel prediction of C classes rather than of `width` features).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wsi_seg.model.layers import IMAGE_CHANNELS, Head
from wsi_seg.model.network import NetworkOptions, UShaped
from wsi_seg.model.position_encoding import position_encoding
from wsi_seg.model.window_attention import WindowAttention

PATCH = 4
"""Side of a token of the first stage, px."""
REFERENCE = (64, 64)
"""Tokens of the grid whose coordinates the position encoding uses: 256 px."""


@dataclass(frozen=True, slots=True)
class SwinUNetOptions(NetworkOptions):
    """What a Swin-Unet can be; `depth`: patch mergings, of which the paper has 3."""

    window: int = 8
    """Side of the attention window, tokens."""
    odd_sizes: str = "pad"
    """`pad`, `overlap` or `fit`; see window_attention."""
    position_encoding: bool = False
    """Add the sinusoidal code of where a token lies."""


class SwinBlock(nn.Module):  # type: ignore[misc]
    """Attention and a two-layer perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, channels: int, options: SwinUNetOptions, shifted: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, options.window, options.odd_sizes, shifted)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C)."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def swin_blocks(channels: int, options: SwinUNetOptions) -> nn.Sequential:
    """A pair of blocks: windows as they lie, windows shifted."""
    return nn.Sequential(SwinBlock(channels, options, False), SwinBlock(channels, options, True))


class Embed(nn.Module):  # type: ignore[misc]
    """The image as tokens of `PATCH` px, first blocks."""

    def __init__(self, options: SwinUNetOptions) -> None:
        super().__init__()
        self.project = nn.Conv2d(IMAGE_CHANNELS, options.width, PATCH, PATCH)
        self.norm = nn.LayerNorm(options.width)
        self.blocks = swin_blocks(options.width, options)
        self.encode_position = options.position_encoding
        self.mpp_ratio: float | None = None
        """um per px of the input over that of training, where it is known; see `position_encoding`."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, width, H / 4, W / 4)."""
        x = self.norm(self.project(x).permute(0, 2, 3, 1))
        if self.encode_position:
            code = position_encoding((x.shape[1], x.shape[2]), x.shape[3], REFERENCE, self.mpp_ratio)
            x = x + code.to(x)
        return self.blocks(x).permute(0, 3, 1, 2)


class Merge(nn.Module):  # type: ignore[misc]
    """Four tokens become one of twice the channels, blocks."""

    def __init__(self, n_in: int, options: SwinUNetOptions, last: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * n_in)
        self.reduce = nn.Linear(4 * n_in, 2 * n_in, bias=False)
        self.blocks = swin_blocks(2 * n_in, options)
        self.out = nn.LayerNorm(2 * n_in) if last else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_in, H, W) -> (N, 2 n_in, H / 2, W / 2)."""
        x = nn.functional.pixel_unshuffle(x, 2).permute(0, 2, 3, 1)
        return self.out(self.blocks(self.reduce(self.norm(x)))).permute(0, 3, 1, 2)


class Expand(nn.Module):  # type: ignore[misc]
    """A token becomes four of half the channels, joined with the skip, blocks."""

    def __init__(self, n_in: int, options: SwinUNetOptions) -> None:
        super().__init__()
        self.expand = nn.Linear(n_in, 2 * n_in, bias=False)
        self.norm = nn.LayerNorm(n_in // 2)
        self.join = nn.Linear(n_in, n_in // 2)
        self.blocks = swin_blocks(n_in // 2, options)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, n_in, H, W) and (N, n_in / 2, 2 H, 2 W) -> (N, n_in / 2, 2 H, 2 W)."""
        x = self.expand(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.norm(nn.functional.pixel_shuffle(x, 2).permute(0, 2, 3, 1))
        x = self.join(torch.cat([skip.permute(0, 2, 3, 1), x], dim=-1))
        return self.blocks(x).permute(0, 3, 1, 2)


class SwinHead(nn.Module):  # type: ignore[misc]
    """Tokens to logits of their pixels."""

    def __init__(self, width: int, n_classes: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.head = Head(width, n_classes, PATCH, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> (N, C, 4 H, 4 W)."""
        return self.head(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class SwinUNet(UShaped):
    """Swin-Unet; output stride = 4 * 2**depth. Attention is tied to the tile: its halo is unbounded."""

    local = False

    def __init__(self, n_classes: int, options: SwinUNetOptions = SwinUNetOptions()) -> None:
        widths = [options.width * 2**level for level in range(options.depth + 1)]
        super().__init__(n_classes, PATCH * 2**options.depth, widths[-1], options.checkpointing)
        self.traced_side = 2 * options.window + 1  # three windows a side at every level
        merges = (Merge(n, options, level == options.depth - 1) for level, n in enumerate(widths[:-1]))
        self.encoder = nn.ModuleList([Embed(options), *merges])
        self.decoder = nn.ModuleList(Expand(n, options) for n in reversed(widths[1:]))
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        self.head = SwinHead(options.width, n_classes, options.dropout)
