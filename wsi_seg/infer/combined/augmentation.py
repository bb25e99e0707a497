"""Which transformed copies of a tile are predicted besides the tile itself; values only.

Owns the names of the groups of turns and flips, and the rules for scales. Moves no pixel and knows no predictor.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import lcm

from wsi_seg.errors import UsageError

Turn = tuple[int, bool]
"""(quarter turns counter-clockwise, whether columns are reversed first)."""

TURNS: dict[str, tuple[Turn, ...]] = {
    "none": ((0, False),),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "rotations": ((0, False), (1, False), (2, False), (3, False)),
    "d4": tuple((turns, flip) for flip in (False, True) for turns in range(4)),
}
"""Subgroups of the symmetries of a square: the mean over a whole group is itself symmetric under it."""

LARGEST_DENOMINATOR = 20
"""Of a scale as a fraction: the grid of tiles has to keep step with it, so 0.95 is possible and 0.93 is not."""
SCALE_LIMITS = (Fraction(1, 4), Fraction(4))


@dataclass(frozen=True, slots=True)
class Augmentation:
    """The predictions of a tile that are averaged: every turn at every scale. Pickles, hashes, compares by value.

    >>> Augmentation("d4", parse_scales("0.75,1")).text, Augmentation().text
    ('d4, scales 3/4 1', 'none')
    """

    kind: str = "none"
    """One of `TURNS`."""
    scales: tuple[Fraction, ...] = (Fraction(1),)
    """Px of the copy that the model sees per px of the tile."""

    def __post_init__(self) -> None:
        if self.kind not in TURNS:
            raise UsageError(f"--tta {self.kind!r}", rule=f"one of {', '.join(TURNS)}")
        if not self.scales or len(set(self.scales)) != len(self.scales):
            raise UsageError(f"--tta-scales {_listed(self.scales)!r}", rule="one or more, each once")
        for scale in self.scales:
            _check_scale(scale)

    @property
    def is_none(self) -> bool:
        """True where a tile is predicted once, as it is."""
        return self.kind == "none" and not self.rescales

    @property
    def rescales(self) -> bool:
        """True where some copies have another size than the tile."""
        return any(scale != 1 for scale in self.scales)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Turns and flips at every scale."""
        return TURNS[self.kind]

    @property
    def n_predictions(self) -> int:
        """Predictions per tile."""
        return len(self.turns) * len(self.scales)

    @property
    def step(self) -> int:
        """Px by which the tile grid has to keep step: multiples of it are whole px at every scale.

        >>> Augmentation(scales=parse_scales("0.75,1,1.1")).step
        20
        """
        return lcm(*(scale.denominator for scale in self.scales))

    @property
    def text(self) -> str:
        """In words; part of a run's identity."""
        return self.kind if not self.rescales else f"{self.kind}, scales {_listed(self.scales)}"


def parse_scales(text: str) -> tuple[Fraction, ...]:
    """Scales as the command line gives them: decimal numbers or fractions with commas. Raises UsageError.

    >>> parse_scales("0.9,1,5/4")
    (Fraction(9, 10), Fraction(1, 1), Fraction(5, 4))
    """
    try:
        return tuple(Fraction(part.strip()) for part in text.split(","))
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"--tta-scales {text!r}", rule="numbers with commas", remedy="e.g. 0.75,1,1.25") from error


def _check_scale(scale: Fraction) -> None:
    low, high = SCALE_LIMITS
    if low <= scale <= high and scale.denominator <= LARGEST_DENOMINATOR:
        return
    near = min(max(scale, low), high).limit_denominator(LARGEST_DENOMINATOR)
    raise UsageError(
        f"--tta-scales {float(scale):g}",
        rule=f"{low} … {high}, and a fraction with a denominator up to {LARGEST_DENOMINATOR}",
        remedy=f"use {float(near):g} ({near})",
    )


def _listed(scales: tuple[Fraction, ...]) -> str:
    return " ".join(map(str, scales))


NO_AUGMENTATION = Augmentation()
"""Each tile is predicted once, as it is."""
