"""The first runtime that works: owns what counts as a failure of a runtime, and what is told of those passed over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

from wsi_seg.errors import ModelLoadError, PredictorError, PredictorOutOfMemory

_LOG = logging.getLogger(__name__)

T = TypeVar("T")


def first_that_works(attempts: Iterable[tuple[str, Callable[[], T]]]) -> T:
    """What the first attempt gives that loads and runs; `attempts` are at least one, each with a name for people.

    Those that failed before it are warned of. Where all fail, raises the first PredictorError, since it comes from a
    runtime that could load the program, else the first ModelLoadError. PredictorOutOfMemory is raised at once: it says
    nothing of the runtime.
    """
    failures: list[tuple[str, ModelLoadError | PredictorError]] = []
    for name, attempt in attempts:
        try:
            result = attempt()
        except PredictorOutOfMemory:
            raise
        except (ModelLoadError, PredictorError) as error:
            failures.append((name, error))
            continue
        for failed, reason in failures:
            _LOG.warning("%s: %s", failed, reason)
        return result
    reasons = [reason for _, reason in failures]
    raise next((reason for reason in reasons if isinstance(reason, PredictorError)), reasons[0])
