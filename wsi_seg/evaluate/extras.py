"""One answer to a missing library of the extra `evaluate`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from wsi_seg.errors import EvaluationError


@contextmanager
def extra_needed() -> Iterator[None]:
    """Turns the ImportError of scipy or matplotlib into EvaluationError with the command that installs them."""
    try:
        yield
    except ImportError as error:
        raise EvaluationError(
            f"{error.name or 'a library'} is not installed",
            rule="scores of boundaries and objects need scipy, the picture needs matplotlib",
            remedy="pip install 'wsi-seg[evaluate]'",
        ) from error
