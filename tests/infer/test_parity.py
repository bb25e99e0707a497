"""Agreement of two predictors: figures against plain sums, and limits that mean something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_seg.card import ModelCard, named_classes
from wsi_seg.infer import ModelSpec, RuntimeFacts, load_predictor
from wsi_seg.infer.parity import COUNTED_SHARE, agreement

SIDE = 32
FACTS = RuntimeFacts("numpy", "", "CPU", "fp32")


class Answers:
    """A predictor that gives prepared answers, one per tile."""

    facts = FACTS
    fixed_input = (None, None, None)

    def __init__(self, probabilities: NDArray[np.float32]) -> None:
        self._answers = probabilities
        self.n_channels = probabilities.shape[1]
        names = [f"class {index}" for index in range(max(2, self.n_channels))]
        self.card = ModelCard("answers", 0.5, named_classes(names), SIDE)

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._answers[batch[:, 0, 0, 0]]

    def close(self) -> None:
        pass


def numbered(n: int) -> NDArray[np.uint8]:
    tiles = np.zeros((n, SIDE, SIDE, 3), np.uint8)
    tiles[:, 0, 0, 0] = np.arange(n)
    return tiles


def random_answers(seed: int, n: int, channels: int) -> NDArray[np.float32]:
    logits = np.random.default_rng(seed).normal(size=(n, channels, SIDE, SIDE)) * 3
    if channels == 1:
        return (1 / (1 + np.exp(-logits))).astype(np.float32)
    values = np.exp(logits)
    return (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 3), channels=st.integers(1, 4))
def test_the_figures_are_those_of_plain_sums(seed: int, n: int, channels: int) -> None:
    a, b = random_answers(seed, n, channels), random_answers(seed + 1, n, channels)
    result = agreement(Answers(a), Answers(b), numbered(n))
    full = [np.concatenate([1 - x, x], axis=1) if channels == 1 else x for x in (a, b)]
    labels = [x.argmax(axis=1) for x in full]
    assert result.argmax_agreement == pytest.approx((labels[0] == labels[1]).mean())
    assert result.max_abs == pytest.approx(np.abs(a - b).max())
    assert result.mean_abs == pytest.approx(np.abs(a - b).mean())
    for index in range(full[0].shape[1]):
        in_a, in_b, mass = labels[0] == index, labels[1] == index, full[0][:, index].astype(np.float64)
        if in_a.sum() < COUNTED_SHARE * in_a.size:
            assert result.dice[index] is None
            continue
        assert result.dice[index] == pytest.approx(2 * (in_a & in_b).sum() / (in_a.sum() + in_b.sum()))
        expected = [2 * mass[x].sum() / (mass.sum() + x.sum()) for x in (in_a, in_b)]
        assert result.dice_loss[index] == pytest.approx(expected[0] - expected[1])


def test_a_predictor_agrees_with_itself() -> None:
    answers = Answers(random_answers(0, 2, 3))
    result = agreement(answers, answers, numbered(2))
    assert (result.argmax_agreement, result.max_abs, result.worst_dice_loss) == (1, 0, 0)
    assert result.sufficient


def test_undecided_pixels_cost_little_and_certain_ones_all() -> None:
    decided = np.zeros((1, 2, SIDE, SIDE), np.float32)
    decided[:, 0], decided[:, 1, :16] = 1, 1
    decided[:, 0, :16] = 0
    wrong = decided.copy()
    wrong[:, :, :4] = wrong[:, ::-1, :4]
    undecided = decided.copy()
    undecided[:, 1, :4], undecided[:, 0, :4] = 0.51, 0.49
    other = undecided.copy()
    other[:, :, :4] = other[:, ::-1, :4]
    lost = [
        agreement(Answers(a), Answers(b), numbered(1)).worst_dice_loss
        for a, b in ((decided, wrong), (undecided, other))
    ]
    assert lost[0] > 0.1
    assert lost[1] < 0.02  # 12 % of the pixels changed their class


def test_what_is_no_number_agrees_with_nothing() -> None:
    answers = random_answers(0, 1, 2)
    broken = np.full_like(answers, np.nan)
    result = agreement(Answers(answers), Answers(broken), numbered(1))
    assert result.argmax_agreement == 0
    assert result.max_abs == 1
    assert agreement(Answers(broken), Answers(broken), numbered(1)).argmax_agreement == 0


def test_a_rare_class_does_not_decide() -> None:
    answers = np.zeros((1, 2, SIDE, SIDE), np.float32)
    answers[:, 0] = 1
    answers[:, :, 0, 0] = (0, 1)  # one px of 1024, below 0.1 %
    without = answers.copy()
    without[:, :, 0, 0] = (1, 0)
    result = agreement(Answers(answers), Answers(without), numbered(1))
    assert result.dice[1] is None
    assert result.worst_dice_loss < 0.005


def test_a_fixed_batch_compares_too(affine: Callable[..., Path], tissue_like: Callable[..., np.ndarray]) -> None:
    card = ModelCard("m", 0.5, named_classes(["a", "b"]), 32, activation="softmax")
    path = affine(np.array([[1.0, 0, 0], [0, 1.0, 0]]), card=card, dims=(2, 32, 32))
    predictor = load_predictor(ModelSpec(str(path)))
    assert agreement(predictor, predictor, tissue_like(3, 32)).argmax_agreement == 1
