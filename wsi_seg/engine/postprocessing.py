"""Post-processing of a block's labels on the block grown by margins, cropped to the block at the end.

Owns the order of pieces and what each step is shown. A step sees the labels that a run without post-processing would
write: pixels that were skipped, failed or lie outside the regions are walls. They stay what they are, they vote for
nothing and say nothing. Every step is done in pieces with a margin of its reach, so a label depends neither on the
pieces nor on the blocks (DESIGN: post-processing without seams).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from wsi_kernels import FieldShape, fill_holes, mean_field, remove_small

from wsi_seg.errors import RegionReadError
from wsi_seg.geometry import Box
from wsi_seg.output.status import TileStatus
from wsi_seg.plan.postprocessing import Crf, FillHoles, RemoveObjects, Step, piece_side
from wsi_seg.slide.canvas import read_canvas

if TYPE_CHECKING:
    from wsi_seg.engine.band import Surface
    from wsi_seg.engine.session import Session
    from wsi_seg.engine.stages import StageClock

READ = (TileStatus.DONE, TileStatus.REDONE_FP32)
"""Statuses of tiles that have labels, so that their pixels can be read."""

Labels = NDArray[Any]
Work = Callable[[Labels, Box], Labels]
"""Labels of a canvas box -> labels after a step, of which those near the box's inner edges are not used."""


@dataclass(frozen=True, slots=True, eq=False)
class GrownBlock:
    """What a block's task has found out when it begins to post-process."""

    session: Session
    surface: Surface
    """Labels, and where the CRF wants them probabilities, of the block with its margins."""
    statuses: Mapping[tuple[int, int], TileStatus]
    """Of the tiles tried so far, by (row, column)."""
    clock: StageClock


def postprocessed_labels(grown: GrownBlock, block: Box) -> Labels:
    """Labels (h, w) of `block` after all steps of the plan. Raises RunStopped, RegionReadError."""
    plan = grown.session.job.plan
    labels, seen, left = grown.surface.labels, grown.surface.box, plan.post.margin
    for step in plan.post.steps:
        left -= step.reach
        kept = block.grown(left).intersect(plan.grid.extent)
        with grown.clock.stage(step.name):
            labels = _stepped(grown, step, (labels, seen), kept)
        seen = kept
    return labels


def _stepped(grown: GrownBlock, step: Step, before: tuple[Labels, Box], kept: Box) -> Labels:
    """Labels of `kept` after one step; `before` are labels and their box, `kept` grown by the reach on the canvas."""
    labels, seen = before
    after = np.empty(kept.size, labels.dtype)
    for row in _rows(kept, piece_side(step)):
        grown.session.checkpoint()
        work = _work_of(grown, step, row)
        for piece in _columns(row, piece_side(step)):
            around = piece.grown(step.reach).intersect(seen)
            part = labels[around.slices((seen.y0, seen.x0))]
            # Alike everywhere: no edge, no object, no hole, and nothing to be told by the neighbours.
            if (part != part[0, 0]).any() or (isinstance(step, Crf) and part[0, 0] != _ignore(grown)):
                part = work(part, around)
            after[piece.slices((kept.y0, kept.x0))] = part[piece.slices((around.y0, around.x0))]
    return after


def _rows(box: Box, side: int) -> Iterator[Box]:
    for y in range(box.y0, box.y1, side):
        yield Box(y, box.x0, min(y + side, box.y1), box.x1)


def _columns(row: Box, side: int) -> Iterator[Box]:
    for x in range(row.x0, row.x1, side):
        yield Box(row.y0, x, row.y1, min(x + side, row.x1))


def _ignore(grown: GrownBlock) -> int:
    return grown.session.job.result.not_analysed


def _work_of(grown: GrownBlock, step: Step, row: Box) -> Work:
    """What a step does to the pieces of a row."""
    match step:
        case Crf():
            field = _Field(grown, step, _RowPixels(grown, row.grown(step.reach).intersect(grown.surface.box)))
            return field.labels
        case FillHoles():
            return partial(_filled, step, grown.session.job.plan.grid.extent)
        case RemoveObjects():
            return lambda labels, _: remove_small(labels, step.limits, step.windows)


