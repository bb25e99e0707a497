"""Which stored level is read and how its pixels become canvas pixels; owns the resolution rules of D8.

Knows level sizes and resolutions only: no pixels, no model beyond its µm per px, no file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import PlanError
from wsi_seg.geometry import Box, Level, Mpp

TOLERANCE = 0.05
"""Relative error of the resolution that is accepted instead of resampling, or of resampling by a fraction."""
MAX_UPSAMPLING = 2.0
"""A slide this many times coarser than the model is still read, enlarged; beyond, it is refused."""
MAX_REDUCTION = 256.0
"""Level px per canvas px, per axis, that the resampling takes; beyond, a resolution is misstated."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How the canvas lies on a stored level; the canvas starts at the upper left corner of the scanned bounds.

    Canvas px (Y, X) covers the level px [oy + Y * fy, oy + (Y + 1) * fy) x [ox + X * fx, ox + (X + 1) * fx), where
    (oy, ox) is `level_origin` and (fy, fx) is `factor`.
    """

    level: int
    """Index of the slide's level that is read."""
    factor: tuple[float, float]
    """Level px per canvas px, (y, x); 1.0 on an axis where the canvas is the level's own grid."""
    canvas_mpp: Mpp
    """Resolution of the canvas."""
    canvas_size: tuple[int, int]
    """(height, width) of the canvas."""
    level_origin: tuple[int, int]
    """Level px (y, x) of the canvas' upper left corner."""
    downsample: tuple[float, float]
    """Level-0 px per level px, (y, x)."""
    upsampled: bool
    """True where the slide is coarser than the model, beyond the tolerance."""
    reduction: int = 1
    """Parts of a side that the tiles of `stored_level` are decoded at; 1: whole."""
    n_reduced: int = 0
    """How many of the levels up to `level` are not stored."""

    @property
    def stored_level(self) -> int:
        """Number of the level among those that the file stores, of which the pixels are."""
        return self.level - self.n_reduced

    @property
    def is_native(self) -> bool:
        """True when canvas pixels are level pixels: nothing is resampled."""
        return self.factor == (1.0, 1.0)

    @property
    def l0_per_px(self) -> tuple[float, float]:
        """Level-0 px per canvas px, (y, x)."""
        return self.downsample[0] * self.factor[0], self.downsample[1] * self.factor[1]

    @property
    def l0_offset(self) -> tuple[float, float]:
        """Level-0 px (y, x) of the canvas' upper left corner."""
        return self.level_origin[0] * self.downsample[0], self.level_origin[1] * self.downsample[1]

    @property
    def read_cost(self) -> float:
        """Level px read per canvas px."""
        return self.factor[0] * self.factor[1]

    def level_box(self, box: Box) -> Box:
        """Level px that the canvas px of `box` need, as the resampling asks for them; may leave the slide."""
        if self.is_native:
            return box.shift(*self.level_origin)
        from wsi_kernels import area_source_box

        return Box(*area_source_box((box.y0, box.x0, box.y1, box.x1), self.factor)).shift(*self.level_origin)

    def canvas_points(self, l0_points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Canvas coordinates of level-0 points, both float64 (n, 2) as (y, x)."""
        offset, step = np.array(self.l0_offset, np.float64), np.array(self.l0_per_px, np.float64)
        points: NDArray[np.float64] = (np.asarray(l0_points, np.float64) - offset) / step
        return points

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON; the same however tiles could be decoded, as long as they are decoded whole."""
        return {
            "level": self.stored_level,
            "factor": list(self.factor),
            "canvas_mpp": [self.canvas_mpp.y, self.canvas_mpp.x],
            "canvas_size": list(self.canvas_size),
            "level_origin": list(self.level_origin),
            **({"reduction": self.reduction} if self.reduction > 1 else {}),
        }


def choose_scale(
    levels: tuple[Level, ...], l0_mpp: Mpp, bounds: Box, model_mpp: float, tolerance: float = TOLERANCE
) -> Scale:
    """The coarsest stored level that is not coarser than the model, and the factor that brings it to the model's mpp.

    Where the slide offers that level reduced by a whole part of the factor, the coarsest such reduction is read in its
    place: the canvas is the same, px for px.

    Each axis is treated by itself. A factor within `tolerance` of a whole number becomes that number: 1 means that
    nothing is resampled, 2 that px are averaged in pairs instead of by uneven shares. `canvas_mpp` tells the result.

    Args:
        levels: stored levels and their reductions, finest first.
        l0_mpp: resolution of level 0.
        bounds: scanned box, level-0 px; the canvas covers it.
        model_mpp: resolution the model was trained at, µm per px.
        tolerance: relative error of the resolution that is accepted.

    Raises:
        PlanError: there is nothing to read, or the slide is too coarse (`MAX_UPSAMPLING`) or fine (`MAX_REDUCTION`).

    >>> whole, quarter = Level((4000, 6000), (1.0, 1.0)), Level((1000, 1500), (4.0, 4.0))
    >>> scale = choose_scale((whole, quarter), Mpp(0.2527, 0.2527), Box(0, 0, 4000, 6000), 0.5)
    >>> scale.level, scale.factor, scale.canvas_size, scale.canvas_mpp
    (0, (2.0, 2.0), (2000, 3000), Mpp(y=0.5054, x=0.5054))
    """
    if not levels or bounds.is_empty:
        raise PlanError(f"{len(levels)} levels and bounds {bounds}", rule="a slide has a level and non-empty bounds")
    index = _level_for(levels, l0_mpp, model_mpp * (1 + tolerance))
    level = levels[index]
    level_mpp = l0_mpp.scaled(*level.downsample)
    factor = (_factor(model_mpp / level_mpp.y, tolerance), _factor(model_mpp / level_mpp.x, tolerance))
    if min(factor) * MAX_UPSAMPLING < 1 or max(factor) > MAX_REDUCTION:
        raise _too_far(level_mpp, model_mpp)
    part = _level_part(level, levels[0].size, bounds)
    canvas_size = (max(1, round(part.height / factor[0])), max(1, round(part.width / factor[1])))
    origin = (part.y0, part.x0)
    canvas_mpp = level_mpp.scaled(*factor)
    n_reduced = sum(other.reduction > 1 for other in levels[:index])
    upsampled = min(factor) < 1
    scale = Scale(
        index, factor, canvas_mpp, canvas_size, origin, level.downsample, upsampled=upsampled, n_reduced=n_reduced
    )
    return _reduced(scale, levels)


def scale_notes(scale: Scale, levels: tuple[Level, ...], model_mpp: float) -> list[str]:
    """What a user should know about the choice, in words; empty when there is nothing unusual."""
    notes = []
    if scale.upsampled:
        notes.append(
            f"the slide is coarser than the model's {model_mpp:g} um/px: it is enlarged "
            f"{1 / min(scale.factor):.2f} times, and detail that the model was trained on is missing"
        )
    n_read = scale.read_cost * scale.reduction**2
    if n_read > 8:
        is_last = all(level.reduction > 1 for level in levels[scale.level + 1 :])
        remedy = "no coarser level is stored" if is_last else "the next level is too coarse"
        notes.append(f"{n_read:.0f} stored px are read per predicted px: {remedy}")
    return notes


def _reduced(scale: Scale, levels: tuple[Level, ...]) -> Scale:
    """The same canvas from the coarsest reduction of the level that divides its factor and its origin, if there is one.

    One that does not divide the factor would be resampled by uneven shares of px that are averages already: that
    differs from the averages of stored px by 20 dB more.
    """
    reduced = scale
    for index in range(scale.level + 1, len(levels)):
        parts = levels[index].reduction
        if parts == 1:
            break
        if any(side % parts for side in (*scale.factor, *scale.level_origin)):
            continue
        reduced = replace(
            scale,
            level=index,
            factor=(scale.factor[0] / parts, scale.factor[1] / parts),
            level_origin=(scale.level_origin[0] // parts, scale.level_origin[1] // parts),
            downsample=levels[index].downsample,
            reduction=parts,
            n_reduced=index - scale.stored_level,
        )
    return reduced


def _level_for(levels: tuple[Level, ...], l0_mpp: Mpp, limit: float) -> int:
    """Index of the coarsest stored level that is at most `limit` µm per px on both axes; the finest when none is."""
    fine = [i for i, level in enumerate(levels) if level.reduction == 1 and _coarsest_axis(level, l0_mpp) <= limit]
    return max(fine, key=lambda i: _coarsest_axis(levels[i], l0_mpp), default=0)


def _coarsest_axis(level: Level, l0_mpp: Mpp) -> float:
    return max(l0_mpp.y * level.downsample[0], l0_mpp.x * level.downsample[1])


def _factor(exact: float, tolerance: float) -> float:
    whole = float(max(1, round(exact)))
    return whole if abs(exact / whole - 1) <= tolerance else exact


def _level_part(level: Level, l0_size: tuple[int, int], bounds: Box) -> Box:
    """The bounds in px of a level, at least one px, inside the level."""
    y0, y1 = _axis_part(bounds.y0, bounds.y1, level.downsample[0], level.size[0], l0_size[0])
    x0, x1 = _axis_part(bounds.x0, bounds.x1, level.downsample[1], level.size[1], l0_size[1])
    return Box(y0, x0, y1, x1)


def _axis_part(l0_start: int, l0_end: int, downsample: float, size: int, l0_size: int) -> tuple[int, int]:
    """One axis of `_level_part`; bounds that reach the slide's end reach the level's end, however it was rounded."""
    start = min(max(0, round(l0_start / downsample)), size - 1)
    end = size if l0_end >= l0_size else min(round(l0_end / downsample), size)
    return start, max(start + 1, end)


def _too_far(level_mpp: Mpp, model_mpp: float) -> PlanError:
    return PlanError(
        f"the nearest stored level has {level_mpp.y:g} x {level_mpp.x:g} um/px (y, x), the model needs {model_mpp:g}",
        rule=f"a level may be at most {MAX_UPSAMPLING:g} times coarser or {MAX_REDUCTION:g} times finer than the model",
        remedy="give the true resolution with --mpp if it is misstated, else use a model for this one",
    )
