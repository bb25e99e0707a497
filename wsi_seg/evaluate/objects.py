"""Scores of objects (nuclei, glands): matching at an IoU, panoptic quality, aggregated Jaccard index.

Owns the definition of an object and of a match. Knows no file. All that is needed of two maps is how many pixels each
pair of objects shares, and that adds up over blocks: components are labelled in each block and joined across its
borders, so any size of map gives the same scores as one array, in memory that follows the number of objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import EvaluationError
from wsi_seg.evaluate.extras import extra_needed
from wsi_seg.evaluate.pixels import Floats, ratio
from wsi_seg.geometry import Box

Ids = NDArray[np.int64]

OBJECT_METRICS = (
    "object_f1",
    "object_precision",
    "object_recall",
    "object_iou",
    "panoptic_quality",
    "aggregated_jaccard",
)


@dataclass(frozen=True, slots=True)
class ObjectScores:
    """What two sets of objects have in common; sums, so that slides add up."""

    n_predicted: int
    n_reference: int
    n_matched: int
    """Pairs with an IoU above the threshold, one to one."""
    iou_sum: float
    """Of the matched pairs."""
    shared_px: int
    """Aggregated intersection of Kumar et al."""
    union_px: int
    """Aggregated union of Kumar et al."""

    @property
    def sums(self) -> Floats:
        """The fields as float64 (6,)."""
        fields = (self.n_predicted, self.n_reference, self.n_matched, self.iou_sum, self.shared_px, self.union_px)
        return np.array(fields, dtype=np.float64)

    def _metric(self, name: str) -> float:
        return float(object_metrics(self.sums)[name])

    @property
    def precision(self) -> float:
        """Share of predicted objects that are matched; NaN where there are no objects at all, as all below."""
        return self._metric("object_precision")

    @property
    def recall(self) -> float:
        """Share of reference objects that are matched."""
        return self._metric("object_recall")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall (detection, or recognition, quality)."""
        return self._metric("object_f1")

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the matched pairs (segmentation quality)."""
        return self._metric("object_iou")

    @property
    def panoptic_quality(self) -> float:
        """f1 x mean IoU; Kirillov et al., CVPR 2019, doi:10.1109/CVPR.2019.00963."""
        return self._metric("panoptic_quality")

    @property
    def aggregated_jaccard(self) -> float:
        """Aggregated Jaccard index; Kumar et al. 2017, doi:10.1109/TMI.2017.2677499."""
        return self._metric("aggregated_jaccard")


def object_metrics(sums: NDArray[np.number]) -> dict[str, Floats]:
    """Scores by name of `OBJECT_METRICS`, each (...), from `ObjectScores.sums` stacked to (..., 6)."""
    predicted, reference, matched, iou_sum, shared, union = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    both = predicted + reference
    return {
        "object_f1": ratio(2 * matched, both),
        "object_precision": ratio(matched, predicted, reference),
        "object_recall": ratio(matched, reference, predicted),
        "object_iou": ratio(iou_sum, matched, both),
        "panoptic_quality": ratio(2 * iou_sum, both),
        "aggregated_jaccard": ratio(shared, union),
    }


def objects_of(mask: NDArray[np.bool_], connectivity: int = 8) -> NDArray[np.int32]:
    """Connected components of a mask, int32 (h, w): 0 outside, 1 … n; connectivity 4 or 8. Raises EvaluationError."""
    if connectivity not in (4, 8):
        raise EvaluationError(f"connectivity {connectivity}", rule="4 (edges) or 8 (edges and corners)")
    with extra_needed():
        from scipy import ndimage
    labels, _ = ndimage.label(mask, ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2))
    return np.asarray(labels, dtype=np.int32)


def object_scores(
    predicted: NDArray[np.integer],
    reference: NDArray[np.integer],
    iou: float = 0.5,
    scored: NDArray[np.bool_] | None = None,
) -> ObjectScores:
    """Compare two instance maps.

    Args:
        predicted: instance ids (h, w), 0 is no object; `objects_of` makes one of a mask.
        reference: the same.
        iou: objects match where their IoU is above it; from 0.5 on a match is unique by construction.
        scored: bool (h, w), False where pixels are left out; objects that lie there wholly do not exist.

    Raises:
        EvaluationError: shapes differ, ids below 0, or an IoU outside 0.5 … 1.
    """
    if predicted.shape != reference.shape:
        raise EvaluationError(f"masks of {predicted.shape} and {reference.shape}", rule="both have the same shape")
    tally = ObjectTally(predicted.shape[1], instances=(True, True))
    tally.add((predicted, reference), scored, Box(0, 0, *predicted.shape))
    return tally.scores(iou)


class ObjectTally:
    """Objects of one class of one map, added block by block in row-major order.

    Args:
        width: of the map, px.
        connectivity: 4 or 8, of components.
        instances: whether (the prediction, the reference) comes as instance ids rather than as a mask.
    """

    def __init__(self, width: int, connectivity: int = 8, instances: tuple[bool, bool] = (False, False)) -> None:
        self._components = [None if given else _Components(width, connectivity) for given in instances]
        self._shared: list[tuple[Ids, Ids, Ids]] = []

    def add(
        self,
        maps: tuple[NDArray[np.generic], NDArray[np.generic]],
        scored: NDArray[np.bool_] | None,
        box: Box,
    ) -> None:
        """Add a block: masks (bool) or ids (integers) of the prediction and the reference over `box`.

        Pixels that are not scored still join components, so that an ignored line does not cut an object in two.
        """
        ids = [
            _checked_ids(pixels) if component is None else component.label(pixels.astype(np.bool_), box)
            for component, pixels in zip(self._components, maps, strict=True)
        ]
        kept = (ids[0] > 0) | (ids[1] > 0)
        if scored is not None:
            kept &= scored
        self._shared.append(_pairs(ids[0][kept], ids[1][kept]))

    def scores(self, iou: float = 0.5) -> ObjectScores:
        """Scores of all blocks added. Raises EvaluationError."""
        if not 0.5 <= iou < 1:
            raise EvaluationError(f"object IoU {iou}", rule="0.5 <= IoU < 1: below 0.5 a match is not unique")
        predicted, reference, n = (np.concatenate(parts) for parts in zip(*self._shared, _no_pairs(), strict=True))
        joined = [
            ids if component is None else component.joined(ids)
            for component, ids in zip(self._components, (predicted, reference), strict=True)
        ]
        return _scores(*_pairs(joined[0], joined[1], n), iou)


class _Components:
    """Connected components of a mask that comes in blocks: numbered per block, joined across borders."""

    def __init__(self, width: int, connectivity: int) -> None:
        self._connectivity = connectivity
        self._steps = (0,) if connectivity == 4 else (-1, 0, 1)
        self._above = np.zeros(width + 2, np.int64)  # last row of the blocks above, with an empty px at either end
        self._lowest = np.zeros(width + 2, np.int64)  # the same, of the row of blocks at work
        self._left = np.zeros(0, np.int64)
        self._row = -1
        self._edges: list[Ids] = [np.zeros((0, 2), np.int64)]
        self._n = 0

    def label(self, mask: NDArray[np.bool_], box: Box) -> Ids:
        """Ids of a block, unique over all blocks."""
        local = objects_of(mask, self._connectivity)
        ids = np.where(local > 0, local + np.int64(self._n), 0)
        self._n += int(local.max(initial=0))
        if box.y0 != self._row:
            self._row, self._above, self._lowest = box.y0, self._lowest, np.zeros_like(self._lowest)
            self._left = np.zeros(0, np.int64)
        for step in self._steps:
            self._join(ids[0], self._above[1 + box.x0 + step : 1 + box.x1 + step])
            if self._left.size:
                beside = np.pad(self._left, 1)[1 + step : 1 + step + self._left.size]
                self._join(ids[:, 0], beside)
        self._lowest[1 + box.x0 : 1 + box.x1] = ids[-1]
        self._left = ids[:, -1].copy()
        return ids

    def joined(self, ids: Ids) -> Ids:
        """Ids of whole components, 0 stays 0."""
        with extra_needed():
            from scipy.sparse import coo_array
            from scipy.sparse.csgraph import connected_components
        edges = np.concatenate(self._edges)
        graph = coo_array((np.ones(len(edges), np.bool_), (edges[:, 0], edges[:, 1])), shape=(self._n + 1, self._n + 1))
        _, groups = connected_components(graph, directed=False)
        return np.where(ids > 0, groups[ids].astype(np.int64) + 1, 0)

    def _join(self, ids: Ids, neighbours: Ids) -> None:
        both = (ids > 0) & (neighbours > 0)
        if both.any():
            self._edges.append(np.unique(np.stack([ids[both], neighbours[both]], axis=1), axis=0))


def _checked_ids(pixels: NDArray[np.generic]) -> Ids:
    ids = pixels.astype(np.int64)
    if ids.size and ids.min() < 0:
        raise EvaluationError(f"an instance map holds the id {ids.min()}", rule="ids are 1 and above, 0 is no object")
    return ids


def _pairs(predicted: Ids, reference: Ids, n: Ids | None = None) -> tuple[Ids, Ids, Ids]:
    """Distinct (id, id) and their pixels: `n` summed, or occurrences counted."""
    if not len(predicted):
        return _no_pairs()
    order = np.lexsort((reference, predicted))
    p, r = predicted[order], reference[order]
    starts = np.flatnonzero(np.concatenate([[True], (np.diff(p) != 0) | (np.diff(r) != 0)]))
    counts = np.ones(len(p), np.int64) if n is None else n[order]
    return p[starts], r[starts], np.add.reduceat(counts, starts)


def _no_pairs() -> tuple[Ids, Ids, Ids]:
    return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)


def _scores(predicted: Ids, reference: Ids, n: Ids, iou: float) -> ObjectScores:
    """Scores of distinct pairs of ids that share `n` px; id 0 is outside any object."""
    of_predicted, areas_predicted = _areas(predicted, n)
    of_reference, areas_reference = _areas(reference, n)
    meet = (predicted > 0) & (reference > 0)
    p = np.searchsorted(of_predicted, predicted[meet])
    r = np.searchsorted(of_reference, reference[meet])
    shared = n[meet]
    union = areas_predicted[p] + areas_reference[r] - shared
    overlap = shared / union
    matched = overlap > iou
    kumar = _aggregated((p, r, shared, union), areas_predicted, areas_reference)
    return ObjectScores(len(of_predicted), len(of_reference), int(matched.sum()), float(overlap[matched].sum()), *kumar)


def _areas(ids: Ids, n: Ids) -> tuple[Ids, Ids]:
    """Distinct ids above 0, sorted, and the pixels of each."""
    found, index = np.unique(ids, return_inverse=True)
    areas = np.zeros(len(found), np.int64)
    np.add.at(areas, index, n)
    return found[found > 0], areas[found > 0]


def _aggregated(pairs: tuple[Ids, Ids, Ids, Ids], areas_predicted: Ids, areas_reference: Ids) -> tuple[int, int]:
    """(intersection, union) of Kumar et al.: each reference object with the prediction of the highest IoU.

    A prediction may serve several reference objects, as in the original; those that serve none add to the union.
    """
    p, r, shared, union = pairs
    # per reference object the highest IoU; on a tie the lowest id, as a loop over sorted ids would take
    order = np.lexsort((p, -(shared / union), r))
    best = order[np.concatenate([[True], np.diff(r[order]) != 0])] if len(order) else order
    unused = np.ones(len(areas_predicted), np.bool_)
    unused[p[best]] = False
    missed = np.ones(len(areas_reference), np.bool_)
    missed[r[best]] = False
    total = union[best].sum() + areas_predicted[unused].sum() + areas_reference[missed].sum()
    return int(shared[best].sum()), int(total)
