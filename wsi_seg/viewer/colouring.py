"""From labels and probabilities to pictures that lie over a slide: colours, hatching, heat, differences.

Owns every colour of the viewer and its picture formats. Knows neither results nor tiles.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.card import SegmentationClass

NOT_ANALYSED_RGBA = (70, 70, 70, 255)
"""Of the lines that hatch what was not analysed."""
_HATCH_PERIOD, _HATCH_WIDTH = 12, 2
HEAT_STOPS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""From 0 to 1: five colours of matplotlib's `inferno` (CC0), even in lightness, told apart without red and green."""
SAME, GAINED, LOST, CHANGED, ONE_SIDE = range(5)
"""What a px of a difference says: as before; a class now where class 0 was; class 0 now; another class; analysed in
one of the two only."""
DIFFERENCE_RGBA = ((0, 0, 0, 0), (0, 114, 178, 230), (213, 94, 0, 230), (240, 228, 66, 230), (120, 120, 120, 140))
"""Colours of these, from the palette of Okabe and Ito (jfly.uni-koeln.de/color), which the colour-blind can tell."""

Rgba = tuple[int, int, int, int]


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """A picture (h, w, 3) as JPEG."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=88, subsampling=0)
    return content.getvalue()


def labels_png(
    labels: NDArray[np.integer],
    classes: Sequence[SegmentationClass],
    hidden: Collection[int],
    corner: tuple[int, int],
) -> bytes:
    """Labels as a PNG in the classes' colours, transparent where a class is hidden, hatched where none is.

    Args:
        labels: (h, w); what is no class was not analysed.
        classes: in index order.
        hidden: indices that are not shown; `len(classes)` stands for what was not analysed.
        corner: (y, x) of the first px on the view's grid, so that hatching runs on from tile to tile.
    """
    n = len(classes)
    table = [(*entry.rgb, 0 if index in hidden else 255) for index, entry in enumerate(classes)]
    table += [(0, 0, 0, 0), (0, 0, 0, 0) if n in hidden else NOT_ANALYSED_RGBA]
    index = np.minimum(labels, n).astype(np.uint16)
    index[(index == n) & _hatch(labels.shape, corner)] = n + 1
    return _png(index, table)


def heat_png(probability: NDArray[np.uint8]) -> bytes:
    """Probabilities (h, w) in 1/255 as a PNG, from dark and transparent to light."""
    places = np.linspace(0, 255, len(HEAT_STOPS))
    channels = [np.interp(np.arange(256), places, [stop[n] for stop in HEAT_STOPS]).round() for n in range(3)]
    alpha = np.minimum(255, np.arange(256) * 2)
    table = [tuple(int(value) for value in entry) for entry in zip(*channels, alpha, strict=True)]
    return _png(probability.astype(np.uint16), table)  # type: ignore[arg-type]


def difference(one: NDArray[np.integer], other: NDArray[np.integer], not_analysed: int) -> NDArray[np.uint8]:
    """What has become of each px from `one` to `other`, (h, w) of SAME … ONE_SIDE; both count classes alike."""
    kinds = np.full(one.shape, CHANGED, np.uint8)
    kinds[one == 0] = GAINED
    kinds[other == 0] = LOST
    kinds[(one == not_analysed) != (other == not_analysed)] = ONE_SIDE
    kinds[one == other] = SAME
    return kinds


def difference_png(kinds: NDArray[np.uint8]) -> bytes:
    """A difference as a PNG."""
    return _png(kinds.astype(np.uint16), DIFFERENCE_RGBA)


def blended(pixels: NDArray[np.uint8], overlay: bytes, opacity: float) -> NDArray[np.uint8]:
    """A picture (h, w, 3) under a PNG of the same size, both uint8 RGB."""
    layer = np.asarray(Image.open(io.BytesIO(overlay)).convert("RGBA")).astype(np.float32)
    alpha = layer[..., 3:] / 255 * opacity
    return (pixels * (1 - alpha) + layer[..., :3] * alpha).round().astype(np.uint8)


def _hatch(shape: tuple[int, ...], corner: tuple[int, int]) -> NDArray[np.bool_]:
    rows = np.arange(shape[0])[:, None] + corner[0]
    columns = np.arange(shape[1])[None, :] + corner[1]
    return (rows + columns) % _HATCH_PERIOD < _HATCH_WIDTH


def _png(index: NDArray[np.uint16], table: Sequence[Rgba]) -> bytes:
    """A PNG with a palette where the table has at most 256 colours, else in full colour."""
    content = io.BytesIO()
    if len(table) <= 256:
        image = Image.fromarray(index.astype(np.uint8), "P")
        image.putpalette(bytes(value for entry in table for value in entry[:3]))
        image.save(content, "PNG", compress_level=1, transparency=bytes(entry[3] for entry in table))
    else:
        Image.fromarray(np.array(table, np.uint8)[index], "RGBA").save(content, "PNG", compress_level=1)
    return content.getvalue()
