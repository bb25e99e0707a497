"""`wsi_seg.run` and `wsi_seg.open_mask`: a slide and a model in, a result or a lazy label map out.

Owns what Python's callers see of a run: names of options, interruption, warnings. The engine does the work.
"""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from wsi_seg.api.progress import Heard, listener_for
from wsi_seg.api.result import Result, open_result
from wsi_seg.api.wishes import ModelName, wished
from wsi_seg.api.wording import in_python_words
from wsi_seg.engine.options import DEFAULT_MODEL
from wsi_seg.errors import UsageError

if TYPE_CHECKING:
    from wsi_seg.engine.lazy_mask import LazyMask
    from wsi_seg.output.store import Url
    from wsi_seg.slide import Slide


def run(
    slide: str | os.PathLike[str] | Slide,
    model: ModelName | Sequence[ModelName] = DEFAULT_MODEL,
    *,
    out: str | os.PathLike[str] | Url | None = None,
    progress: bool | Heard = False,
    **options: Any,
) -> Result:
    """Segment a slide, or go on where an earlier run of the same settings stopped.

    Args:
        slide: path of a whole-slide image, or an opened slide.
        model: built-in name, path of a program or of a training's folder, `module:factory`; several for an ensemble.
        out: folder or URL of the result, NAME.seg.zarr; None: the slide's name with `.seg.zarr`, in the current folder.
        progress: True: a line on standard error; a function is told (tiles done, tiles in all).
        options: those of `wsi-seg run` by name, with `_` for `-`: `mpp=0.25`, `memory="8G"`, `skip=False`,
            `overlap=64`, `probabilities=True`, `overwrite=True`, …; the fields of `RunOptions` too. None: default.

    Returns:
        The finished result. An interrupt (Ctrl-C, or the stop button of a notebook) keeps what is done: the same call
        goes on. Tiles that could not be read or predicted are not analysed, and a UserWarning says how many.

    Raises:
        UsageError: an option is unknown or wrong.
        OutputExistsError: `out` is a finished result; `overwrite=True` replaces it, `open_result` opens it.
        RunMismatchError: `out` was begun with other settings; `restart=True` begins anew.
        RunStopped: interrupted.
        WsiSegError: any other failure, with rule and remedy.
    """
    with in_python_words():
        asked = wished(model, options)
        _refuse_tiff(out)
        from wsi_seg.engine.run import run_slide

        with _stopped_by_interrupt() as stop:
            place = os.fspath(out) if isinstance(out, os.PathLike) else out
            report = run_slide(_source(slide), asked, out=place, listener=listener_for(progress), stop=stop)
    if report.n_failed_tiles:
        warnings.warn(
            f"{report.n_failed_tiles} tiles could not be read or predicted and are not analysed; "
            "result.summary.problems has the first few",
            stacklevel=2,
        )
    return open_result(report.out)


def open_mask(
    slide: str | os.PathLike[str] | Slide,
    model: ModelName | Sequence[ModelName] = DEFAULT_MODEL,
    *,
    cache_bytes: int | None = None,
    **options: Any,
) -> LazyMask:
    """The label map that `run` would make, predicted where it is looked at: `open_mask(slide)[y0:y1, x0:x1]`.

    Args:
        slide: path of a whole-slide image, or an opened slide.
        model: as for `run`.
        cache_bytes: how much of what was predicted is kept; None: the default.
        options: as for `run`.

    Raises:
        WsiSegError: as `run` does, of what can be refused beforehand.
    """
    with in_python_words():
        from wsi_seg.engine.lazy_mask import open_mask as open_lazily

        kept = {} if cache_bytes is None else {"cache_bytes": cache_bytes}
        return open_lazily(_source(slide), wished(model, options), **kept)


@contextmanager
def _stopped_by_interrupt() -> Iterator[threading.Event]:
    """A flag that Ctrl-C, or a notebook's stop button, sets; a second one does what it did before.

    The kernel of a notebook lives on, as the program of the command line need not. Outside the main thread, or where
    interrupts are ignored, it is a plain flag.
    """
    stop = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield stop
        return

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            before(number, frame)
        stop.set()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _source(slide: str | os.PathLike[str] | Slide) -> Path | Slide:
    return Path(slide) if isinstance(slide, str | os.PathLike) else slide


def _refuse_tiff(out: object) -> None:
    if str(out).lower().endswith((".tif", ".tiff")):
        raise UsageError(
            f"out={str(out)!r}",
            rule="a run from Python makes NAME.seg.zarr",
            remedy="run(…).write_tiff(…) copies it to a TIFF",
        )
