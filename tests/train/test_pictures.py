"""Predictions to look at: what part of a field is shown, and of which fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from wsi_seg.card import named_classes
from wsi_seg.train.record.pictures import LARGEST_SIDE, write_predictions
from wsi_seg.train.validation import N_PICTURES, _Gallery

CLASSES = named_classes(["background", "disc=#ff0000"])
GAP = 6


def drawn(path: Path, reference: np.ndarray, prediction: np.ndarray | None = None) -> np.ndarray:
    image = np.full((*reference.shape, 3), 100, np.uint8)
    write_predictions(path, [(image, reference, reference if prediction is None else prediction)], CLASSES)
    return np.asarray(Image.open(path))


def test_classes_have_their_colours(tmp_path: Path) -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[:, 10:20], labels[:, 20:] = 255, 1
    reference = drawn(tmp_path / "p.png", labels)[:20, 30 + GAP : 60 + GAP]
    assert (reference[:, :10] == 100).all()
    assert (reference[:, 10:20] > 220).all()
    assert (reference[:, 20:] == (178, 50, 50)).all()


def test_a_margin_without_labels_is_not_shown(tmp_path: Path) -> None:
    reference = np.full((90, 80), 255, np.uint8)
    reference[20:70, 10:50] = 0
    reference[30:40, 20:30] = 255  # ignored inside: shown, white
    page = drawn(tmp_path / "p.png", reference, np.zeros_like(reference))
    assert page.shape == (50 + GAP, 3 * 40 + 2 * GAP, 3)
    assert (page[:50, :40] == 100).all()
    assert (page[10:20, 40 + GAP + 10 : 40 + GAP + 20] > 220).all()
    assert (page[:50, 2 * (40 + GAP) :] == 100).all()


def test_a_large_field_is_shown_where_its_classes_are(tmp_path: Path) -> None:
    reference = np.zeros((1000, 700), np.uint8)
    reference[900:920, 600:640] = 1
    page = drawn(tmp_path / "p.png", reference)
    assert page.shape == (LARGEST_SIDE + GAP, 3 * LARGEST_SIDE + 2 * GAP, 3)
    red = (page[:, :, 0].astype(int) - page[:, :, 1] > 60).sum()
    assert red == 2 * 20 * 40
    assert drawn(tmp_path / "p.png", np.full((40, 50), 255, np.uint8)).shape[0] == 40 + GAP


def test_a_gallery_spreads_over_all_that_is_offered() -> None:
    for n in (1, 5, 6, 13, 100, 1000):
        gallery = _Gallery()
        for number in range(n):
            gallery.offer((np.array([number]),) * 3)
        kept = [int(field[0][0]) for field in gallery.spread(N_PICTURES)]
        assert len(kept) == min(n, N_PICTURES)
        assert kept == sorted(set(kept))
        assert kept[-1] >= n // 2
        assert len(gallery.spread(0)) == 0
