"""Adapting to an unlabelled domain: a discriminator tells the domains apart, the network unlearns what it uses.

Both losses are made for one backward pass over one optimiser: the discriminator's parameters get the gradient that
makes it better, the network's the one that makes it worse. Sources: Ganin et al. 2016, arXiv:1505.07818 (features);
Tsai et al. 2018, arXiv:1802.10349 (outputs). Knows no segmentation network.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class GradientReversal(torch.autograd.Function):  # type: ignore[misc]
    """The identity whose gradient is multiplied by -factor."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        """`x`, unchanged."""
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """-factor · gradient; none for the factor."""
        return -ctx.factor * gradient, None


def reverse_gradient(x: torch.Tensor, factor: float) -> torch.Tensor:
    """`x`, whose gradient is multiplied by -`factor` on the way back."""
    reversed_: torch.Tensor = GradientReversal.apply(x, factor)
    return reversed_


class FeatureDiscriminator(nn.Sequential):  # type: ignore[misc]
    """Features (N, channels, h, w) -> logits (N, 1, h, w): positive where it believes in the target domain.

    Per position, and without normalisation, which would tell the domains of a batch apart by itself.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, 1, 1),
        )  # fmt: skip


class OutputDiscriminator(nn.Sequential):  # type: ignore[misc]
    """Probabilities (N, n_classes, H, W) -> logits (N, 1, H/8, W/8) by patches; positive: the target domain."""

    def __init__(self, n_classes: int, width: int = 32) -> None:
        super().__init__(
            nn.Conv2d(n_classes, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 3, padding=1),
        )  # fmt: skip


def feature_loss(discriminator: nn.Module, source: torch.Tensor, target: torch.Tensor, factor: float) -> torch.Tensor:
    """Domain loss on features (N, C, h, w) of both domains, reversed towards the network; scalar float32.

    The discriminator learns at full strength whatever `factor` is.
    """
    return _told_apart(discriminator, reverse_gradient(source, factor), reverse_gradient(target, factor))


def output_loss(discriminator: nn.Module, source: torch.Tensor, target: torch.Tensor, factor: float) -> torch.Tensor:
    """Domain loss on logits (N, C, H, W), and `factor` times the adversarial loss; scalar float32.

    The adversarial half asks that predictions on the target domain look like those on the source, through a
    discriminator that stands still; it reaches the target's logits only.
    """
    source, target = torch.softmax(source.float(), dim=1), torch.softmax(target.float(), dim=1)
    standing = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    verdict = torch.func.functional_call(discriminator, standing, (target,))
    fooled = domain_loss(verdict, is_target=False)
    return _told_apart(discriminator, source.detach(), target.detach()) + factor * fooled


def domain_loss(verdict: torch.Tensor, *, is_target: bool) -> torch.Tensor:
    """Mean binary cross entropy of a discriminator's logits with the one domain that all of them come from."""
    verdict = verdict.float()
    return functional.binary_cross_entropy_with_logits(verdict, torch.full_like(verdict, float(is_target)))


def domain_schedule(progress: float, steepness: float = 10.0) -> float:
    """Share of the full factor at `progress` (0..1 of training): 2 / (1 + exp(-steepness · progress)) - 1.

    >>> [round(domain_schedule(progress), 3) for progress in (0, 0.1, 0.5, 1)]
    [0.0, 0.462, 0.987, 1.0]
    """
    return 2 / (1 + math.exp(-steepness * progress)) - 1


def _told_apart(discriminator: nn.Module, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    verdicts = domain_loss(discriminator(source), is_target=False), domain_loss(discriminator(target), is_target=True)
    return sum(verdicts) / 2
