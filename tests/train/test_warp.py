"""Geometry of augmentation: not a pixel off, and image and labels in step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.train.augmentation.warp import draw_points, sample, turn
from wsi_seg.train.config import AugmentConfig

torch.set_num_threads(1)

STILL: dict[str, Any] = {"flip": False, "rotate90": False}
EVERYTHING: dict[str, Any] = {"rotate": 180.0, "scale": (0.6, 1.6), "elastic": 6.0, "grid": 0.3}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(n: int, size: int, seed: int = 0, **options: Any) -> torch.Tensor:
    drawn = draw_points(AugmentConfig(**STILL, **options), n, size, generator(seed), torch.device("cpu"))
    assert drawn is not None
    return drawn


def coordinates(n: int, size: int) -> torch.Tensor:
    """Images (n, 2, size, size) whose channels are y and x."""
    line = torch.arange(size, dtype=torch.float32)
    return torch.stack(torch.meshgrid(line, line, indexing="ij")).expand(n, 2, size, size).clone()


@pytest.mark.parametrize("size", [16, 17])
def test_the_points_of_no_change_are_the_pixel_centres(size: int) -> None:
    still = points(2, size, scale=(1.0, 1.0 + 1e-12))
    images = torch.rand(2, 3, size, size, generator=generator())
    labels = torch.randint(0, 4, (2, size, size), generator=generator())
    moved = sample(images, labels, still)
    torch.testing.assert_close(moved[0], images, atol=1e-5, rtol=0)
    assert torch.equal(moved[1], labels)


@pytest.mark.parametrize("size", [16, 17])
def test_a_quarter_turn_by_sampling_is_the_exact_quarter_turn(size: int) -> None:
    quarter = points(1, size, scale=(1.0, 1.0 + 1e-12)).flip(1)  # y and x change places,
    quarter[:, 1] *= -1  # and x its sign: (y, x) -> (x, -y)
    images = torch.rand(1, 3, size, size, generator=generator())
    labels = torch.randint(0, 4, (1, size, size), generator=generator())
    moved = sample(images, labels, quarter)
    torch.testing.assert_close(moved[0], images.rot90(1, (2, 3)), atol=1e-5, rtol=0)
    assert torch.equal(moved[1], labels.rot90(1, (1, 2)))


@pytest.mark.parametrize("size", [16, 24])
def test_zooming_in_twice_is_bilinear_up_sampling_of_the_middle(size: int) -> None:
    images = torch.rand(1, 3, size, size, generator=generator())
    labels = torch.randint(0, 4, (1, size, size), generator=generator())
    moved = sample(images, labels, points(1, size, scale=(2.0, 2.0)))
    quarter = slice(size // 2, size // 2 + size)
    twice = functional.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(moved[0], twice[..., quarter, quarter], atol=1e-5, rtol=0)
    doubled = labels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(moved[1], doubled[:, quarter, quarter])


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), size=st.sampled_from([32, 45]))
def test_image_and_labels_are_read_at_the_same_points(seed: int, size: int) -> None:
    drawn = points(2, size, seed, **EVERYTHING)
    source = drawn + (size - 1) / 2
    codes = torch.arange(size * size).reshape(1, size, size).expand(2, -1, -1) % 251
    moved, labels = sample(coordinates(2, size), codes, drawn)
    inside = ((source >= 0) & (source <= size - 1)).all(dim=1)
    torch.testing.assert_close(moved.permute(0, 2, 3, 1)[inside], source.permute(0, 2, 3, 1)[inside], atol=2e-3, rtol=0)
    nearest = source.round()
    sharp = ((source - nearest).abs() < 0.499).all(dim=1)  # half way between, either may be taken
    known = ((nearest >= 0) & (nearest <= size - 1)).all(dim=1)
    expected = torch.where(known, (nearest[:, 0] * size + nearest[:, 1]).long() % 251, IGNORE)
    assert torch.equal(labels[sharp], expected[sharp])


def test_a_label_that_is_a_threshold_of_the_image_stays_one_away_from_its_edge() -> None:
    ramp = coordinates(4, 64)[:, 1:] / 63
    moved, labels = sample(ramp, (ramp[:, 0] > 0.5).long(), points(4, 64, seed=3, **EVERYTHING))
    known = labels != IGNORE
    far = known & ((moved[:, 0] - 0.5).abs() > 1 / 63)
    assert far.float().mean() > 0.5
    assert torch.equal(labels[far], (moved[:, 0] > 0.5).long()[far])


def test_beyond_the_patch_the_image_is_mirrored_and_labels_are_ignored() -> None:
    size = 16
    moved, labels = sample(coordinates(1, size), torch.zeros(1, size, size).long(), points(1, size, scale=(0.5, 0.5)))
    assert labels[0, size // 4 : -size // 4, size // 4 : -size // 4].max() == 0
    assert int((labels == IGNORE).sum()) == size * size * 3 // 4
    torch.testing.assert_close(moved[0, 0, :4].flip(0), moved[0, 0, 4:8])
    assert float(moved[0, 0].max()) < size


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    strength=st.sampled_from([0.5, 4.0, 20.0]),
    spacing=st.sampled_from([5.0, 8.0, 31.5, 200.0]),
)
def test_elastic_displacements_stay_below_their_maximum_and_vary(seed: int, strength: float, spacing: float) -> None:
    size = 40
    field = points(3, size, seed, elastic=strength, elastic_spacing=spacing) - (coordinates(3, size) - (size - 1) / 2)
    assert float(field.abs().max()) <= strength + 1e-4
    assert float(field.abs().max()) > 0.05 * strength
    assert float(field.diff(dim=3).abs().max()) <= 2 * strength / spacing + 1e-4  # smooth
    assert not torch.equal(field[0], field[1])


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.1, 0.49]), lines=st.integers(2, 9))
def test_grid_distortion_keeps_the_order_and_the_patch(seed: int, share: float, lines: int) -> None:
    size = 48
    drawn = points(2, size, seed, grid=share, grid_lines=lines)
    assert float(drawn.abs().max()) <= size / 2
    assert (drawn[:, 0].diff(dim=1) > 0).all()
    assert (drawn[:, 1].diff(dim=2) > 0).all()
    assert torch.equal(drawn[:, 0, :, 0], drawn[:, 0, :, -1])
    shift = (drawn - (coordinates(2, size) - (size - 1) / 2)).abs().max()
    assert 0 < float(shift) <= share * size / lines + 1e-4


def test_grid_distortion_is_linear_between_lines_and_holds_the_outer_edges() -> None:
    size, lines = 40, 4
    rows = points(1, size, seed=5, grid=0.4, grid_lines=lines)[0, 0, :, 0].numpy() + (size - 1) / 2
    ends = []
    for cell in rows.reshape(lines, 10):
        slope = (cell[-1] - cell[0]) / 9
        np.testing.assert_allclose(np.diff(cell), slope, atol=1e-4)
        ends.append((cell[0] - slope / 2, cell[-1] + slope / 2))
    edges = np.array(ends)
    np.testing.assert_allclose(edges[1:, 0], edges[:-1, 1], atol=1e-4)  # neighbours meet at their line
    np.testing.assert_allclose([edges[0, 0], edges[-1, 1]], [-0.5, size - 0.5], atol=1e-4)


def test_rotation_and_zoom_are_drawn_within_their_ranges() -> None:
    drawn = points(400, 3, rotate=30.0, scale=(0.5, 2.0))
    step = drawn[:, :, 1, 2] - drawn[:, :, 1, 1]  # one px to the right
    down = drawn[:, :, 2, 1] - drawn[:, :, 1, 1]
    torch.testing.assert_close(down, torch.stack([step[:, 1], -step[:, 0]], dim=1))  # no shear, no mirror
    angles, zooms = torch.rad2deg(torch.atan2(step[:, 0], step[:, 1])), 1 / step.norm(dim=1)
    assert float(angles.min()) == pytest.approx(-30, abs=1)
    assert float(angles.max()) == pytest.approx(30, abs=1)
    assert float(zooms.min()) == pytest.approx(0.5, abs=0.02)
    assert float(zooms.max()) == pytest.approx(2, abs=0.05)
    assert float(zooms.log().mean()) == pytest.approx(0, abs=0.1)


def test_flips_and_quarter_turns_move_image_and_labels_alike_and_take_all_eight_forms() -> None:
    labels = torch.arange(9).reshape(1, 3, 3).expand(400, 3, 3)
    images = labels[:, None].expand(400, 3, 3, 3).to(torch.uint8)
    moved, turned = turn(images, labels, AugmentConfig(), generator())
    assert moved.dtype == torch.uint8
    assert torch.equal(moved[:, 0].long(), turned)
    forms, counts = turned.flatten(1).unique(dim=0, return_counts=True)
    assert len(forms) == 8
    assert int(counts.min()) > 25


@pytest.mark.parametrize(("options", "n_forms"), [({"rotate90": False}, 4), ({"flip": False}, 4)])
def test_flips_and_turns_alone_take_four_forms(options: dict[str, bool], n_forms: int) -> None:
    labels = torch.arange(9).reshape(1, 3, 3).expand(100, 3, 3)
    _, turned = turn(labels[:, None], labels, AugmentConfig(**options), generator())
    assert len(turned.flatten(1).unique(dim=0)) == n_forms
