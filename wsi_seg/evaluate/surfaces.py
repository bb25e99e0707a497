"""Scores of outlines: boundary F1 and the 95 % Hausdorff distance, of arrays or block by block.

Owns the definition of a boundary and of the distances between two. Knows no file and no class names.

A boundary pixel is a pixel of the class with a neighbour (4) that is scored and not of the class: neither the border of
the image nor an ignored area makes a boundary. Distances are between pixel centres.

Block by block, distances below the margin are exact: a neighbouring block cannot hold a nearer point. A point with no
partner within the margin is looked up on a coarse grid of cells of k x k px at the end; its distance is then known to
within sqrt(2) * k px (each end lies in its cell). The 95th percentile falls on such a point only where more than 5 % of
a boundary lie farther off than the margin.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.evaluate.extras import extra_needed
from wsi_seg.evaluate.pixels import Floats, ratio
from wsi_seg.geometry import Box, ceil_div

Mask = NDArray[np.bool_]

COARSE_SIDE = 4096
"""Longest side of the coarse grid; cells are of 1 px for maps up to this."""


def boundary(mask: Mask, scored: Mask | None = None) -> Mask:
    """Pixels of a mask that touch a scored pixel outside it, bool (h, w).

    >>> boundary(np.array([[1, 1, 1, 0]], bool)).tolist()
    [[False, False, True, False]]
    """
    outside = ~mask if scored is None else ~mask & scored
    touches = np.zeros_like(mask)
    touches[1:] |= outside[:-1]
    touches[:-1] |= outside[1:]
    touches[:, 1:] |= outside[:, :-1]
    touches[:, :-1] |= outside[:, 1:]
    touches &= mask
    if scored is not None:
        touches &= scored
    return touches


def boundary_f1(
    predicted: Mask,
    reference: Mask,
    tolerance: float,
    spacing: tuple[float, float] = (1.0, 1.0),
    scored: Mask | None = None,
) -> float:
    """F1 of two boundaries: a boundary pixel is right where the other boundary is at most `tolerance` away.

    Csurka et al., BMVC 2013, doi:10.5244/C.27.32; Perazzi et al., CVPR 2016, doi:10.1109/CVPR.2016.85.

    Args:
        predicted: bool (h, w).
        reference: bool (h, w).
        tolerance: in the unit of `spacing`.
        spacing: size of a pixel (y, x); (1, 1) counts in px.
        scored: bool (h, w), False where pixels are left out.

    Returns:
        0 … 1; NaN where neither has a boundary, 0 where only one has.
    """
    tally = _tally_of(predicted, reference, tolerance, spacing, scored)
    return float(boundary_scores(tally.counts)[2])


def hausdorff95(
    predicted: Mask, reference: Mask, spacing: tuple[float, float] = (1.0, 1.0), scored: Mask | None = None
) -> float:
    """95 % Hausdorff distance: the larger of the two 95th percentiles of distances from one boundary to the other.

    Huttenlocher et al., IEEE TPAMI 1993, doi:10.1109/34.232073 (the robust form). Arguments as for `boundary_f1`.

    Returns:
        In the unit of `spacing`; NaN where neither has a boundary, infinite where only one has.
    """
    return _tally_of(predicted, reference, 0.0, spacing, scored).hausdorff95()


def boundary_scores(counts: NDArray[np.number]) -> tuple[Floats, Floats, Floats]:
    """(precision, recall, F1) of boundary pixels, each (...), from `SurfaceTally.counts` stacked to (..., 4)."""
    predicted, right, reference, found = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    precise, complete = ratio(right, predicted, reference), ratio(found, reference, predicted)
    return precise, complete, ratio(2 * precise * complete, precise + complete, predicted + reference)


class SurfaceTally:
    """Boundary pixels and distances of one class of one map, added block by block.

    Args:
        size: (height, width) of the map.
        spacing: size of a pixel (y, x).
        tolerance: a boundary pixel is right up to here, in the unit of `spacing`.
        margin: px of context around each block; None where one block is the whole map.
    """

    def __init__(
        self, size: tuple[int, int], spacing: tuple[float, float], tolerance: float, margin: int | None = None
    ) -> None:
        self._spacing = np.array(spacing)
        self._tolerance = tolerance * (1 + 1e-9)
        # one px of the margin shows whether the outermost pixel is a boundary
        self._limit = np.inf if margin is None else (margin - 1) * float(min(spacing))
        self._cell = ceil_div(max(size), COARSE_SIDE)
        cells = ceil_div(size[0], self._cell), ceil_div(size[1], self._cell)
        self._coarse = [np.zeros(cells, np.bool_), np.zeros(cells, np.bool_)]
        self._near: list[list[NDArray[np.float32]]] = [[], []]
        self._far: list[list[NDArray[np.int64]]] = [[], []]
        self.counts: NDArray[np.int64] = np.zeros(4, np.int64)
        """Boundary px predicted, of these within the tolerance, boundary px of the reference, of these within it."""

    @staticmethod
    def margin(tolerance_px: float, least: int) -> int:
        """Margin that keeps boundary F1 exact."""
        return max(least, ceil(tolerance_px) + 2)

    def add(self, masks: tuple[Mask, Mask], scored: Mask | None, box: Box, inner: Box) -> None:
        """Add a block.

        Args:
            masks: of the prediction and of the reference, bool, over `box`.
            scored: bool over `box`, or None for all.
            box: the pixels given, of the whole map.
            inner: the pixels that this block answers for; together the inner boxes are the map.
        """
        corner = np.array([box.y0, box.x0])
        points = [np.argwhere(boundary(mask, scored)) + corner for mask in masks]
        own = [p[_within(p, inner)] for p in points]
        for side, other in ((0, 1), (1, 0)):
            self._add_distances(side, own[side], points[other])

    def hausdorff95(self) -> float:
        """In the unit of `spacing`; NaN where neither has a boundary, infinite where only one has."""
        if not self.counts[[0, 2]].all():
            return np.inf if self.counts.any() else np.nan
        return max(float(np.percentile(self._distances(side), 95)) for side in (0, 1))

    def _add_distances(self, side: int, own: NDArray[np.int64], others: NDArray[np.int64]) -> None:
        distances = _nearest(own * self._spacing, others * self._spacing, self._limit)
        near = distances <= self._limit
        cells = own // self._cell
        self._coarse[side][cells[:, 0], cells[:, 1]] = True
        self._near[side].append(distances[near].astype(np.float32))
        self._far[side].append(cells[~near].astype(np.int32))
        self.counts[2 * side] += len(own)
        self.counts[2 * side + 1] += np.count_nonzero(distances <= self._tolerance)

    def _distances(self, side: int) -> NDArray[np.float32]:
        far = np.concatenate(self._far[side])
        if len(far):
            with extra_needed():
                from scipy.ndimage import distance_transform_edt
            away = distance_transform_edt(~self._coarse[1 - side], sampling=self._spacing * self._cell)
            known = np.maximum(away[far[:, 0], far[:, 1]], self._limit if np.isfinite(self._limit) else 0)
            self._near[side].append(known.astype(np.float32))
            self._far[side] = [far[:0]]
        return np.concatenate(self._near[side])


def _within(points: NDArray[np.int64], box: Box) -> Mask:
    y, x = points[:, 0], points[:, 1]
    return np.asarray((y >= box.y0) & (y < box.y1) & (x >= box.x0) & (x < box.x1))


def _nearest(points: Floats, others: Floats, limit: float) -> Floats:
    """Distance of each point to the nearest of the others, float64 (n,); infinite where it exceeds the limit."""
    if not len(points) or not len(others):
        return np.full(len(points), np.inf)
    with extra_needed():
        from scipy.spatial import cKDTree
    # points on a grid share coordinates: median splits would sort them again and again
    tree: Any = cKDTree(others, balanced_tree=False, compact_nodes=False)
    distances, _ = tree.query(points, distance_upper_bound=limit * (1 + 1e-9))
    return np.where(distances <= limit * (1 + 1e-12), distances, np.inf)


def _tally_of(
    predicted: Mask, reference: Mask, tolerance: float, spacing: tuple[float, float], scored: Mask | None
) -> SurfaceTally:
    height, width = predicted.shape
    tally, whole = SurfaceTally((height, width), spacing, tolerance), Box(0, 0, height, width)
    tally.add((predicted, reference), scored, whole, whole)
    return tally
