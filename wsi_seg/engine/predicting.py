"""Predictions for all blocks of a process: in batches as large as memory allows, and once more in fp32 where need be.

Owns what happens when memory runs out (the batch is halved for the rest of the run, then predictions take turns) and
when a low precision gives no probability (the tile is predicted in fp32). One tile's answer never depends on that of
another, but for models that look at their whole batch. Knows no block, no canvas and no slide.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import ModelError, PredictorError, PredictorOutOfMemory

if TYPE_CHECKING:
    from wsi_seg.infer import Predictor

Tiles = NDArray[np.uint8]
Prediction = Any
"""Probabilities (C, T, T) of a tile: float32 on the host, or a `DeviceTile` where blending happens on the device."""
Answer = Prediction | PredictorError
"""A prediction, or why there is none."""
Ask = Callable[[Tiles], Any]
Limits = tuple[int, int]
"""(tiles per batch, predictions at once)."""

_UNLIMITED = 1 << 30


class Predicting:
    """Predicts tiles for the threads of a process.

    Batches have a constant shape (DESIGN D5), also when they were halved: what is missing is background.
    """

    def __init__(
        self,
        predictor: Predictor,
        batch: int,
        load_fp32: Callable[[], Predictor],
        tell: Callable[[str], None],
        *,
        on_device: bool = False,
    ) -> None:
        """`load_fp32` makes the predictor of the same model in fp32; `tell` hears once of each step that is taken.

        `on_device`: predictions stay where they are made, but for those in fp32; the predictor must offer that.
        """
        self._predictor, self._tell = predictor, tell
        self._on_device = on_device
        self._second = _SecondOpinion(predictor, load_fp32)
        self._limits: Limits = (batch, _UNLIMITED)
        self._under_way = 0
        self._changed = threading.Condition()

    @property
    def batch(self) -> int:
        """Tiles per batch at present."""
        return self._limits[0]

    def predict(self, batch: Tiles, count: int) -> list[Answer]:
        """Answers for the first `count` tiles of `batch` (n, T, T, 3); the others are background already.

        Where memory runs out, the same tiles are predicted again in smaller batches; only a tile that does not fit on
        its own, with nothing else under way, is answered with an error for that.
        """
        answers: list[Answer] = []
        while len(answers) < count:
            limits = self._limits
            piece, n = self._piece(batch, len(answers), count, limits[0])
            answers += self._answers(piece, n, limits)
        return answers

    def predict_in_fp32(self, tile: Tiles) -> Answer | None:
        """The answer of the model in fp32 for a tile (T, T, 3); None where that is what answers anyway.

        The tile comes first in a batch of its own, so the answer is the same whoever asks.
        """
        if self._predictor.facts.precision == "fp32":
            return None
        exact = self._second.predictor()
        if isinstance(exact, PredictorError):
            return exact
        batch = self._padded(tile[None], exact.fixed_input[0] or 1)
        while True:
            limits = self._limits
            outcome = self._call(exact.predict, batch, limits)
            if not (isinstance(outcome, PredictorOutOfMemory) and self._made_room(limits)):
                return outcome if isinstance(outcome, PredictorError) else outcome[0]

    def close(self) -> None:
        """Release the fp32 predictor, if there is one; the other one is its owner's."""
        self._second.close()

    def _piece(self, batch: Tiles, start: int, count: int, size: int) -> tuple[Tiles, int]:
        """A batch of `size` tiles from `start` on, and how many of them are wanted."""
        n = min(size, count - start)
        if start == 0 and size == len(batch):
            return batch, n
        return self._padded(batch[start : start + n], size), n

    def _padded(self, tiles: Tiles, size: int) -> Tiles:
        if len(tiles) == size:
            return tiles
        batch = np.empty((size, *tiles.shape[1:]), np.uint8)
        batch[: len(tiles)] = tiles
        batch[len(tiles) :] = np.array(self._predictor.card.background, np.uint8)
        return batch

    def _answers(self, piece: Tiles, n: int, limits: Limits) -> list[Answer]:
        """Answers for the first `n` tiles of a batch; none where they are to be tried in other batches."""
        outcome = self._call(self._ask, piece, limits)
        if isinstance(outcome, PredictorOutOfMemory):
            return [] if self._made_room(limits) else [_hopeless(piece, outcome)] * n
        if not isinstance(outcome, PredictorError):
            return list(outcome[:n])
        if n == 1:
            return [outcome]
        return [self._apart(piece, slot, limits) for slot in range(n)]

    def _apart(self, piece: Tiles, slot: int, limits: Limits) -> Answer:
        """One tile of a batch that failed, among padding at the same shape: so that only the guilty tile is lost."""
        batch = self._padded(piece[:0], len(piece))
        batch[slot] = piece[slot]
        outcome = self._call(self._ask, batch, limits)
        if isinstance(outcome, PredictorOutOfMemory) and self._made_room(limits):
            return self.predict(piece[slot : slot + 1], 1)[0]
        return outcome if isinstance(outcome, PredictorError) else outcome[slot].copy()

    @property
    def _ask(self) -> Ask:
        predictor: Any = self._predictor
        return predictor.predict_on_device if self._on_device else predictor.predict  # type: ignore[no-any-return]

    def _call(self, ask: Ask, batch: Tiles, limits: Limits) -> Any:
        """The prediction or its error, which holds nothing of the call alive: that would be memory again."""
        with self._turn(limits[1]):
            try:
                return ask(batch)
            except PredictorError as error:
                return error.with_traceback(None)
            except MemoryError as error:
                return PredictorOutOfMemory(f"memory ran out on a batch {batch.shape} ({error})")

    @contextmanager
    def _turn(self, at_once: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._under_way < at_once)
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _made_room(self, tried: Limits) -> bool:
        """Whether there is something else to try; the first thread that asks after `tried` failed decides what."""
        with self._changed:
            size, at_once = self._limits
            if (size, at_once) != tried:
                return True
            if size > 1 and self._predictor.fixed_input[0] is None:
                self._limits = size // 2, at_once
                told = f"memory ran out with batches of {_tiles(size)}: {size // 2} per batch from here on"
            elif at_once > 1:
                self._limits = size, 1
                told = f"memory ran out with batches of {_tiles(size)}: one prediction at a time from here on"
            else:
                return False
        self._tell(told)
        return True


