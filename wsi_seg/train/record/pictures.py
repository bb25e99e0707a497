"""Predictions to look at: image, reference and prediction side by side, a row per field of view.

Owns the layout of predictions.png. Knows no network.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.card import SegmentationClass
from wsi_seg.output.durable import write_durably

LARGEST_SIDE = 320
"""Fields of view are cut to this many px per side, around what is not of the first class."""
_GAP = 6
_OPACITY = 0.5

Field = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
"""Image (H, W, 3), reference and prediction (H, W), class indices, 255 ignored."""


def write_predictions(path: Path, fields: Sequence[Field], classes: Sequence[SegmentationClass]) -> None:
    """Draw `fields`, at least one, one below the other. Raises WriteError."""
    rows = [_row(field, classes) for field in fields]
    width = max(row.shape[1] for row in rows)
    page = [np.pad(row, ((0, _GAP), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    picture = io.BytesIO()
    Image.fromarray(np.concatenate(page)).save(picture, format="PNG")
    write_durably(path, picture.getvalue())


def _row(field: Field, classes: Sequence[SegmentationClass]) -> NDArray[np.uint8]:
    window = _window(field[1])
    image, reference, prediction = (part[window] for part in field)
    parts = [image, _painted(image, reference, classes), _painted(image, prediction, classes)]
    gap = np.full((image.shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)


def _window(reference: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Where to look: within the labelled part, so that no margin of context looks like missing labels."""
    labelled = reference != IGNORE
    shown = labelled & (reference > 0)
    window = []
    for axis in (0, 1):
        across = 1 - axis
        places = np.flatnonzero(labelled.any(axis=across))
        start, stop = (int(places[0]), int(places[-1]) + 1) if places.size else (0, reference.shape[axis])
        weights = shown.sum(axis=across)
        middle = int(np.average(np.arange(weights.size), weights=weights)) if weights.any() else (start + stop) // 2
        start = max(start, min(middle - LARGEST_SIDE // 2, stop - LARGEST_SIDE))
        window.append(slice(start, min(stop, start + LARGEST_SIDE)))
    return window[0], window[1]


def _painted(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], classes: Sequence[SegmentationClass]
) -> NDArray[np.uint8]:
    """The image under its classes; the first class stays clear, ignored pixels are white."""
    colours = np.full((256, 3), 255, np.float32)
    opacity = np.full((256, 1), 0.85, np.float32)
    for index, entry in enumerate(classes):
        colours[index], opacity[index] = entry.rgb, _OPACITY if index else 0.0
    mixed = image * (1 - opacity[labels]) + colours[labels] * opacity[labels]
    return np.rint(mixed).astype(np.uint8)
