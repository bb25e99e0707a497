"""Jitter of H&E stain in optical density: each stain's amount is scaled and shifted, per patch.

Owns the step from colour to amounts and back. Source: Tellez et al. 2018, doi:10.1109/TMI.2018.2820199, with the stain
vectors of Ruifrok and Johnston 2001 that `he-stain` uses. As there, the residual is a third stain.
"""

from __future__ import annotations

import numpy as np
import torch

from wsi_seg.model.he_stain import unmixing_matrix

WHITE = 256.0
"""Density 0 is (255 + 1) / 256, so that black, (0 + 1) / 256, has a density too."""


def jitter_stain(images: torch.Tensor, stain: float, shift: float, generator: torch.Generator) -> torch.Tensor:
    """`images` (N, 3, H, W) float32 in 0..1 with amounts a -> a (1 + u) + v, u in ±`stain`, v in ±`shift`.

    `shift` is in units of optical density (natural logarithm). Result in 0..1.
    """
    unmixing = torch.tensor(unmixing_matrix(), dtype=torch.float32)
    mixing = torch.tensor(np.linalg.inv(unmixing_matrix()), dtype=torch.float32)
    n = len(images)
    factors = 1 + stain * (torch.rand((n, 1, 3), generator=generator) * 2 - 1)
    amounts = shift * (torch.rand((n, 1, 3), generator=generator) * 2 - 1)
    # Rows are densities: d @ unmixing · factor @ mixing, transposed for (3, H·W) columns.
    change = ((unmixing * factors) @ mixing).transpose(1, 2).to(images.device)
    offset = (amounts @ mixing).transpose(1, 2).to(images.device)
    logarithm = torch.log(images.flatten(2) * (255 / WHITE) + 1 / WHITE)  # minus the density
    changed = torch.baddbmm(-offset, change, logarithm).exp_()
    return changed.mul_(WHITE / 255).sub_(1 / 255).clamp_(0, 1).view_as(images)
