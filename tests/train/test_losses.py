"""Losses against NumPy loops; ignored pixels cost nothing, whatever is predicted there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.errors import ConfigError
from wsi_seg.train.config import LossTerm
from wsi_seg.train.method.losses import make_loss, nearness

torch.set_num_threads(1)

NAMES = ["cross-entropy", "dice", "focal", "tversky", "boundary"]


def term(name: str, **options: Any) -> LossTerm:
    return LossTerm(name=name, **options)  # type: ignore[arg-type]


def batch(seed: int, n_classes: int, ignored: float, size: tuple[int, int] = (7, 9)) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (2, n_classes, *size))
    labels = rng.integers(0, n_classes, (2, *size))
    labels[rng.random(labels.shape) < ignored] = IGNORE
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)


def naive(term: LossTerm, logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The same loss, pixel by pixel in float64."""
    x, y = logits.double().numpy(), labels.numpy()
    p = np.exp(x - x.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    n_classes = x.shape[1]
    weights = term.class_weights or [1.0] * n_classes
    if term.name in ("dice", "tversky"):
        alpha, beta = (0.5, 0.5) if term.name == "dice" else (term.alpha, term.beta)
        losses, counted = 0.0, 0.0
        for c in range(n_classes):
            true = p[:, c][y == c].sum()
            false = p[:, c][(y != c) & (y != IGNORE)].sum()
            missed = (1 - p[:, c][y == c]).sum()
            if (y == c).any():
                losses += weights[c] * (1 - true / (true + alpha * false + beta * missed))
                counted += weights[c]
        return losses / counted if counted else 0.0
    total, counted = 0.0, 0.0
    near = naive_nearness(y, term.boundary_sigma) if term.name == "boundary" else None
    for n, i, j in np.argwhere(y != IGNORE):
        c = y[n, i, j]
        log_p = math.log(p[n, c, i, j])
        weight = weights[c] * (1 + term.boundary_weight * near[n, i, j] if near is not None else 1)
        cost = -log_p
        if term.name == "focal":
            cost *= (1 - p[n, c, i, j]) ** term.gamma
        if term.name == "cross-entropy":
            cost = (1 - term.label_smoothing) * cost - term.label_smoothing * np.log(p[n, :, i, j]).mean()
        total, counted = total + weight * cost, counted + weight
    return total / counted if counted else 0.0


def naive_nearness(labels: np.ndarray, sigma: float) -> np.ndarray:
    """From the distance to every border pixel within the reach."""
    near = np.zeros(labels.shape)
    height, width = labels.shape[1:]
    reach = math.ceil(3 * sigma)
    for n in range(len(labels)):
        border = []
        for y in range(height):
            for x in range(width):
                around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
                inside = [labels[n, v, u] for v, u in around if 0 <= v < height and 0 <= u < width]
                if labels[n, y, x] != IGNORE and any(k not in (labels[n, y, x], IGNORE) for k in inside):
                    border.append((y, x))
        for y in range(height):
            for x in range(width):
                squares = [
                    (y - v) ** 2 + (x - u) ** 2 for v, u in border if abs(y - v) <= reach and abs(x - u) <= reach
                ]
                if squares:
                    near[n, y, x] = math.exp(-min(squares) / (2 * sigma**2))
    return near


@settings(max_examples=40)
@given(
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 2**32 - 1),
    n_classes=st.integers(2, 4),
    ignored=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    weighted=st.booleans(),
    strength=st.sampled_from([0.0, 0.2, 0.8]),
)
def test_a_loss_equals_the_naive_one(
    name: str, seed: int, n_classes: int, ignored: float, weighted: bool, strength: float
) -> None:
    logits, labels = batch(seed, n_classes, ignored)
    options: dict[str, Any] = {"gamma": 3 * strength, "alpha": strength, "label_smoothing": strength}
    options |= {"boundary_weight": 5 * strength, "boundary_sigma": 0.5 + strength}
    if weighted:
        options["class_weights"] = [0.5 * (c + 1) for c in range(n_classes)]
    one = term(name, **options)
    assert float(make_loss([one], n_classes)(logits, labels)) == pytest.approx(naive(one, logits, labels), rel=1e-4)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), sigma=st.sampled_from([0.4, 1.0, 2.5, 9.0]))
def test_nearness_equals_the_distance_to_every_border_pixel(seed: int, sigma: float) -> None:
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 2, (1, 3, 4)), np.ones((1, 4, 4), int))
    labels[rng.random(labels.shape) < 0.05] = IGNORE
    np.testing.assert_allclose(nearness(torch.tensor(labels), sigma), naive_nearness(labels, sigma), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rubbish", [0.0, 1e30, math.inf, math.nan])
def test_what_is_predicted_on_ignored_pixels_changes_nothing(name: str, rubbish: float) -> None:
    logits, labels = batch(3, 3, ignored=0.4)
    changed = logits.clone()
    changed.permute(0, 2, 3, 1)[labels == IGNORE] = rubbish
    loss = make_loss([term(name)], 3)
    results = []
    for x in (logits, changed):
        x.requires_grad_()
        value = loss(x, labels)
        value.backward()
        results.append((value.detach(), x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    ignored = labels == IGNORE
    assert results[1][1].permute(0, 2, 3, 1)[ignored].abs().max() == 0
    assert results[1][1].permute(0, 2, 3, 1)[~ignored].abs().min() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_ignored_pixels_costs_zero_without_gradient(name: str) -> None:
    logits = torch.full((1, 3, 4, 4), math.nan, requires_grad=True)
    value = make_loss([term(name)], 3)(logits, torch.full((1, 4, 4), IGNORE))
    value.backward()
    assert float(value.detach()) == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_float32(name: str, dtype: torch.dtype) -> None:
    logits, labels = batch(5, 3, ignored=0.1, size=(300, 300))  # more pixels than float16 can count
    half = (logits * 20).to(dtype).requires_grad_()
    loss = make_loss([term(name, gamma=0.5)], 3)
    value = loss(half, labels)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(half.float(), labels))
    assert half.grad is not None
    assert half.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_certain_and_right_prediction_costs_nothing_and_a_wrong_one_much(name: str) -> None:
    labels = torch.zeros(1, 6, 6, dtype=torch.int64)
    labels[:, :, 3:] = 1
    right = 100.0 * torch.nn.functional.one_hot(labels, 2).permute(0, 3, 1, 2)
    loss = make_loss([term(name, gamma=0.5)], 2)
    right.requires_grad_()
    value = loss(right, labels)
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-6)
    assert right.grad is not None
    assert right.grad.isfinite().all()
    assert float(loss(right.detach().flip(1), labels)) > 0.9


def test_dice_counts_only_classes_that_the_batch_names() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 0] = 100.0
    assert float(make_loss([term("dice")], 3)(logits, labels)) == pytest.approx(0, abs=1e-6)


def test_terms_add_up_with_their_weights() -> None:
    logits, labels = batch(1, 3, ignored=0.2)
    terms = [term("cross-entropy", weight=0.5), term("dice", weight=2.0), term("focal")]
    single = [float(make_loss([one], 3)(logits, labels)) for one in terms]
    assert float(make_loss(terms, 3)(logits, labels)) == pytest.approx(sum(single))


def test_class_weights_of_another_length_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 class weights; there are 3 classes"):
        make_loss([term("dice", class_weights=[1.0, 2.0])], 3)
