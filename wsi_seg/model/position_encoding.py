"""Where a token lies, as sines and cosines of its coordinates in y and x, comparable between sizes and resolutions.

Sinusoids of Vaswani et al. 2017 (arXiv:1706.03762) in two dimensions. A coordinate is measured in tokens of a reference
grid: either the field of view is stretched over the reference, or the known resolution says how far apart tokens lie.
"""

from __future__ import annotations

import torch
from torch import Tensor

LONGEST = 10_000.0
"""Ratio of the longest to the shortest wavelength."""


def position_encoding(
    size: tuple[int, int], channels: int, reference: tuple[int, int], mpp_ratio: float | None = None
) -> Tensor:
    """(h, w, channels) float32 in [-1, 1]: the first half (and the odd one) of the channels code y, the others x.

    `mpp_ratio` None: whatever the size, the grid covers what the reference grid covers; token centres keep their place,
    so that the code of a finer grid lies between those of a coarser one. Otherwise um per token over that of the
    reference: tokens equally far apart in um differ by the same code, and a larger field of view goes on where the
    reference ends.
    """
    n_y = channels - channels // 2
    y = axis_encoding(_coordinates(size[0], reference[0], mpp_ratio), n_y)
    x = axis_encoding(_coordinates(size[1], reference[1], mpp_ratio), channels - n_y)
    return torch.cat([y[:, None].expand(-1, size[1], -1), x[None].expand(size[0], -1, -1)], dim=-1)


def axis_encoding(position: Tensor, channels: int) -> Tensor:
    """(n,) -> (n, channels): sine and cosine in turn, wavelengths from 2 pi to 2 pi `LONGEST` in a geometric series."""
    index = torch.arange(channels, device=position.device)
    pair = torch.div(index, 2, rounding_mode="floor")
    rate = LONGEST ** (-2.0 * pair / max(channels, 1))
    return torch.sin(position[:, None] * rate + (index % 2) * (torch.pi / 2))


def _coordinates(length: int, reference: int, mpp_ratio: float | None) -> Tensor:
    """Centres of `length` tokens, in tokens of the reference, whose first centre is 0."""
    centre = torch.arange(length).float() + 0.5
    return centre * (reference / length if mpp_ratio is None else mpp_ratio) - 0.5
