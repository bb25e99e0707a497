"""What a network says of a whole slide at once: the judge of label maps, independent of every engine under test.

Reads level 0 by OpenSlide and computes by ONNX Runtime in fp32, in crops whose margin is at least the network's halo
and whose origins are multiples of its output stride: the values are those of one forward pass over the whole image.
Knows no tiling, no blending and nothing of `wsi_seg` but the model's card.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openslide
from numpy.typing import NDArray

from wsi_seg.card import ModelCard

NOT_JUDGED = 255
CELL = 16
"""Side of the cells that are tissue or glass, px."""
CROP = 1024
"""Side of what one crop answers, px."""
_COLOURED, _DARK = 12.0, 200.0

Rgb = NDArray[np.uint8]
Read = Callable[[int, int, int, int], Rgb]
"""(y, x, height, width), inside the slide, px -> (height, width, 3)."""


@dataclass(frozen=True)
class Network:
    """A model in ONNX Runtime, fp32, all cores."""

    model: Path
    card: ModelCard

    def labels(self, size: tuple[int, int], read: Read, crop: int = CROP) -> Iterator[tuple[int, int, Rgb, Rgb]]:
        """(y, x, labels, picture) of crops that tile an image of `size` (height, width), px.

        labels: uint8 (h, w), the class that one forward pass over the whole image finds most probable; NOT_JUDGED
        where two are exactly as probable, since programs differ in which they take.
        """
        stride, halo = self.card.output_stride, self.card.halo
        assert halo is not None
        margin, crop = -(-halo // stride) * stride, -(-crop // stride) * stride
        session = onnxruntime.InferenceSession(str(self.model), _options(), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for y, x in product(range(0, size[0], crop), range(0, size[1], crop)):
            top, left = max(0, y - margin), max(0, x - margin)
            bottom, right = min(size[0], y + crop + margin), min(size[1], x + crop + margin)
            picture = read(top, left, bottom - top, right - left)
            (probabilities,) = session.run(None, {name: self._input(picture)})
            best = probabilities[0].max(axis=0)
            single = (probabilities[0] == best).sum(axis=0) == 1
            labels = np.where(single, probabilities[0].argmax(axis=0), NOT_JUDGED).astype(np.uint8)
            inner = np.s_[y - top : min(y + crop, size[0]) - top, x - left : min(x + crop, size[1]) - left]
            yield y, x, labels[inner], picture[inner]

    def _input(self, picture: Rgb) -> NDArray[np.float32]:
        """(1, 3, h, w), normalised; filled up with background to a multiple of the stride."""
        pad = [(0, -side % self.card.output_stride) for side in picture.shape[:2]]
        full = np.pad(picture, (*pad, (0, 0)), constant_values=255)
        values = (full.astype(np.float32) / 255 - np.float32(self.card.mean)) / np.float32(self.card.std)
        return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def judged_labels(slide: Path, network: Network, path: Path) -> Path:
    """Write the labels to compare with: .npy uint8 (height, width) of level 0, NOT_JUDGED on glass and at the edge.

    Tissue is a cell of 16 x 16 px whose mean colour is neither near grey nor bright. Within a halo of the slide's edge
    nothing is judged: every program has its own idea of what surrounds a slide.
    """
    partial = path.with_suffix(".partial")
    with openslide.OpenSlide(slide) as source:
        width, height = source.dimensions

        def read(y: int, x: int, h: int, w: int) -> Rgb:
            pixels = np.asarray(source.read_region((x, y), 0, (w, h)))
            return np.where(pixels[..., 3:] == 0, np.uint8(255), pixels[..., :3])

        out = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(height, width))
        for y, x, labels, picture in network.labels((height, width), read):
            h, w = labels.shape
            out[y : y + h, x : x + w] = np.where(tissue(picture), labels, NOT_JUDGED)
        edge = network.card.halo or 0
        for rows, columns in (np.s_[:edge, :], np.s_[height - edge :, :], np.s_[:, :edge], np.s_[:, width - edge :]):
            out[rows, columns] = NOT_JUDGED
        out.flush()
    partial.replace(path)
    return path


def tissue(picture: Rgb) -> NDArray[np.bool_]:
    """(h, w): whether a px lies in a cell of tissue."""
    rows, columns = (np.arange(0, side, CELL) for side in picture.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(picture.astype(np.float32), rows, axis=0), columns, axis=1)
    heights, widths = np.diff([*rows, picture.shape[0]]), np.diff([*columns, picture.shape[1]])
    mean = sums / (heights[:, None, None] * widths[None, :, None])
    cells = (np.ptp(mean, axis=2) > _COLOURED) | (mean.mean(axis=2) < _DARK)
    return cells.repeat(heights, axis=0).repeat(widths, axis=1)


def disagreement(judged: NDArray[np.uint8], labels: Any, band: int = 1024) -> float:
    """Share of the judged px whose label is another one or missing, %; `labels` is sliced like an array (h, w)."""
    n_judged = n_equal = 0
    for top in range(0, judged.shape[0], band):
        ours = np.asarray(judged[top : top + band])
        theirs = np.asarray(labels[top : top + band])[: ours.shape[0], : ours.shape[1]]
        counted = ours != NOT_JUDGED
        n_judged += int(counted.sum())
        both = np.s_[: theirs.shape[0], : theirs.shape[1]]
        n_equal += int(((ours[both] == theirs) & counted[both]).sum())
    if not n_judged:
        raise ValueError("no px of tissue farther than the halo from the slide's edge")
    return 100 * (1 - n_equal / n_judged)


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    return options
