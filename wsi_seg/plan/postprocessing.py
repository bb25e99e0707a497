"""What is done to labels after the prediction, in px of the canvas, and how far it looks; owns the steps' order.

Steps are values: the engine carries them out. Each has a finite reach: a label depends on what lies within it, and on
nothing else, so blocks computed with a margin of the sum of the reaches join without a seam. Knows no pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from math import ceil, isfinite, isqrt, sqrt
from typing import Any, ClassVar

from wsi_seg.card import ModelCard
from wsi_seg.errors import PlanError, UsageError
from wsi_seg.geometry import Box, Mpp

ALL = ""
"""Key of an area that holds for every class without one of its own, but for class 0."""
WINDOW_FACTOR = 4
"""An object or a hole is only small when it fits into a square of this many times the root of its area limit."""
MAX_MARGIN = 2048
"""Px that a block may be grown by; beyond, most of the work would be done in margins."""
SMALLEST_PIECE = 512
"""Side of the squares that a step is done in, where its reach is small."""
MAX_CRF_RADIUS = 16
MAX_CRF_ITERATIONS = 20
MAX_CRF_WEIGHT = 32.0


@dataclass(frozen=True, slots=True)
class CrfWishes:
    """The CRF as the user asked for it."""

    radius_um: float = 2.0
    """How far a px listens, µm."""
    iterations: int = 5
    """Steps of the mean field."""
    colour: float = 20.0
    """Distance of two RGB colours (each channel 0 … 255) at which px are still alike: standard deviation."""
    weight: float = 3.0
    """Pull of the neighbours: log odds gained where all around are alike and of one class."""


@dataclass(frozen=True, slots=True)
class PostWishes:
    """What the user asked for; areas in µm², by class name or for `ALL`."""

    min_object: Mapping[str, float] = field(default_factory=dict)
    """Objects below these areas are removed."""
    fill_holes: Mapping[str, float] = field(default_factory=dict)
    """Holes below these areas are filled."""
    crf: CrfWishes | None = None
    """None: no CRF."""


@dataclass(frozen=True, slots=True)
class Crf:
    """Labels from the marginals of a convolutional CRF (arXiv:1805.04777) over the blended probabilities."""

    radius: int
    iterations: int
    colour: float
    weight: float
    name: ClassVar[str] = "crf"

    @property
    def reach(self) -> int:
        """Px that a label may depend on, on every side."""
        return self.radius * self.iterations

    def text(self, _names: tuple[str, ...]) -> str:
        """The step in words."""
        return f"radius {self.radius} px, {self.iterations} iterations, colour {self.colour:g}, weight {self.weight:g}"


@dataclass(frozen=True, slots=True)
class FillHoles:
    """Holes of fewer than `limits` px, which fit into `windows`, take the class that encloses them."""

    limits: tuple[int, ...]
    """Px per class; 0: the class' holes stay."""
    windows: tuple[int, ...]
    """Side of the square, px, per class."""
    name: ClassVar[str] = "fill_holes"

    @property
    def reach(self) -> int:
        """Px that a label may depend on, on every side."""
        return max(self.windows)

    def text(self, names: tuple[str, ...]) -> str:
        """The step in words."""
        return _limits_text(self.limits, self.windows, names)


@dataclass(frozen=True, slots=True)
class RemoveObjects:
    """Objects of fewer than `limits` px, which fit into `windows`, take the class that they face most."""

    limits: tuple[int, ...]
    """Px per class; 0: the class' objects stay."""
    windows: tuple[int, ...]
    """Side of the square, px, per class."""
    name: ClassVar[str] = "min_object"

    @property
    def reach(self) -> int:
        """Px that a label may depend on, on every side: what faces an object may belong to another small one."""
        return 2 * max(self.windows)

    def text(self, names: tuple[str, ...]) -> str:
        """The step in words."""
        return _limits_text(self.limits, self.windows, names)


Step = Crf | FillHoles | RemoveObjects


def piece_side(step: Step) -> int:
    """Side of the squares that a step is done in, px: small, so that what it holds is; its margin is not most of it."""
    return max(SMALLEST_PIECE, 4 * step.reach)


@dataclass(frozen=True, slots=True)
class Postprocessing:
    """Steps in the order in which they are done; none: labels stay what they are."""

    steps: tuple[Step, ...] = ()

    @property
    def margin(self) -> int:
        """Px that a block is grown by, so that its own labels are exact."""
        return sum(step.reach for step in self.steps)

    @property
    def crf(self) -> Crf | None:
        """The CRF among the steps; it comes first."""
        return next((step for step in self.steps if isinstance(step, Crf)), None)

    def window(self, box: Box, canvas: Box) -> Box:
        """Canvas px that have to be predicted for the labels of `box`."""
        return box.grown(self.margin).intersect(canvas)

    def to_mapping(self) -> list[dict[str, Any]]:
        """Plain values for JSON, in order."""
        return [{"step": step.name, **asdict(step)} for step in self.steps]

    def rows(self, names: tuple[str, ...]) -> list[tuple[str, str]]:
        """(step, text) for people; empty where there are none."""
        words = {"crf": "CRF", "fill_holes": "holes filled", "min_object": "objects removed"}
        rows = [(words[step.name], step.text(names)) for step in self.steps]
        return [*rows, ("margin of a block", f"{self.margin} px")] if rows else []


