"""What training and evaluation may ask of the reference labels of a slide; owns the contract, no format."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wsi_seg.geometry import Box

IGNORE = 255
"""Label of a pixel that nobody annotated, or that is left out on purpose: never a class."""


@runtime_checkable
class Annotation(Protocol):
    """Labels of one whole slide at any resolution; callable from several threads."""

    def read_labels(
        self, box: Box, downsample: tuple[float, float], l0_origin: tuple[float, float] = (0.0, 0.0)
    ) -> NDArray[np.uint8]:
        """Class index of the pixels of `box`, uint8 (h, w), `IGNORE` where there is none.

        Pixel (i, j) of the grid covers `downsample` level-0 px (y, x); the grid's corner is the level-0 point
        `l0_origin`. Every pixel has the label at its centre, so reading in parts or whole gives the same.
        Raises AnnotationError.
        """