class _SecondOpinion:
    """The same model in fp32, loaded when it is first asked for; loading that fails is not tried again."""

    def __init__(self, first: Predictor, load: Callable[[], Predictor]) -> None:
        self._first, self._load = first, load
        self._lock = threading.Lock()
        self._loaded: Predictor | PredictorError | None = None

    def predictor(self) -> Predictor | PredictorError:
        """The predictor, or why there is none."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._fetched()
            return self._loaded

    def close(self) -> None:
        """Release the predictor, if it was loaded."""
        with self._lock:
            loaded, self._loaded = self._loaded, None
        if loaded is not None and not isinstance(loaded, PredictorError):
            loaded.close()

    def _fetched(self) -> Predictor | PredictorError:
        try:
            predictor = self._load()
        except (ModelError, MemoryError) as error:
            return PredictorError(f"the model cannot be loaded in fp32: {error}")
        if predictor.facts.precision == "fp32" and predictor.n_channels == self._first.n_channels:
            return predictor
        told = f"{predictor.n_channels} channels in {predictor.facts.precision}"
        predictor.close()
        return PredictorError(
            f"the model cannot be loaded in fp32: it answers {told}", rule="a tile is redone by the same model in fp32"
        )


def _hopeless(batch: Tiles, error: PredictorOutOfMemory) -> PredictorError:
    """What is told where no smaller batch is possible and nothing else is under way."""
    return PredictorOutOfMemory(
        f"{_tiles(len(batch))} of {batch.shape[1]} px: {error.what}",
        rule="no smaller batch is possible, and nothing else was predicted at the time",
        remedy="a smaller --tile, or free the memory that other programs hold",
    )


def _tiles(n: int) -> str:
    return "1 tile" if n == 1 else f"{n} tiles"