def plan_postprocessing(wishes: PostWishes, card: ModelCard, canvas_mpp: Mpp) -> Postprocessing:
    """The steps asked for, in px: CRF, then holes, then objects, so that an object is judged whole.

    Raises:
        UsageError: an unknown class, or a value that is out of range on every slide.
        PlanError: what does not fit this slide's px: an area of less than two, too large a radius or margin.
    """
    steps: list[Step] = []
    if wishes.crf is not None:
        steps.append(_crf(wishes.crf, canvas_mpp))
    makers: tuple[tuple[str, Mapping[str, float], Callable[..., Step]], ...] = (
        ("--fill-holes", wishes.fill_holes, FillHoles),
        ("--min-object", wishes.min_object, RemoveObjects),
    )
    for option, areas, step in makers:
        if areas:
            limits = _limits(option, areas, card, canvas_mpp)
            steps.append(step(limits, tuple(_window(limit) for limit in limits)))
    planned = Postprocessing(tuple(steps))
    if planned.margin > MAX_MARGIN:
        parts = ", ".join(f"{step.name} {step.reach}" for step in steps)
        raise PlanError(
            f"the post-processing looks {planned.margin} px far ({parts})",
            rule=f"blocks are grown by at most {MAX_MARGIN} px",
            remedy="use smaller areas, or remove large objects from the finished result",
        )
    return planned


def postprocessing_notes(planned: Postprocessing, block: int, *, batch_independent: bool) -> list[str]:
    """What a user should know, in words."""
    notes = []
    if 4 * planned.margin > block:
        notes.append(f"post-processing looks {planned.margin} px beyond blocks of {block} px: much is done twice")
    if planned.steps and not batch_independent:
        notes.append("predictions depend on their batch: post-processed labels may differ at borders of blocks")
    return notes


def _crf(wishes: CrfWishes, mpp: Mpp) -> Crf:
    px_um = sqrt(mpp.y * mpp.x)
    most = f"at most {(MAX_CRF_RADIUS + 0.5) * px_um:.3g} um ({MAX_CRF_RADIUS} px here)"
    asked = f"--crf-radius {wishes.radius_um:g}"
    checks = (
        (isfinite(wishes.radius_um) and wishes.radius_um > 0, asked, f"above 0 and {most}"),
        (
            1 <= wishes.iterations <= MAX_CRF_ITERATIONS,
            f"--crf-iterations {wishes.iterations}",
            f"1 … {MAX_CRF_ITERATIONS}",
        ),
        (0.5 <= wishes.colour <= 1000, f"--crf-colour {wishes.colour:g}", "0.5 … 1000 grey levels"),
        (
            0 < wishes.weight <= MAX_CRF_WEIGHT,
            f"--crf-weight {wishes.weight:g}",
            f"above 0, at most {MAX_CRF_WEIGHT:g}",
        ),
    )
    for sound, what, rule in checks:
        if not sound:
            raise UsageError(what, rule=rule)
    radius = max(1, round(wishes.radius_um / px_um))
    if radius > MAX_CRF_RADIUS:
        raise PlanError(asked, rule=most)
    return Crf(radius, wishes.iterations, float(wishes.colour), float(wishes.weight))


def _limits(option: str, areas: Mapping[str, float], card: ModelCard, mpp: Mpp) -> tuple[int, ...]:
    """Px per class below which a component is small."""
    names = [entry.name for entry in card.classes]
    for name, area in areas.items():
        if name != ALL and name not in names[1:]:
            what = f"{option} for class {name!r}"
            raise UsageError(what, rule=f"one of the classes other than the first: {', '.join(names[1:])}")
        least = "0 (the class is left alone)" if name != ALL else "an area above 0"
        if not (isfinite(area) and (area > 0 or (area == 0 and name != ALL))):
            raise UsageError(f"{option} {area:g}", rule=f"{least}, in um2" if name == ALL else f"{least} or more um2")
    px_um2 = mpp.y * mpp.x
    asked = [areas.get(name, areas.get(ALL)) for name in names[1:]]
    limits = [0 if area is None else ceil(area / px_um2) for area in asked]
    if 1 in limits:
        rule = f"a px is {px_um2:.3g} um2, and nothing is smaller"
        what = f"{option} {asked[limits.index(1)]:g}"
        raise PlanError(what, rule=rule, remedy=f"use more than {px_um2:.3g}, or leave it out")
    return (0, *limits)


def _window(limit: int) -> int:
    """ceil(WINDOW_FACTOR * sqrt(limit)), in integers; 0 where there is no limit."""
    return isqrt(WINDOW_FACTOR**2 * limit - 1) + 1 if limit else 0


def _limits_text(limits: tuple[int, ...], windows: tuple[int, ...], names: tuple[str, ...]) -> str:
    """Classes with equal limits together: `nuclei below 80 px`."""
    groups: dict[int, list[str]] = {}
    for name, limit in zip(names, limits, strict=True):
        if limit:
            groups.setdefault(limit, []).append(name)
    sides = dict(zip(limits, windows, strict=True))
    return "; ".join(f"{', '.join(of)} below {n} px within {sides[n]} px" for n, of in groups.items())
