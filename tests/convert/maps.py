"""Label maps that are hard on outlines, as strips of any height."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_seg.convert.selection import Frame
from wsi_seg.convert.strips import Strip
from wsi_seg.geometry import Mpp

NAMES = ["background", "stroma", "tumour", "necrosis"]
UNIT = (1.0, 1.0)


@st.composite
def label_maps(draw: Any, most: int = 24) -> NDArray[Any]:
    """(h, w) of up to four classes in noise or blobs, with px that were not analysed."""
    dtype = draw(st.sampled_from([np.uint8, np.uint16]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width, grain = draw(st.integers(1, most)), draw(st.integers(1, most)), draw(st.sampled_from([1, 1, 2, 3]))
    n_classes = draw(st.integers(2, 4))
    shares = rng.dirichlet(np.full(n_classes, 0.8))
    coarse = rng.choice(n_classes, (height // grain + 1, width // grain + 1), p=shares)
    labels = coarse.repeat(grain, 0).repeat(grain, 1)[:height, :width].astype(dtype)
    labels[rng.random(labels.shape) < draw(st.sampled_from([0, 0.05]))] = np.iinfo(dtype).max
    return labels


def strips_of(labels: NDArray[Any], rows: int, chances: NDArray[np.uint8] | None = None) -> Iterator[Strip]:
    """Strips of `rows` rows, with the row that ends a map."""
    end = np.full((1, labels.shape[1]), np.iinfo(labels.dtype).max, labels.dtype)
    labels = np.concatenate([labels, end])
    if chances is not None:
        chances = np.concatenate([chances, np.zeros_like(chances[:1])])
    for y in range(0, len(labels), rows):
        yield Strip(y, labels[y : y + rows], None if chances is None else chances[y : y + rows])


def frame_for(
    labels: NDArray[Any], l0_per_px: tuple[float, float] = UNIT, l0_offset: tuple[float, float] = (0.0, 0.0)
) -> Frame:
    return Frame(labels.shape, Mpp(0.5, 0.52), l0_per_px, l0_offset)


def wanted_in(labels: NDArray[Any], classes: tuple[int, ...]) -> NDArray[np.bool_]:
    wanted = np.zeros(np.iinfo(labels.dtype).max + 1, np.bool_)
    wanted[list(classes)] = True
    return wanted
