"""Domain adaptation: signs of gradients, and that a discriminator ends at chance where the network unlearns."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from wsi_seg.train.method.domain import (
    FeatureDiscriminator,
    OutputDiscriminator,
    domain_loss,
    domain_schedule,
    feature_loss,
    output_loss,
    reverse_gradient,
)

torch.set_num_threads(1)

Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor, float], torch.Tensor]


def test_reversal_is_the_identity_whose_gradient_has_the_other_sign() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    y = reverse_gradient(x, 0.3)
    assert torch.equal(y, x)
    (y**3).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, -0.3 * 3 * x.detach() ** 2)
    # Two reversals of factor 1 are the identity in the gradient too; numerically checked.
    assert torch.autograd.gradcheck(lambda z: reverse_gradient(reverse_gradient(z, 1.0), 1.0) ** 2, (x,))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (32, 32)])
def test_discriminators_answer_per_place(size: tuple[int, int]) -> None:
    assert FeatureDiscriminator(7)(torch.randn(2, 7, *size)).shape == (2, 1, *size)
    height, width = (8 * side for side in size)
    assert OutputDiscriminator(3)(torch.randn(2, 3, height, width)).shape == (2, 1, *size)


def test_domain_loss_is_zero_where_the_verdict_is_right() -> None:
    verdict = torch.full((1, 1, 2, 2), 50.0)
    assert float(domain_loss(verdict, is_target=True)) == pytest.approx(0)
    assert float(domain_loss(verdict, is_target=False)) == pytest.approx(50)


def test_the_schedule_rises_from_zero() -> None:
    values = [domain_schedule(step / 20, 10.0) for step in range(21)]
    assert values[0] == 0
    assert values == sorted(values)
    assert values[-1] == pytest.approx(1, abs=1e-3)


def gradients(loss: Loss, factor: float, discriminator: nn.Module) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randn(2, 3, 16, 16, generator=generator).requires_grad_() for _ in range(2))
    discriminator.zero_grad()
    loss(discriminator, source, target, factor).backward()
    weights = torch.cat([parameter.grad.flatten() for parameter in discriminator.parameters()])
    zero = torch.zeros_like(source)
    return *(zero if x.grad is None else x.grad for x in (source, target)), weights


@pytest.mark.parametrize(("loss", "kind"), [(feature_loss, FeatureDiscriminator), (output_loss, OutputDiscriminator)])
def test_the_factor_scales_the_networks_gradient_and_not_the_discriminators(
    loss: Loss, kind: Callable[[int], nn.Module]
) -> None:
    torch.manual_seed(0)
    discriminator = kind(3)
    once, twice, never = (gradients(loss, factor, discriminator) for factor in (1.0, 2.0, 0.0))
    torch.testing.assert_close(twice[0], 2 * once[0])
    torch.testing.assert_close(twice[1], 2 * once[1])
    assert once[1].abs().max() > 0
    assert (once[0].abs().max() > 0) == (loss is feature_loss)  # the source's outputs are the model to follow
    assert never[1].abs().max() == 0
    torch.testing.assert_close(once[2], never[2])
    assert once[2].abs().max() > 0


@pytest.mark.parametrize(("loss", "kind"), [(feature_loss, FeatureDiscriminator), (output_loss, OutputDiscriminator)])
def test_a_step_of_the_network_makes_the_discriminator_more_wrong_and_one_of_its_own_more_right(
    loss: Loss, kind: Callable[[int], nn.Module]
) -> None:
    torch.manual_seed(0)
    discriminator = kind(3)
    source, target = torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)

    def wrong(x: torch.Tensor, y: torch.Tensor) -> float:
        if loss is output_loss:
            x, y = x.softmax(1), y.softmax(1)
        with torch.no_grad():
            verdicts = discriminator(x), discriminator(y)
            return float(domain_loss(verdicts[0], is_target=False) + domain_loss(verdicts[1], is_target=True))

    x, y = source.clone().requires_grad_(), target.clone().requires_grad_()
    loss(discriminator, x, y, 1.0).backward()
    before = wrong(source, target)
    assert y.grad is not None
    moved = source if x.grad is None else source - 50 * x.grad
    assert wrong(moved, target - 50 * y.grad) > before
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.sub_(0.05 * parameter.grad)
    assert wrong(source, target) < before


def adapted(factor: float) -> tuple[float, float, float]:
    """Train classes on the source with features shared by both domains.

    Channel 0 of an image holds the class, channel 1 the domain. Returns the discriminator's accuracy, the class
    accuracy on the target, and how much more features depend on the domain than on the class. Features carry noise, or
    the faintest trace of the domain could be read.
    """
    torch.manual_seed(0)
    n, n_steps = 128, 150
    labels = torch.randint(0, 2, (n, 1, 1))
    domains = torch.tensor([-1.0, 1.0])
    images = [0.3 * torch.randn(n, 2, 1, 1) + torch.stack([2.0 * labels - 1, d.expand(n, 1, 1)], 1) for d in domains]
    encoder, head, discriminator = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 2, 1), FeatureDiscriminator(4, width=16)
    learning = [
        {"params": [*encoder.parameters(), *head.parameters()], "lr": 0.006},
        {"params": discriminator.parameters(), "lr": 0.02},
    ]
    optimiser = torch.optim.Adam(learning)
    for step in range(n_steps):
        optimiser.zero_grad()
        source, target = (encoder(x) + 0.3 * torch.randn(n, 4, 1, 1) for x in images)
        loss = functional.cross_entropy(head(source), labels)
        (loss + feature_loss(discriminator, source, target, factor * domain_schedule(step / n_steps))).backward()
        optimiser.step()
    with torch.no_grad():
        verdicts = [discriminator(features).sign() == d for features, d in zip((source, target), domains, strict=True)]
        right = head(encoder(images[1])).argmax(1) == labels
        weights = encoder.weight.norm(dim=0).flatten()
    return float(torch.cat(verdicts).float().mean()), float(right.float().mean()), float(weights[1] / weights[0])


def test_with_reversal_features_no_longer_tell_the_domain_and_still_tell_the_class() -> None:
    apart, _, told = adapted(0.0)
    mixed, right, untold = adapted(1.0)
    assert apart > 0.9
    assert mixed < 0.7
    assert right > 0.95
    assert untold < 0.2
    assert told > 0.3


def test_adversarial_outputs_pull_the_predictions_of_the_target_towards_those_of_the_source() -> None:
    gaps = []
    for factor in (0.0, 1.0):
        torch.manual_seed(0)
        source, shift = torch.randn(8, 2, 8, 8), nn.Parameter(torch.tensor([2.0, -2.0]).reshape(1, 2, 1, 1))
        noise = torch.randn(8, 2, 8, 8)
        discriminator = OutputDiscriminator(2, width=8)
        optimiser = torch.optim.Adam([{"params": [shift]}, {"params": discriminator.parameters()}], lr=0.04)
        for _ in range(80):
            optimiser.zero_grad()
            output_loss(discriminator, source, noise + shift, factor).backward()
            optimiser.step()
        target = (noise + shift).detach()
        gaps.append(float((target.softmax(1)[:, 0].mean() - source.softmax(1)[:, 0].mean()).abs()))
    assert gaps[0] > 0.3
    assert gaps[1] < 0.15
