"""Colours mean what the legend says, in pictures of any number of classes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.card import SegmentationClass
from wsi_seg.viewer.colouring import (
    CHANGED,
    GAINED,
    LOST,
    NOT_ANALYSED_RGBA,
    ONE_SIDE,
    SAME,
    blended,
    difference,
    heat_png,
    labels_png,
)


def pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


@pytest.mark.parametrize("n", [2, 9, 254, 255, 300])
def test_each_class_has_its_colour(n: int) -> None:
    rng = np.random.default_rng(n)
    classes = [SegmentationClass(f"c{k}", f"#{k % 256:02x}{k // 256:02x}{(k * 7) % 256:02x}") for k in range(n)]
    absent = 255 if n <= 255 else 65535
    labels = rng.integers(0, n, (40, 50)).astype(np.uint8 if n <= 255 else np.uint16)
    labels[:3] = absent
    found = pixels(labels_png(labels, classes, {1}, (7, 100)))
    for i in range(40):
        for j in range(50):
            if labels[i, j] == absent:
                hatched = (i + 7 + j + 100) % 12 < 2
                assert tuple(found[i, j]) == (NOT_ANALYSED_RGBA if hatched else (0, 0, 0, 0))
            elif labels[i, j] == 1:
                assert found[i, j, 3] == 0
            else:
                assert tuple(found[i, j]) == (*classes[labels[i, j]].rgb, 255)


def test_hatching_runs_on_from_tile_to_tile() -> None:
    labels = np.full((64, 64), 255, np.uint8)
    classes = [SegmentationClass("a", "#000000"), SegmentationClass("b", "#ffffff")]
    whole = pixels(labels_png(labels, classes, (), (0, 0)))
    part = pixels(labels_png(labels[20:, 33:], classes, (), (20, 33)))
    assert (whole[20:, 33:] == part).all()


def test_heat_grows_with_probability() -> None:
    found = pixels(heat_png(np.arange(256, dtype=np.uint8)[None])).astype(int)[0]
    lightness = found[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) >= -1.5).all()
    assert lightness[-1] > 230
    assert found[0, 3] == 0
    assert found[200, 3] == 255


def test_differences_are_told_apart() -> None:
    one = np.array([0, 0, 1, 1, 2, 9, 1, 9])
    other = np.array([0, 1, 0, 2, 2, 9, 9, 0])
    assert difference(one, other, 9).tolist() == [SAME, GAINED, LOST, CHANGED, SAME, SAME, ONE_SIDE, ONE_SIDE]


def test_an_overlay_is_mixed_by_its_opacity() -> None:
    classes = [SegmentationClass("a", "#000000"), SegmentationClass("b", "#ffffff")]
    overlay = labels_png(np.array([[0, 1]], np.uint8), classes, {0}, (0, 0))
    assert blended(np.full((1, 2, 3), 100, np.uint8), overlay, 0.5)[0, :, 0].tolist() == [100, 178]
