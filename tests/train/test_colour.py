"""Colour and stain: what stays, what changes, and by how much at most."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from wsi_seg.model.he_stain import unmixing_matrix
from wsi_seg.train.augmentation.colour import add_noise, blur, change_colour, change_gamma
from wsi_seg.train.augmentation.stain import jitter_stain
from wsi_seg.train.config import AugmentConfig

torch.set_num_threads(1)

Change = Callable[[torch.Tensor, AugmentConfig, torch.Generator], torch.Tensor]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tissue(n: int = 6, size: int = 24) -> torch.Tensor:
    return 0.3 + 0.4 * torch.rand(n, 3, size, size, generator=generator(9))


def changed(change: Change, images: torch.Tensor, seed: int = 0, **options: Any) -> torch.Tensor:
    return change(images, AugmentConfig(**options), generator(seed))


CHANGES: list[tuple[Change, dict[str, Any]]] = [
    (change_gamma, {"gamma": (0.3, 3.0)}),
    (change_colour, {"brightness": 0.9}),
    (change_colour, {"contrast": 3.0}),
    (change_colour, {"saturation": 3.0}),
    (change_colour, {"hue": 0.5}),
    (blur, {"blur": 2.0}),
    (add_noise, {"noise": 0.9}),
    (lambda x, c, g: jitter_stain(x, c.stain, c.stain_shift, g), {"stain": 0.9, "stain_shift": 0.5}),
]


@pytest.mark.parametrize(("change", "options"), CHANGES)
def test_a_change_stays_in_range_differs_between_patches_and_leaves_its_input(
    change: Change, options: dict[str, Any]
) -> None:
    images = torch.rand(1, 3, 16, 16, generator=generator()).expand(8, 3, 16, 16).contiguous()
    images[..., 0, 0], images[..., 0, 1] = 0, 1
    before = images.clone()
    after = changed(change, images, **options)
    assert torch.equal(images, before)
    assert after.dtype == torch.float32
    assert after.isfinite().all()
    assert float(after.min()) >= 0
    assert float(after.max()) <= 1
    assert len(after.flatten(1).unique(dim=0)) >= 3
    assert torch.equal(after, changed(change, images, **options))
    assert not torch.equal(after, changed(change, images, seed=1, **options))


@pytest.mark.parametrize("change", [change_gamma, change_colour, blur, add_noise])
def test_what_is_off_returns_the_same_object(change: Change) -> None:
    images = tissue()
    assert changed(change, images) is images


def test_gamma_is_one_exponent_per_patch_within_its_range() -> None:
    images = tissue(200, 4)
    exponents = changed(change_gamma, images, gamma=(0.5, 2.0)).log() / images.log()
    assert float((exponents - exponents[:, :1, :1, :1]).abs().max()) < 1e-3
    assert float(exponents.min()) == pytest.approx(0.5, abs=0.02)
    assert float(exponents.max()) == pytest.approx(2.0, abs=0.05)


def test_brightness_shifts_all_channels_by_the_same() -> None:
    images = tissue(200, 4)
    shifts = changed(change_colour, images, brightness=0.1) - images
    assert float((shifts - shifts[:, :1, :1, :1]).abs().max()) < 1e-5
    assert float(shifts.min()) == pytest.approx(-0.1, abs=0.005)
    assert float(shifts.max()) == pytest.approx(0.1, abs=0.005)


def test_contrast_is_about_the_mean_of_the_patch() -> None:
    images = tissue(100)
    after = changed(change_colour, images, contrast=0.3)
    torch.testing.assert_close(after.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)), atol=1e-4, rtol=0)
    gains = after.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    assert float(gains.min()) == pytest.approx(0.7, abs=0.03)
    assert float(gains.max()) == pytest.approx(1.3, abs=0.03)


def test_saturation_keeps_luma_and_hue() -> None:
    images = tissue(100, 2)
    after = changed(change_colour, images, saturation=0.5)
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    torch.testing.assert_close((after * luma).sum(1), (images * luma).sum(1), atol=1e-5, rtol=0)
    spread = (after.amax(1) - after.amin(1)) / (images.amax(1) - images.amin(1))
    assert float(spread.min()) == pytest.approx(0.5, abs=0.05)
    assert float(spread.max()) == pytest.approx(1.5, abs=0.05)


def test_hue_turns_about_grey() -> None:
    images = tissue(50, 2)
    after = changed(change_colour, images, hue=0.1)
    torch.testing.assert_close(after.mean(1), images.mean(1), atol=1e-5, rtol=0)
    grey = images.mean(1, keepdim=True)
    torch.testing.assert_close((after - grey).norm(dim=1), (images - grey).norm(dim=1), atol=1e-5, rtol=0)
    assert float((after - images).abs().max()) > 0.03
    unsaturated = grey.expand_as(images)
    torch.testing.assert_close(changed(change_colour, unsaturated, hue=0.5), unsaturated, atol=1e-5, rtol=0)


def test_hue_turns_by_its_share_of_the_circle_at_most() -> None:
    red = torch.tensor([0.7, 0.3, 0.3])[:, None, None].expand(300, 3, 1, 1)
    after = changed(change_colour, red, hue=1 / 6)
    hues = [colorsys.rgb_to_hsv(*pixel.flatten().tolist())[0] for pixel in after]
    turns = np.array([hue - 1 if hue > 0.5 else hue for hue in hues])
    assert turns.max() == pytest.approx(1 / 6, abs=0.01)
    assert turns.min() == pytest.approx(-1 / 6, abs=0.01)


def test_blur_spreads_a_point_by_its_sigma_and_keeps_its_sum() -> None:
    point = torch.zeros(40, 3, 41, 41)
    point[..., 20, 20] = 1
    after = changed(blur, point, blur=3.0)
    torch.testing.assert_close(after.sum(dim=(2, 3)), torch.ones(40, 3))
    offsets = torch.arange(41) - 20.0
    spread = [((after.sum(dim=other) * offsets**2).sum(-1)[:, 0].sqrt()) for other in (2, 3)]
    torch.testing.assert_close(spread[0], spread[1], atol=1e-3, rtol=0)
    assert 8 <= int((spread[0] > 0).sum()) <= 32  # half of the patches
    assert 2.3 < float(spread[0].max()) <= 3.0
    flat = torch.full((8, 3, 4, 5), 0.37)  # smaller than the kernel
    torch.testing.assert_close(changed(blur, flat, blur=5.0), flat)


def test_noise_has_no_mean_and_its_standard_deviation_at_most() -> None:
    after = changed(add_noise, torch.full((60, 3, 32, 32), 0.5), noise=0.1)
    assert float((after - 0.5).mean().abs()) < 1e-3
    strengths = after.std(dim=(1, 2, 3))
    assert float(strengths.max()) == pytest.approx(0.1, abs=0.01)
    assert float(strengths.min()) < 0.02
    assert float((after[0, 0] - after[0, 1]).abs().max()) > 0


def amounts(images: torch.Tensor) -> np.ndarray:
    """(N, pixels, 3) of haematoxylin, eosin, residual."""
    density = -np.log((images.double().numpy() * 255 + 1) / 256)
    return np.moveaxis(density, 1, 3).reshape(len(images), -1, 3) @ unmixing_matrix()


def test_stain_jitter_scales_and_shifts_the_amounts_of_each_stain() -> None:
    images = tissue(60, 8)
    before, after = amounts(images), amounts(jitter_stain(images, 0.2, 0.05, generator()))
    factors = np.empty((60, 3))
    shifts = np.empty((60, 3))
    for patch in range(60):
        for stain in range(3):
            line = np.polyfit(before[patch, :, stain], after[patch, :, stain], 1)
            factors[patch, stain], shifts[patch, stain] = line
            np.testing.assert_allclose(np.polyval(line, before[patch, :, stain]), after[patch, :, stain], atol=2e-3)
    for values, middle, reach in ((factors, 1, 0.2), (shifts, 0, 0.05)):
        np.testing.assert_allclose(values.max(0), middle + reach, atol=0.2 * reach)
        np.testing.assert_allclose(values.min(0), middle - reach, atol=0.2 * reach)
        assert abs(np.corrcoef(values.T)[0, 1]) < 0.5


def test_stain_jitter_of_nothing_changes_nothing_and_scaling_leaves_white_white() -> None:
    images = tissue()
    torch.testing.assert_close(jitter_stain(images, 0, 0, generator()), images, atol=1e-5, rtol=0)
    white = torch.ones(4, 3, 2, 2)
    torch.testing.assert_close(jitter_stain(white, 0.9, 0, generator()), white, atol=1e-5, rtol=0)


def test_more_haematoxylin_is_darker_and_bluer() -> None:
    stain = torch.tensor([0.5, 0.4, 0.7])[:, None, None].expand(300, 3, 1, 1)
    after = jitter_stain(stain, 0.5, 0, generator())
    more = amounts(after)[:, 0, 0] > 1.3 * amounts(stain)[0, 0, 0]
    assert more.any()
    red = after[:, 0, 0, 0].numpy()
    assert red[more].mean() < 0.5 - 0.03
    assert math.isclose(float(after.max()), min(float(after.max()), 1.0))
