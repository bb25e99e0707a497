"""One block: read, predict, blend, label, halve and write it, whole, in one task (DESIGN D1).

Owns the order of work inside a block, of which writing is the last and may be left out. Running it twice gives the same
bytes. It knows nothing of scheduling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from wsi_kernels import fill_polygons

from wsi_seg.engine.band import Band, Mosaic, Surface
from wsi_seg.engine.edge_cache import Edge
from wsi_seg.engine.events import TilesPredicted
from wsi_seg.engine.feed import RowFeed
from wsi_seg.engine.hands import Help
from wsi_seg.engine.postprocessing import GrownBlock, postprocessed_labels
from wsi_seg.engine.predicting import Answer, Prediction
from wsi_seg.engine.pyramid import write_shards
from wsi_seg.engine.receipt import Receipt
from wsi_seg.engine.stages import StageClock
from wsi_seg.errors import PredictorError, RegionReadError
from wsi_seg.geometry import Box
from wsi_seg.output.status import TileStatus
from wsi_seg.slide.canvas import read_canvas

if TYPE_CHECKING:
    from wsi_seg.engine.session import Session
    from wsi_seg.plan.grid import TileGrid

Key = tuple[int, int]


def run_block(session: Session, row: int, column: int) -> Receipt:
    """Make the labels of block (row, column) and of the levels above it, write them and leave a marker.

    Raises RunStopped when the session's stop event is set, WriteError when the disk refuses.
    """
    started = perf_counter()
    block = predict_block(session, row, column)
    shards, counts = write_shards(session, block.clock, 0, (row, column), block.labels, block.probabilities)
    receipt = Receipt(
        tier=0,
        row=row,
        column=column,
        statuses=block.statuses,
        counts=counts,
        seconds=perf_counter() - started + block.helped_s,
        stages=block.clock.seconds,
        n_predicted=block.n_predicted,
        shards=shards,
        failures=block.failures,
        notes=block.notes,
    )
    session.leave_marker(receipt)
    return receipt


def predict_block(session: Session, row: int, column: int) -> PredictedBlock:
    """Make the labels of block (row, column) and write nothing. Raises RunStopped once the session is to stop."""
    session.take_failures()  # those of a block that this thread had to give up
    work = _BlockWork(session, row, column)
    try:
        work.predict()
    finally:
        work.let_go()
    work.mask_roi()
    labels = work.postprocessed()
    work.clear_probabilities(labels)
    return PredictedBlock(
        labels=labels,
        probabilities=work.surface.probabilities,
        statuses=work.owned_statuses(),
        n_predicted=work.n_predicted,
        clock=work.clock,
        helped_s=work.helped_s,
        failures=session.take_failures(),
        notes=session.take_notes(),
    )


@dataclass(frozen=True, slots=True, eq=False)
class PredictedBlock:
    """A block of which nothing is written yet; fields without a word are those of `Receipt`."""

    labels: NDArray[Any]
    """(h, w), uint8 or uint16."""
    probabilities: NDArray[np.uint8] | None
    """(C, h, w) in 1/255, where they are wanted."""
    statuses: dict[Key, TileStatus]
    n_predicted: int
    clock: StageClock
    helped_s: float
    """Seconds of other threads."""
    failures: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Helped:
    """What a thread that helps has to say."""

    answers: list[Answer]
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Entrusted:
    """A batch that another thread may be predicting."""

    keys: list[Key]
    batch: NDArray[np.uint8]
    help: Help[_Helped]


class _BlockWork:
    """The state of one block while its task runs."""

    def __init__(self, session: Session, row: int, column: int) -> None:
        plan = session.job.plan
        self.session, self.plan, self.grid = session, plan, plan.grid
        self.block = plan.layout.task_box(0, row, column)
        self.box = plan.window(self.block)  # with the margins that post-processing looks at: what is predicted here
        self.clock = StageClock()
        self.labels = np.full(self.box.size, session.job.result.not_analysed, session.label_dtype)
        n = session.n_channels
        self.surface = Surface(
            self.box,
            self.labels,
            np.zeros((n, *self.block.size), np.uint8) if plan.probabilities else None,
            plan.card.threshold,
            stored=self.block,
            blended=np.zeros((n, *self.box.size), np.uint16) if plan.post.crf is not None else None,
        )
        # A batch may span two rows of tiles, so that rows of few tiles still fill it.
        self.band = (
            Band(self.surface, self.grid.tile + self.grid.stride, session.n_channels, session.blend)
            if self.grid.blends
            else Mosaic(self.surface, self.grid.tile, session.n_channels, session.blend)
        )
        self.batch = self._new_batch()
        self.spare: list[NDArray[np.uint8]] = []  # batches not in use
        self.waiting: list[Key] = []  # in the batch, by slot
        self.with_others: list[_Entrusted] = []  # predicted by threads that have no task
        self.helped_s = 0.0
        self.deferred: list[Key] = []  # another block predicts them
        self.claimed: set[Key] = set()
        self.statuses: dict[Key, TileStatus] = {}
        self.feed: RowFeed | None = None
        self.n_predicted = 0
        self.careful = session.is_careful(self.box)

    def predict(self) -> None:
        """Fill the labels: every tile that touches the block, row by row."""
        rows = list(self._tile_rows())
        if not rows:
            return
        for row, tiles in rows:
            self.session.checkpoint()
            self._advance(row)
            self._predict_row(row, tiles)
        self._settle()
        self._finish(self.box.y1)

    def _tile_rows(self) -> Iterator[tuple[int, list[int]]]:
        rows, columns = self.grid.tiles_touching(self.box)
        for row in rows:
            if tiles := [column for column in columns if self.session.predicted[row, column]]:
                yield row, tiles

    def _advance(self, row: int) -> None:
        """Finish the rows above tile row `row`, as far as tiles still outstanding allow.

        The band holds two tile rows: what is outstanding from before the last row has to come in now. What others
        predict is waited for; it does not decide when a batch is cut, or that would follow how fast they are.
        """
        if any(tile_row < row - 1 for batch in self.with_others for tile_row, _ in batch.keys):
            self._collect(wait=True)
        if any(tile_row < row - 1 for tile_row, _ in self.waiting + self.deferred):
            self._settle()
        entrusted = [key for batch in self.with_others for key in batch.keys]
        outstanding = [tile_row for tile_row, _ in self.waiting + self.deferred + entrusted]
        self._finish(min(self.grid.support(tile_row, 0).y0 for tile_row in [row, *outstanding]))

    def _predict_row(self, row: int, columns: list[int]) -> None:
        todo = [
            column for column in columns if not self._left_out((row, column)) and self._needs_prediction((row, column))
        ]
        if not todo:
            return
        span = self.grid.tile_box(row, todo[0]).hull(self.grid.tile_box(row, todo[-1]))
        feed = self._feed_for(span)
        pixels = self._strip(feed, span)
        for column in todo:
            box = self.grid.tile_box(row, column)
            if pixels is None:
                self._predict_alone((row, column), box)
            else:
                x = box.x0 - feed.left
                self._enqueue((row, column), pixels[:, x : x + self.grid.tile])

    def _feed_for(self, span: Box) -> RowFeed:
        """A feed that delivers the columns of `span`: what neighbours have predicted at the sides is not read again."""
        if self.feed is None or not self.feed.left <= span.x0 or not span.x1 <= self.feed.right:
            columns, fill = (span.x0, span.x1), self.plan.card.background
            self.feed = RowFeed(self.session.slide, self.plan.scale, columns, fill, self.clock)
        return self.feed

    def _left_out(self, key: Key) -> bool:
        """Whether the tile is condemned; it then has its status already."""
        status = self.session.condemned.get(key)
        if status is not None:
            error = PredictorError if status is TileStatus.MODEL_FAILED else RegionReadError
            self.session.log_failure(key, error("the tile ended the process that tried it"))
            self.statuses[key] = status
        return status is not None

    def _strip(self, feed: RowFeed, span: Box) -> NDArray[np.uint8] | None:
        """The strip of a tile row, or None where some of it cannot be read and each tile is to be tried alone."""
        if self.careful:
            return None
        try:
            return feed.rows(span.y0, span.y1)
        except RegionReadError:
            return None

    def _predict_alone(self, key: Key, box: Box) -> None:
        if self.session.trial is not None:
            self.session.trial("read", [key])
        try:
            with self.clock.stage("decode"):
                pixels = read_canvas(self.session.slide, self.plan.scale, box, self.plan.card.background)
        except RegionReadError as error:
            self.session.log_failure(key, error)
            self._settle_tile(key, TileStatus.UNREADABLE, None)
        else:
            self._enqueue(key, pixels)

    def _needs_prediction(self, key: Key) -> bool:
        """Whether this block is to predict the tile; an edge that is here already is blended at once."""
        if not self._shared(key):
            return True
        answer = self.session.edges.claim(key, self._own_part(key))
        if isinstance(answer, Edge):
            self._blend_edge(key, answer)
            return False
        if answer:
            self.claimed.add(key)
            return True
        self.deferred.append(key)
        return False

    def _own_part(self, key: Key) -> Box:
        """What this block needs of a tile, canvas px."""
        return self.grid.support(*key).intersect(self.box)

    def _shared(self, key: Key) -> bool:
        """Whether another block's task needs the tile too, for its own pixels or for its margins."""
        if not self.session.shares_edges:
            return False
        return any(block != self.block for block, _ in self.session.blocks_needing(self.grid.support(*key)))

    def _enqueue(self, key: Key, pixels: NDArray[np.uint8]) -> None:
        with self.clock.stage("pack"):
            self.batch[len(self.waiting)] = pixels
        self.waiting.append(key)
        if len(self.waiting) == len(self.batch):
            self._flush()

    def _flush(self) -> None:
        """Predict the batch, at its constant shape (DESIGN D5), and blend what comes back."""
        if not self.waiting:
            return
        self.session.checkpoint()
        self.batch[len(self.waiting) :] = np.array(self.plan.card.background, np.uint8)
        if self.session.trial is not None:
            self.session.trial("predict", self.waiting)
        keys, self.waiting = self.waiting, []
        if (entrusted := self._entrust(keys)) is not None:
            self.with_others.append(entrusted)
            self.batch = self.spare.pop() if self.spare else self._new_batch()
        else:
            with self.clock.stage("predict"):
                answers = self.session.predicting.predict(self.batch, len(keys))
            self._take_all(keys, answers, self.batch)
        self._collect(wait=False)

    def _new_batch(self) -> NDArray[np.uint8]:
        return np.empty((self.plan.batch, self.grid.tile, self.grid.tile, 3), np.uint8)

    def _entrust(self, keys: list[Key]) -> _Entrusted | None:
        """Give the batch to a thread that has no task, if there is one."""
        batch, predict, take_notes = self.batch, self.session.predicting.predict, self.session.take_notes

        def predicted() -> _Helped:
            started = perf_counter()
            return _Helped(predict(batch, len(keys)), perf_counter() - started, take_notes())

        help_ = self.session.ask_for_help(predicted)
        return None if help_ is None else _Entrusted(keys, batch, help_)

    def _collect(self, *, wait: bool) -> None:
        """Blend what other threads have predicted, all of it where it is waited for."""
        while self.with_others and (wait or self.with_others[0].help.done):
            entrusted = self.with_others.pop(0)
            with self.clock.stage("wait"):
                helped = entrusted.help.result()
            self.clock.seconds["predict"] = self.clock.seconds.get("predict", 0.0) + helped.seconds
            self.helped_s += helped.seconds
            self.session.remember_notes(helped.notes)
            self._take_all(entrusted.keys, helped.answers, entrusted.batch)
            self.spare.append(entrusted.batch)

    def let_go(self) -> None:
        """Leave nothing behind that others wait for, whatever has happened."""
        while self.with_others:
            self.with_others.pop().help.forget()
        self.session.edges.abandon(self.claimed)

    def _take_all(self, keys: list[Key], answers: list[Answer], batch: NDArray[np.uint8]) -> None:
        for slot, key in enumerate(keys):
            self._take(key, answers[slot], batch[slot])
        self.n_predicted += len(keys)
        self.session.listener(TilesPredicted(len(keys)))

    def _take(self, key: Key, answer: Answer, pixels: NDArray[np.uint8]) -> None:
        """Blend a tile's prediction; where it is no probability in a low precision, that of the model in fp32."""
        if isinstance(answer, PredictorError):
            self._give_up(key, answer)
        elif self._blended(key, answer):
            self._publish(key, TileStatus.DONE, answer)
        else:
            with self.clock.stage("predict"):
                redone = self.session.predicting.predict_in_fp32(pixels)
            if not (redone is None or isinstance(redone, PredictorError)) and self._blended(key, redone):
                self._publish(key, TileStatus.REDONE_FP32, redone)
            else:
                self._give_up(key, redone if isinstance(redone, PredictorError) else self._no_probability(key, redone))

    def _blended(self, key: Key, prediction: Prediction) -> bool:
        """Add a prediction; False, with nothing added, where it holds what is no probability."""
        box = self.grid.tile_box(*key)
        with self.clock.stage("blend"):
            return self._is_sound(key, prediction) and self.band.add_prediction(
                prediction, self._weights(key), box.y0, box.x0
            )

    def _publish(self, key: Key, status: TileStatus, prediction: Prediction) -> None:
        with self.clock.stage("blend"):
            self._settle_tile(key, status, prediction)

    def _no_probability(self, key: Key, redone: Prediction | None) -> PredictorError:
        precision = self.session.predictor.facts.precision
        where = precision if redone is None else f"{precision}, nor in fp32"
        return PredictorError(
            f"prediction of tile {key} is not a probability in {where}", rule="they are finite and within 0 … 1"
        )

    def _give_up(self, key: Key, error: PredictorError) -> None:
        self.session.log_failure(key, error)
        self._settle_tile(key, TileStatus.MODEL_FAILED, None)

    def _is_sound(self, key: Key, prediction: Prediction) -> bool:
        """Whether every value that counts anywhere is a probability.

        Adding checks what falls into this block, which is all of a tile inside it. Across a border the verdict must be
        the same in every block, or a failed tile would make the result depend on how the canvas is cut.
        """
        if self.box.contains(self.grid.support(*key)):
            return True
        canvas, tile = self.grid.extent, self.grid.tile_box(*key)
        used = [np.flatnonzero(weights) for weights in self._weights(key)]
        counts = Box(used[0][0], used[1][0], used[0][-1] + 1, used[1][-1] + 1).shift(tile.y0, tile.x0)
        return self.session.blend.is_sound(prediction, *counts.intersect(canvas).slices((tile.y0, tile.x0)))

    def _settle_tile(self, key: Key, status: TileStatus, prediction: Prediction | None) -> None:
        """Record a tile tried here, and hand it to the neighbours that wait for it."""
        self.statuses[key] = status
        if key in self.claimed:
            self.session.edges.publish(key, *self._edge(key, status, prediction))
            self.claimed.discard(key)

    def _edge(self, key: Key, status: TileStatus, prediction: Prediction | None) -> tuple[Edge, int]:
        """What the other blocks need of a tile, and how many of them."""
        support, box = self.grid.support(*key), self.grid.tile_box(*key)
        needed = self.session.blocks_needing(support)
        others = [window.intersect(support) for block, window in needed if block != self.block]
        hull = others[0]
        for other in others[1:]:
            hull = hull.hull(other)
        if prediction is None:
            return Edge(status, hull, None), len(others)
        pixels = self.session.blend.quantised(prediction, *hull.slices((box.y0, box.x0)))
        return Edge(status, hull, pixels), len(others)

    def _blend_edge(self, key: Key, edge: Edge) -> None:
        self.statuses[key] = edge.status
        if edge.pixels is None:
            return
        tile = self.grid.tile_box(*key)
        y, x = edge.box.slices((tile.y0, tile.x0))
        weights_y, weights_x = self._weights(key)
        with self.clock.stage("blend"):
            self.band.add(edge.pixels, (weights_y[y], weights_x[x]), edge.box.y0, edge.box.x0)

    def _settle(self) -> None:
        """Bring in everything outstanding: the batch first, so that nobody waits for a tile that waits here."""
        self._flush()
        self._collect(wait=True)
        deferred, self.deferred = self.deferred, []
        for key in deferred:
            with self.clock.stage("wait"):
                answer = self.session.edges.wait(key, self._own_part(key))
            if isinstance(answer, Edge):
                self._blend_edge(key, answer)
            else:
                self.claimed.add(key)
                self._predict_alone(key, self.grid.tile_box(*key))
                self._flush()
                self._collect(wait=True)

    def _weights(self, key: Key) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        grid = self.grid
        return (
            self.session.weights(key[0] == 0, key[0] == grid.shape[0] - 1),
            self.session.weights(key[1] == 0, key[1] == grid.shape[1] - 1),
        )

    def _finish(self, until: int) -> None:
        """Label the rows above `until`, and take back what was not to be, or could not be, analysed."""
        top = self.band.top
        with self.clock.stage("label"):
            self.band.finish(until)
        rows = Box(top, self.box.x0, self.band.top, self.box.x1)
        if not rows.is_empty:
            self._blank(rows)

    def _blank(self, rows: Box) -> None:
        """Take back what failed tiles should have given, wherever they have weight, and the cells not analysed."""
        failed = (TileStatus.UNREADABLE, TileStatus.MODEL_FAILED)
        for key in self._touching(self.grid, rows):
            if self.statuses.get(key) in failed:
                self._not_analysed(self.grid.support(*key).intersect(rows))
        cells, analysed = self.plan.cells.grid, self.session.analysed_cells
        for key in self._touching(cells, rows):
            if not analysed[key]:
                self._not_analysed(cells.cell(*key).intersect(rows))

    @staticmethod
    def _touching(grid: TileGrid, rows: Box) -> Iterator[Key]:
        tile_rows, tile_columns = grid.tiles_touching(rows)
        return ((row, column) for row in tile_rows for column in tile_columns)

    def _not_analysed(self, area: Box) -> None:
        if not area.is_empty:
            self.labels[area.slices((self.box.y0, self.box.x0))] = self.session.job.result.not_analysed

    def mask_roi(self) -> None:
        """Take back the labels of pixels outside the region of interest."""
        roi = self.plan.canvas_roi
        if roi is None:
            return
        inside = fill_polygons(roi.rings, (self.box.y0, self.box.x0, self.box.y1, self.box.x1))
        self.labels[~inside] = self.session.job.result.not_analysed

    def postprocessed(self) -> NDArray[Any]:
        """Labels of the block, after the steps that the plan has; not analysed is what was not analysed before."""
        if not self.plan.post.steps:
            return self.labels
        view = GrownBlock(self.session, self.surface, self.statuses, self.clock)
        return postprocessed_labels(view, self.block)

    def clear_probabilities(self, labels: NDArray[Any]) -> None:
        """Make them 0 where nothing is analysed: a sum that lacks an addend is no result, nor is one that is masked."""
        if self.surface.probabilities is not None:
            self.surface.probabilities[:, labels == self.session.job.result.not_analysed] = 0

    def owned_statuses(self) -> dict[Key, TileStatus]:
        """Statuses of the tiles whose cell begins in this block; each tile has exactly one such block."""
        rows, columns = self.grid.tiles_owned(self.block)
        analysed = self.session.analysed
        return {
            (row, column): self.statuses[row, column] if analysed[row, column] else TileStatus.SKIPPED
            for row in rows
            for column in columns
        }
