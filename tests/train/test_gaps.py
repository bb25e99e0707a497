import torch
from hypothesis import given
from hypothesis import strategies as st

from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.train.config import LossTerm
from wsi_seg.train.method.losses import gaps, make_loss


def two_squares(gap: int) -> torch.Tensor:
    labels = torch.zeros((1, 20, 40), dtype=torch.int64)
    labels[:, 5:15, 5:15] = 1
    labels[:, 5:15, 15 + gap : 25 + gap] = 2
    return labels


@given(gap=st.integers(1, 8), radius=st.integers(1, 3))
def test_a_gap_up_to_twice_the_radius_is_one_and_all_else_is_nothing(gap: int, radius: int) -> None:
    found = gaps(two_squares(gap), radius)
    expected = torch.zeros((1, 20, 40))
    if gap <= 2 * radius:
        expected[:, 5:15, 15 : 15 + gap] = 1
    assert torch.equal(found, expected)


@given(away=st.integers(0, 4), radius=st.integers(1, 3))
def test_the_border_of_a_patch_is_no_other_side_of_a_gap(away: int, radius: int) -> None:
    labels = torch.zeros((1, 16, 20), dtype=torch.int64)
    labels[:, away:9, away:9] = 1
    assert gaps(labels, radius).sum() == 0
    assert gaps(labels.flip(1, 2), radius).sum() == 0


def test_ignored_px_neither_make_a_gap_nor_are_one() -> None:
    labels = two_squares(2)
    labels[labels == 2] = IGNORE
    assert gaps(labels, 2).sum() == 0
    labels = two_squares(2)
    labels[:, 5:10, 15] = IGNORE
    assert gaps(labels, 2)[:, 5:10, 15].sum() == 0


def test_closing_the_gap_costs_more_with_the_weight() -> None:
    labels = (two_squares(2) > 0).long()
    merged = torch.zeros((1, 2, 20, 40))
    merged[:, 1, 5:15, 5:27] = 5
    merged[:, 0] = 5 - merged[:, 1]
    costs = [make_loss([LossTerm(name="boundary", gap_weight=weight)], 2)(merged, labels) for weight in (0, 10)]
    assert costs[1] > 1.5 * costs[0]
    parted = torch.nn.functional.one_hot(labels, 2).permute(0, 3, 1, 2) * 5.0
    costs = [make_loss([LossTerm(name="boundary", gap_weight=weight)], 2)(parted, labels) for weight in (0, 10)]
    torch.testing.assert_close(costs[1], costs[0])
