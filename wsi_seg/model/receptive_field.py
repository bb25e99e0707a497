"""How much context a pixel of the output needs: measured by the gradient of a copy in which nothing can cancel.

In the copy all weights are positive and equal, norms do nothing and maxima are means: an input pixel then has a
gradient exactly where the structure of the network lets it through, whatever the trained weights are.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from wsi_seg.model.network import Network

LARGEST = 4096
"""Side of the largest input tried, px; context that reaches its border counts as unbounded."""


def receptive_halo(network: Network, largest: int = LARGEST) -> int | None:
    """Context per side in px that any output pixel depends on, at the worst phase of the network's grid.

    None: unbounded (attention is tied to the tile; a global pooling reaches every border).
    """
    if not network.local:
        return None
    copy = _transparent(network)
    side = 8 * network.output_stride
    while side <= largest:
        halo = _reach(copy, side, network.output_stride)
        if halo is not None:
            return halo
        side *= 2
    return None


def _reach(network: nn.Module, side: int, stride: int) -> int | None:
    """Largest distance over which rows act on a row, over all phases; None where the border is reached."""
    x = torch.ones(1, 3, side, stride, dtype=torch.float64, requires_grad=True)
    middle = side // 2 // stride * stride
    rows = network(x)[0].sum(dim=(0, 2))  # one value per row
    halo = 0
    for row in range(middle, middle + stride):
        (gradient,) = torch.autograd.grad(rows[row], x, retain_graph=True)
        reached = gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
        low, high = int(reached[0]), int(reached[-1])
        if low == 0 or high == side - 1:
            return None
        halo = max(halo, row - low, high - row)
    return halo


def _transparent(network: Network) -> Network:
    """A copy in double precision through which every dependence shows in the gradient."""
    copy = deepcopy(network)
    copy.double().eval()
    copy.checkpointing = False
    for parent in list(copy.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
            elif isinstance(child, _BatchNorm):
                setattr(parent, name, nn.Identity())
            elif isinstance(child, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.constant_(child.weight, 1 / child.weight[0].numel())
                if child.bias is not None:
                    nn.init.zeros_(child.bias)
    return copy
