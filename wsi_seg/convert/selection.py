"""What of a result is converted: its classes and its level, and where that level lies in the slide.

Owns the checks of both. Knows no format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import UsageError
from wsi_seg.geometry import Mpp
from wsi_seg.output.label_store import Result
from wsi_seg.output.result_spec import ResultSpec


@dataclass(frozen=True, slots=True)
class Frame:
    """Place of a level in its slide."""

    size: tuple[int, int]
    """(height, width), px of the level."""
    mpp: Mpp
    """Of a px of the level."""
    l0_per_px: tuple[float, float]
    """Level-0 px per px of the level, (y, x)."""
    l0_offset: tuple[float, float]
    """Corner of the level in the slide, level-0 px (y, x)."""

    @property
    def px_um2(self) -> float:
        """Area of a px, µm²."""
        return self.mpp.y * self.mpp.x


def frame_of(spec: ResultSpec, level: int) -> Frame:
    """Frame of a level of a result. Raises UsageError where the pyramid has no such level."""
    if level not in range(spec.layout.n_levels):
        raise UsageError(
            f"level {level}", rule=f"the result has levels 0 to {spec.layout.n_levels - 1}, each half as large"
        )
    mpp = spec.level_mpp(level)
    return Frame(spec.layout.level_size(level), mpp, (mpp.y / spec.l0_mpp.y, mpp.x / spec.l0_mpp.x), spec.l0_offset)


def chosen_classes(result: Result, names: Sequence[str] | None) -> tuple[int, ...]:
    """Indices of the named classes, ascending; without names all but the first, the background.

    Raises UsageError: an unknown name, or none at all.
    """
    known = [entry.name for entry in result.spec.classes]
    if names is None:
        return tuple(range(1, len(known)))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        what = f"class {unknown[0]!r}" if unknown else "no class"
        raise UsageError(what, rule=f"classes of the result are {', '.join(known)}")
    return tuple(sorted({known.index(name) for name in names}))


def wanted_labels(spec: ResultSpec, classes: Sequence[int]) -> NDArray[np.bool_]:
    """Per label whether it is one of the classes, (256,) or (65536,)."""
    wanted = np.zeros(np.iinfo(spec.dtype).max + 1, np.bool_)
    wanted[list(classes)] = True
    return wanted
