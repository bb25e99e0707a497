"""Levels above: majority labels and mean probabilities, written by whichever task owns the area.

Owns the recursion from one level to the next inside a task's box. Every shard has one writer (PyramidLayout).
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from wsi_kernels import count_labels, halve_majority, halve_mean

from wsi_seg.engine.receipt import Receipt, ShardRecord
from wsi_seg.engine.stages import StageClock
from wsi_seg.geometry import Box, ceil_div

if TYPE_CHECKING:
    from wsi_seg.engine.job import TaskKey
    from wsi_seg.engine.session import Session

Labels = NDArray[Any]


def write_shards(
    session: Session,
    clock: StageClock,
    tier: int,
    at: tuple[int, int],
    labels: Labels,
    probabilities: NDArray[np.uint8] | None,
) -> tuple[dict[str, ShardRecord], tuple[int, ...]]:
    """Write a task's box and every level above it that the task owns.

    `labels` (h, w) and `probabilities` (C, h, w) cover the task's box at the tier's input level. Answers the shards
    written and, for tier 0, the pixels per class followed by those not analysed. Raises WriteError.
    """
    layout, ignore = session.job.plan.layout, session.job.result.not_analysed
    n_classes = len(session.job.result.classes)
    level = tier * layout.depth
    box = layout.task_box(tier, *at)
    shards: dict[str, ShardRecord] = {}
    counts: tuple[int, ...] = ()
    if tier == 0:
        with clock.stage("pyramid"):
            histogram = count_labels(labels, n_classes)
        counts = (*(int(n) for n in histogram), int(labels.size - histogram.sum()))
        shards |= _write(session, clock, level, box, labels, probabilities)
    for above in layout.tier_levels(tier):
        if above == level:
            continue
        with clock.stage("pyramid"):
            if probabilities is not None:
                probabilities = halve_mean(probabilities, labels, ignore)
            labels = halve_majority(labels, ignore, n_classes)
        box = Box(box.y0 // 2, box.x0 // 2, ceil_div(box.y1, 2), ceil_div(box.x1, 2))
        shards |= _write(session, clock, above, box, labels, probabilities)
    return shards, counts


def run_pyramid(session: Session, key: TaskKey) -> Receipt:
    """Make the levels of a tier above the blocks from the level below, read back from the store."""
    session.checkpoint()
    started = perf_counter()
    layout = session.job.plan.layout
    level, box = key.tier * layout.depth, layout.task_box(key.tier, key.row, key.column)
    clock = StageClock()
    with clock.stage("pyramid"):
        labels = session.result.read_labels(level, box)
        probabilities = session.result.read_probabilities(level, box) if session.job.result.probabilities else None
    shards, _ = write_shards(session, clock, key.tier, (key.row, key.column), labels, probabilities)
    seconds = perf_counter() - started
    receipt = Receipt(key.tier, key.row, key.column, shards, seconds=seconds, stages=clock.seconds)
    session.leave_marker(receipt)
    return receipt


def _write(
    session: Session,
    clock: StageClock,
    level: int,
    box: Box,
    labels: Labels,
    probabilities: NDArray[np.uint8] | None,
) -> dict[str, ShardRecord]:
    with clock.stage("write"):
        written = dict([session.writer.write_labels(level, box, labels)])
        if probabilities is not None:
            written |= dict([session.writer.write_probabilities(level, box, probabilities)])
    return written
