"""Consistency: only confident pixels teach, the weak view is the teacher, and unlabelled images change the result."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from wsi_seg.train.augmentation.augment import Augment
from wsi_seg.train.config import AugmentConfig
from wsi_seg.train.method.consistency import consistency_loss, ramp_up

torch.set_num_threads(1)


def confident(classes: torch.Tensor, logit: float) -> torch.Tensor:
    return logit * functional.one_hot(classes, 3).permute(0, 3, 1, 2).float()


def test_it_is_the_cross_entropy_with_the_confident_classes_over_all_pixels() -> None:
    classes = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    weak = confident(classes, 0.1)
    weak[:, :, :2] *= 100
    strong = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    costs = functional.cross_entropy(strong, classes, reduction="none")
    assert float(consistency_loss(weak, strong, 0.9)) == pytest.approx(float(costs[:, :2].sum() / costs.numel()))
    assert float(consistency_loss(weak, strong, 0.0)) == pytest.approx(float(costs.mean()))
    valid = torch.ones(2, 4, 4, dtype=torch.bool)
    valid[:, 1:] = False
    assert float(consistency_loss(weak, strong, 0.9, valid)) == pytest.approx(float(costs[:, :1].mean()))


def test_no_gradient_reaches_the_weak_view_or_uncertain_pixels() -> None:
    weak = confident(torch.zeros(1, 4, 4, dtype=torch.int64), 20.0)
    weak[:, :, 2:] = 0
    weak.requires_grad_()
    strong = torch.zeros(1, 3, 4, 4)
    strong[:, :, 2:] = torch.nan
    strong.requires_grad_()
    value = consistency_loss(weak, strong, 0.9)
    value.backward()
    assert float(value.detach()) == pytest.approx(math.log(3) / 2)
    assert weak.grad is None
    assert strong.grad is not None
    assert strong.grad[:, :, 2:].abs().max() == 0
    assert strong.grad[:, :, :2].abs().max() > 0


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_without_a_confident_pixel_it_is_zero(value: float) -> None:
    strong = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = consistency_loss(torch.full((1, 3, 4, 4), value), strong, 0.9)
    loss.backward()
    assert float(loss.detach()) == 0
    assert strong.grad is not None
    assert strong.grad.abs().max() == 0


def test_the_ramp_rises_to_one() -> None:
    values = [ramp_up(epoch / 4, 5) for epoch in range(30)]
    assert values[0] == pytest.approx(math.exp(-5))
    assert values == sorted(values)
    assert values[20:] == [1.0] * 10
    assert ramp_up(0, 0) == 1


def test_unlabelled_images_carry_labels_to_a_change_of_colour_that_labels_never_showed() -> None:
    """Two colours, labelled as they are; the unlabelled ones teach that brightness does not matter."""
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.4
    labels = torch.zeros(8, 8, 8, dtype=torch.int64)
    labels[:, :, 4:] = 1
    images[:, 0, :, 4:] += 0.3
    darker = images - 0.25
    scores = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
        optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
        strong_view = Augment(AugmentConfig(brightness=0.4), 8)
        generator = torch.Generator().manual_seed(0)
        for step in range(120):
            optimiser.zero_grad()
            loss = functional.cross_entropy(10 * network(images - 0.5), labels)
            changed = strong_view.photometric(images, generator)
            unlabelled = consistency_loss(10 * network(images - 0.5), 10 * network(changed - 0.5), 0.8)
            (loss + weight * ramp_up(step, 20) * unlabelled).backward()
            optimiser.step()
        scores.append(float((network(darker - 0.5).argmax(1) == labels).float().mean()))
    assert scores[0] < 0.8
    assert scores[1] > 0.95