def _filled(step: FillHoles, canvas: Box, labels: Labels, box: Box) -> Labels:
    closed = (box.y0 == canvas.y0, box.x0 == canvas.x0, box.y1 == canvas.y1, box.x1 == canvas.x1)
    return fill_holes(labels, step.limits, step.windows, closed)


@dataclass(frozen=True, slots=True, eq=False)
class _Field:
    """The CRF over a row of pieces."""

    grown: GrownBlock
    step: Crf
    pixels: _RowPixels

    def labels(self, labels: Labels, box: Box) -> Labels:
        """The class with the largest marginal, ties to the lowest; px that are not analysed stay."""
        surface, step = self.grown.surface, self.step
        assert surface.blended is not None
        y, x = box.slices((surface.box.y0, surface.box.x0))
        valid = labels != _ignore(self.grown)
        priors = _priors(surface.blended[:, y, x], surface.threshold, self.grown.session.adds_none_of_them)
        shape = FieldShape(step.radius, step.iterations, step.colour, step.weight)
        marginals = mean_field(priors, self.pixels.of(box), valid, shape)
        chosen = marginals.argmax(axis=0)
        return np.where(valid, chosen, labels).astype(labels.dtype)


def _priors(blended: NDArray[np.uint16], threshold: float, none_first: bool = False) -> NDArray[np.float32]:
    """Probabilities (C, h, w), C >= 2, of blended ones (C or 1, h, w) in 0 … 65535.

    A single channel becomes two classes whose odds are even at the threshold. So do independent channels after a class
    0 that is none of them (`none_first`): beside it each class has the odds that it would have alone. What stands for
    class 0, a constant, says where the label changes and nothing about how sure the model is.
    """
    p = blended * np.float32(1 / 65535)
    if len(p) > 1 and not none_first:
        return p
    if none_first:
        certain = np.float32(1 - 2**-17)
        odds = np.minimum(p, certain) / (np.float32(1) - np.minimum(p, certain))
        # Half a step above the constant, so that a class at the threshold has odds above even.
        even = np.float32((round(threshold * 65535) - 0.5) / 65535)
        odds *= (np.float32(1) - even) / even
        odds[0] = 1
        priors: NDArray[np.float32] = odds / odds.sum(axis=0)
        return priors
    low, high = (np.float32(1) - p[0]) * np.float32(threshold), p[0] * np.float32(1 - threshold)
    total = low + high
    return np.stack([low / total, high / total])


class _RowPixels:
    """RGB of a strip of canvas px: read at once; where that fails, from the tiles that could be read.

    Every analysed px lies in the cell of a tile that was read, so none is missing where it counts.
    """

    def __init__(self, grown: GrownBlock, box: Box) -> None:
        self._grown, self._box = grown, box
        self._pixels: NDArray[np.uint8] | None = None

    def of(self, box: Box) -> NDArray[np.uint8]:
        """uint8 (h, w, 3), read when first asked for. Raises RegionReadError."""
        if self._pixels is None:
            self._pixels = self._read()
        y, x = box.slices((self._box.y0, self._box.x0))
        return self._pixels[y, x]

    def _read(self) -> NDArray[np.uint8]:
        session = self._grown.session
        plan = session.job.plan
        if session.is_careful(self._box):
            return self._from_tiles()
        try:
            return read_canvas(session.slide, plan.scale, self._box, plan.card.background)
        except RegionReadError:
            return self._from_tiles()

    def _from_tiles(self) -> NDArray[np.uint8]:
        session = self._grown.session
        plan = session.job.plan
        pixels = np.full((*self._box.size, 3), plan.card.background, np.uint8)
        rows, columns = plan.grid.cells_touching(self._box)
        for key in ((row, column) for row in rows for column in columns):
            if self._grown.statuses.get(key) in READ:
                tile, cell = plan.grid.tile_box(*key), plan.grid.cell(*key).intersect(self._box)
                read = read_canvas(session.slide, plan.scale, tile, plan.card.background)
                pixels[cell.slices((self._box.y0, self._box.x0))] = read[cell.slices((tile.y0, tile.x0))]
        return pixels
