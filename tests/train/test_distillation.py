"""Distillation: the formula, what is left out, and that a student follows its teacher where no labels exist."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.train.method.distillation import distillation_loss

torch.set_num_threads(1)


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(seed))


def naive(student: torch.Tensor, teacher: torch.Tensor, temperature: float, valid: torch.Tensor) -> float:
    p, q = (
        np.exp(x.double().numpy() / temperature) / np.exp(x.double().numpy() / temperature).sum(1, keepdims=True)
        for x in (teacher, student)
    )
    divergence = (p * np.log(p / q)).sum(1)[valid.numpy()]
    return temperature**2 * divergence.mean() if divergence.size else 0.0


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), temperature=st.sampled_from([0.5, 1.0, 4.0]), ignored=st.sampled_from([0.0, 0.5, 1]))
def test_it_is_the_divergence_of_the_valid_pixels_times_t_squared(
    seed: int, temperature: float, ignored: float
) -> None:
    student, teacher = logits(seed), logits(seed + 1)
    labels = torch.where(torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(seed)) < ignored, IGNORE, 1)
    value = distillation_loss(student, teacher, temperature, labels)
    assert float(value) == pytest.approx(naive(student, teacher, temperature, labels != IGNORE), rel=1e-4, abs=1e-6)
    if ignored == 0:
        assert torch.equal(value, distillation_loss(student, teacher, temperature))


def test_no_gradient_reaches_the_teacher_or_ignored_pixels_even_with_nan_there() -> None:
    student, teacher = logits(0), logits(1)
    labels = torch.zeros(2, 5, 6, dtype=torch.int64)
    labels[:, 2:] = IGNORE
    student[:, :, 2:], teacher[:, :, 2:] = torch.nan, torch.inf
    student.requires_grad_()
    teacher.requires_grad_()
    value = distillation_loss(student, teacher, 2.0, labels)
    value.backward()
    assert value.isfinite()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad[:, :, 2:].abs().max() == 0
    assert student.grad[:, :, :2].abs().min() > 0


def test_the_gradient_keeps_its_size_over_temperatures() -> None:
    norms = []
    for temperature in (4.0, 16.0):
        student = (0.1 * logits(0)).requires_grad_()
        distillation_loss(student, 0.1 * logits(1), temperature).backward()
        assert student.grad is not None
        norms.append(float(student.grad.norm()))
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


def test_float16_logits_give_a_finite_loss() -> None:
    assert distillation_loss(logits(0).half() * 1000, logits(1).half() * 1000, 1.0).isfinite()


def test_a_student_learns_its_teacher_where_no_labels_exist() -> None:
    torch.manual_seed(0)
    teacher, student = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)
    images = torch.randn(4, 3, 12, 12)
    with torch.no_grad():
        soft = 3 * teacher(images)
        before = float((student(images).argmax(1) == soft.argmax(1)).float().mean())
    optimiser = torch.optim.Adam(student.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        distillation_loss(student(images), soft, 2.0).backward()
        optimiser.step()
    after = float((student(images).argmax(1) == soft.argmax(1)).float().mean())
    assert before < 0.8
    assert after > 0.97
