"""What one process holds for a run: opened slide, loaded model, writer, shared edges, the stop flag.

Owns the life of these per process, so that a model is loaded once however many tasks run. A task gets the session and
needs nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsi_seg.engine.edge_cache import EdgeCache
from wsi_seg.engine.events import Listener, Note, ignore
from wsi_seg.engine.job import RunJob, TaskKey
from wsi_seg.engine.models import Models
from wsi_seg.engine.predicting import Predicting
from wsi_seg.engine.receipt import Receipt
from wsi_seg.engine.stopping import check_stop
from wsi_seg.engine.sums import open_blend
from wsi_seg.engine.tolerance import without_folder
from wsi_seg.engine.versions import deciding_versions
from wsi_seg.errors import RunMismatchError
from wsi_seg.geometry import Box, ceil_div
from wsi_seg.output.status import TileStatus

if TYPE_CHECKING:
    from wsi_seg.engine.hands import Hands, Help
    from wsi_seg.infer import Predictor
    from wsi_seg.output.label_store import Result
    from wsi_seg.output.run_directory import Markers
    from wsi_seg.output.shard_writer import ResultWriter
    from wsi_seg.output.store import Location

MAX_FAILURE_TEXTS = 20
"""Tile failures told in words, per block; the statuses count them all."""


Answer = TypeVar("Answer")
TileKey = tuple[int, int]
Trial = Callable[[str, Sequence[TileKey]], None]
"""Called with `read` or `predict` and the tiles concerned."""


class Session:
    """The resources of a run in this process. Shared by its threads."""

    def __init__(
        self,
        job: RunJob,
        predictor: Predictor,
        *,
        listener: Listener = ignore,
        stop: threading.Event | None = None,
        hands: Hands | None = None,
    ) -> None:
        """`hands`: the threads that the tasks are done in, where those may help each other."""
        self.job = job
        self.slide = job.slide
        self.predictor = predictor
        self.blend = open_blend(job.blend, predictor)
        self.predicting = Predicting(
            predictor, job.plan.batch, self._load_fp32, self.note, on_device=job.blend == "device"
        )
        self.listener = listener
        self.stop = stop or threading.Event()
        # On a GPU every thread that predicts takes device memory of its own, which a plan has not counted twice.
        self._hands = hands if predictor.facts.device.startswith("CPU") else None
        self.analysed = job.plan.selection.analysed
        self.analysed_cells = job.plan.cells.analysed
        self.predicted = job.plan.selection.predicted
        # Only where a prediction does not depend on its neighbours in the batch may another block use it.
        self.shares_edges = job.plan.program.batch_independent
        self.edges = EdgeCache(job.plan.memory.edge_cache_bytes if self.shares_edges else 0)
        self.label_dtype = np.dtype(np.uint8 if job.result.not_analysed == 255 else np.uint16)
        self._weights = lru_cache(maxsize=None)(self._make_weights)
        self.condemned: dict[TileKey, TileStatus] = {}
        """Tiles that are not tried: they end the process that does."""
        self.pulse: Callable[[], None] = lambda: None
        """Called whenever the work has got a little further."""
        self.trial: Trial | None = None
        """Hears which tiles are about to be tried; tiles are then tried one at a time."""
        self._failures = threading.local()
        self._notes = threading.local()

    def checkpoint(self) -> None:
        """The work has got further and may be stopped here. Raises RunStopped."""
        self.pulse()
        check_stop(self.stop)

    def condemn(self, tiles: Mapping[TileKey, TileStatus]) -> None:
        """Leave tiles out from now on, with the status that each is to have."""
        if tiles:
            self.condemned = {**self.condemned, **tiles}  # a new one: other threads may be looking through the old

    def try_singly(self, trial: Trial) -> None:
        """From now on announce every tile to `trial` before it is read and before it is predicted, and share none."""
        self.trial, self.shares_edges = trial, False

    def is_careful(self, box: Box) -> bool:
        """Whether tiles in `box`, canvas px, are to be read one by one: one among or next to them is condemned."""
        grid = self.job.plan.grid
        if self.trial is not None:
            return True
        near = box.grown(grid.tile)
        return any(not grid.tile_box(*key).intersect(near).is_empty for key in self.condemned)

    def ask_for_help(self, call: Callable[[], Answer]) -> Help[Answer] | None:
        """Have a thread without a task do `call`; None where there is none."""
        return None if self._hands is None or self.trial is not None else self._hands.ask(call)

    @property
    def n_channels(self) -> int:
        """Channels of a prediction: one per class, or 1 where a threshold decides."""
        return self.predictor.n_channels

    @property
    def adds_none_of_them(self) -> bool:
        """True where class 0 is not the model's, but a constant just below the threshold of independent classes."""
        own: int = getattr(self.predictor, "n_own_channels", self.n_channels)
        return own < self.n_channels

    @cached_property
    def result(self) -> Result:
        """What is written so far, for reading."""
        from wsi_seg.output.label_store import open_result

        return open_result(self._folder, partial=True)

    @cached_property
    def writer(self) -> ResultWriter:
        """Writes shards of what is not finished yet."""
        from wsi_seg.output.shard_writer import ResultWriter

        return ResultWriter(self._folder, self.job.result)

    @cached_property
    def _markers(self) -> Markers:
        from wsi_seg.output.run_directory import Markers

        return Markers(self._folder, self.job.run_id)

    @property
    def _folder(self) -> Location:
        assert self.job.folder is not None, "nothing is written by this session"
        return self.job.folder

    def weights(self, first: bool, last: bool) -> NDArray[np.uint32]:
        """uint32 (tile,) weights of one axis for a tile that is the canvas' first or last there, or neither."""
        return self._weights(first, last)

    def _make_weights(self, first: bool, last: bool) -> NDArray[np.uint32]:
        from wsi_kernels import axis_window

        grid = self.job.plan.grid
        weights: NDArray[np.uint32] = axis_window(
            grid.tile, grid.overlap, grid.window, grid.margin, first=first, last=last
        )
        return weights

    def blocks_needing(self, box: Box) -> Iterator[tuple[Box, Box]]:
        """(block, block with its margins) of the blocks whose tasks predict pixels of `box`, which is on the canvas."""
        plan = self.job.plan
        near, side = plan.window(box), plan.layout.block
        for row in range(near.y0 // side, ceil_div(near.y1, side)):
            for column in range(near.x0 // side, ceil_div(near.x1, side)):
                block = plan.layout.task_box(0, row, column)
                yield block, plan.window(block)

    def log_failure(self, key: tuple[int, int], error: Exception) -> None:
        """Remember why a tile failed, for the receipt of the block this thread works on."""
        texts = self._texts()
        if len(texts) < MAX_FAILURE_TEXTS:
            texts.append(f"tile {key[0]},{key[1]}: {without_folder(str(error), self.slide)}")

    def take_failures(self) -> tuple[str, ...]:
        """What `log_failure` heard from this thread since the last call."""
        texts = tuple(self._texts())
        self._failures.texts = []
        return texts

    def _texts(self) -> list[str]:
        if not hasattr(self._failures, "texts"):
            self._failures.texts = []
        texts: list[str] = self._failures.texts
        return texts

    def note(self, text: str) -> None:
        """Tell the listener, and remember it for the receipt of the block this thread works on."""
        self._notes.texts = [*getattr(self._notes, "texts", []), text]
        self.listener(Note(text))

    def remember_notes(self, texts: tuple[str, ...]) -> None:
        """Keep for the receipt of this thread's block what another thread has noted for it."""
        self._notes.texts = [*getattr(self._notes, "texts", []), *texts]

    def take_notes(self) -> tuple[str, ...]:
        """What `note` heard from this thread since the last call."""
        texts = tuple(getattr(self._notes, "texts", []))
        self._notes.texts = []
        return texts

    def close(self) -> None:
        """Release what the session itself has loaded: not the slide and not the predictor it was given."""
        self.predicting.close()

    def _load_fp32(self) -> Predictor:
        from wsi_seg.infer import load_predictor

        # One stream: it is asked for single tiles, now and then.
        return load_predictor(self.job.model.replaced(precision="fp32", streams=1))

    def leave_marker(self, receipt: Receipt) -> None:
        """Record a finished task durably: from here on it is never done again."""
        self._markers.write(receipt.to_mapping())


def run_task(session: Session, key: TaskKey) -> Receipt:
    """Carry out one task, of whatever tier."""
    if key.tier == 0:
        from wsi_seg.engine.block import run_block

        return run_block(session, key.row, key.column)
    from wsi_seg.engine.pyramid import run_pyramid

    return run_pyramid(session, key)


def session_for(job: RunJob, models: Models, listener: Listener, stop: threading.Event) -> Session:
    """A session of a run that was planned elsewhere.

    Raises RunMismatchError where slide or model are not here what they were where the run was planned.
    """
    from wsi_seg.infer import member_cards, model_sha256

    predictor, program = models.load(job.model), job.plan.program
    checks = {
        "slide": (job.slide.fingerprint(), job.plan.slide.fingerprint),
        "levels of the slide": (job.slide.levels, job.plan.slide.levels),
        "model": (model_sha256(job.model), program.sha256),
        "card": (predictor.card, job.plan.card),
        "cards of members": (member_cards(job.model), program.members),
        "runtime": (predictor.facts.runtime, program.runtime),
        "device": (predictor.facts.device, program.device),
        "precision": (predictor.facts.precision, program.precision),
        "versions of libraries": (deciding_versions(predictor.facts.runtime), program.libraries),
    }
    if differing := [name for name, (here, planned) in checks.items() if here != planned]:
        models.discard(predictor)
        raise RunMismatchError(
            f"{', '.join(differing)} of this worker differ from what run {job.run_id[:12]} was planned with",
            rule="every worker reads the same slide and runs the same model",
            remedy="compare the files, and what is installed, on the machines of the cluster",
        )
    return Session(job, predictor, listener=listener, stop=stop)
