"""A trained network's 3x3 convolutions as depthwise-separable ones: the nearest there are, for fine-tuning.

A kernel W[o, i, y, x] becomes pointwise[o, i] * depthwise[i, y, x]: per input channel the best approximation of rank
one in the least-squares sense (Eckart and Young 1936, DOI 10.1007/BF02288367).
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from wsi_seg.model.layers import IMAGE_CHANNELS, SeparableConv
from wsi_seg.model.network import Network


def separable(network: Network) -> Network:
    """A copy of `network` with every bias-free 3x3 convolution made separable, but those on the image itself.

    Its tensors are named as if it had been built with `separable=True`. Accuracy is lost: recalibrate the batch norms
    and fine-tune.
    """
    copy = deepcopy(network)
    for parent in list(copy.modules()):
        for name, child in list(parent.named_children()):
            if _convertible(child):
                setattr(parent, name, _converted(child))
    return copy


def _convertible(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (3, 3)
        and module.padding == (1, 1)
        and module.groups == 1
        and module.bias is None
        and module.in_channels > IMAGE_CHANNELS
    )


def _converted(conv: nn.Conv2d) -> SeparableConv:
    made = SeparableConv(conv.in_channels, conv.out_channels, conv.stride[0])
    made.to(conv.weight).train(conv.training)
    depthwise, pointwise = rank_one(conv.weight.detach())
    with torch.no_grad():
        made.depthwise.weight.copy_(depthwise)
        made.pointwise.weight.copy_(pointwise)
    for name in ("depthwise", "pointwise"):
        getattr(made, name).weight.requires_grad_(conv.weight.requires_grad)
    return made


def rank_one(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(O, I, 3, 3) -> depthwise (I, 1, 3, 3) of unit norm, pointwise (O, I, 1, 1)."""
    n_out, n_in = weight.shape[:2]
    matrices = weight.permute(1, 0, 2, 3).reshape(n_in, n_out, 9).double()
    left, size, right = torch.linalg.svd(matrices, full_matrices=False)
    pointwise = (left[:, :, 0] * size[:, :1]).T.reshape(n_out, n_in, 1, 1)
    return right[:, 0].reshape(n_in, 1, 3, 3).to(weight), pointwise.to(weight)
