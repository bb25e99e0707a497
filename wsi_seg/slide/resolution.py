"""What a file says about its resolution, and how its levels relate; owns the rules of plausibility.

Pure functions of numbers and texts. Knows no file and no library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite, log2, sqrt
from xml.parsers import expat

from wsi_seg.errors import UsageError
from wsi_seg.geometry import Level, Mpp

PLAUSIBLE_UM = (0.02, 100.0)
"""µm per px that a slide's level 0 can have; anything else in a file is taken as not stated."""
PRINT_DPI = 1200.0
"""Resolutions in px per inch up to here are print settings that programs write by default, not measurements."""
_UM_PER_UNIT = {"pm": 1e-6, "Å": 1e-4, "nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_UM_PER_INCH = 25_400.0
_UM_PER_CM = 10_000.0
_INCH, _CENTIMETRE = 2, 3
_MAX_XML_CHARACTERS = 16 << 20
_MAX_XML_DEPTH = 64


def as_mpp(value: Mpp | float | None) -> Mpp | None:
    """The user's resolution of level 0 as a value per axis. Raises UsageError where it is not plausible.

    >>> as_mpp(0.25)
    Mpp(y=0.25, x=0.25)
    """
    if value is None:
        return None
    y, x = (value.y, value.x) if isinstance(value, Mpp) else (float(value), float(value))
    found = plausible_mpp(y, x)
    if found is None:
        low, high = PLAUSIBLE_UM
        raise UsageError(f"resolution {y:g} x {x:g} um/px", rule=f"{low} to {high} um/px", remedy="give um per pixel")
    return found


def plausible_mpp(y: float, x: float) -> Mpp | None:
    """The resolution, or None where an axis is out of range.

    >>> plausible_mpp(0.5, 0.25), plausible_mpp(0.5, 1e9), plausible_mpp(float("nan"), 1)
    (Mpp(y=0.5, x=0.25), None, None)
    """
    low, high = PLAUSIBLE_UM
    return Mpp(y, x) if all(isfinite(side) and low <= side <= high for side in (y, x)) else None


def aperio_mpp(description: str) -> Mpp | None:
    """Resolution from the `MPP =` entry of an Aperio image description.

    >>> aperio_mpp("Aperio Image Library|AppMag = 20|MPP = 0.4990|Left = 25.7")
    Mpp(y=0.499, x=0.499)
    """
    found = re.search(r"\|\s*MPP\s*=\s*(\d+(?:[.,]\d*)?)", description)
    if not found:
        return None
    value = float(found[1].replace(",", "."))
    return plausible_mpp(value, value)


def tag_mpp(unit: int, px_per_unit_y: float, px_per_unit_x: float) -> Mpp | None:
    """Resolution from TIFF's resolution tags; None without a unit, where it is implausible, and for print settings.

    >>> tag_mpp(3, 20_000, 40_000), tag_mpp(1, 20_000, 20_000), tag_mpp(2, 300, 300)
    (Mpp(y=0.5, x=0.25), None, None)
    """
    if unit not in (_INCH, _CENTIMETRE) or not (px_per_unit_y > 0 and px_per_unit_x > 0):
        return None
    if unit == _INCH and min(px_per_unit_y, px_per_unit_x) <= PRINT_DPI:
        return None
    um = _UM_PER_INCH if unit == _INCH else _UM_PER_CM
    return plausible_mpp(um / px_per_unit_y, um / px_per_unit_x)


def ome_mpp(xml: str, size: tuple[int, int]) -> Mpp | None:
    """Physical pixel size in OME-XML of the image whose level 0 has `size`; None where it is absent or implausible."""
    for pixels in _ome_pixels(xml):
        if (pixels.get("SizeY"), pixels.get("SizeX")) == (str(size[0]), str(size[1])):
            return _physical_size(pixels)
    return None


def ome_planes(xml: str, size: tuple[int, int]) -> int:
    """Planes (z and t) of the image whose level 0 has `size`; 1 where the XML does not say."""
    for pixels in _ome_pixels(xml):
        if (pixels.get("SizeY"), pixels.get("SizeX")) == (str(size[0]), str(size[1])):
            sizes = [pixels.get("SizeZ", "1"), pixels.get("SizeT", "1")]
            return int(sizes[0]) * int(sizes[1]) if all(side.isdigit() for side in sizes) else 1
    return 1


def unit_um(unit: str) -> float | None:
    """µm in one `unit` of length, by symbol or by its English name; None for another unit.

    >>> unit_um("micrometer"), unit_um("mm"), unit_um("pixel")
    (1.0, 1000.0, None)
    """
    names = {"picometer": "pm", "angstrom": "Å", "nanometer": "nm", "micrometer": "µm", "micron": "µm"}
    names |= {"millimeter": "mm", "centimeter": "cm", "meter": "m"}
    return _UM_PER_UNIT.get(names.get(unit.replace("metre", "meter"), unit))


def stored_levels(
    sizes: Sequence[tuple[int, int]], tiles: Sequence[tuple[int, int] | None] | None = None
) -> tuple[Level, ...]:
    """Levels of the given (height, width), finest first, with downsamples from the sizes.

    >>> [level.downsample for level in stored_levels([(3567, 4443), (1783, 2221)])]
    [(1.0, 1.0), (2.0, 2.0)]
    """
    known = tiles or [None] * len(sizes)
    return tuple(Level(size, level_downsample(sizes[0], size), tile) for size, tile in zip(sizes, known, strict=True))


def level_downsample(l0_size: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    """Level-0 px per px of a level of `size`, (y, x): a whole number where both axes agree with it within rounding.

    >>> level_downsample((32_914, 46_000), (8228, 11_500)), level_downsample((1000, 1000), (300, 300))
    ((4.0, 4.0), (3.3333333333333335, 3.3333333333333335))
    """
    ratios = l0_size[0] / size[0], l0_size[1] / size[1]
    mean = sqrt(ratios[0] * ratios[1])
    for whole in (1 << max(0, round(log2(mean))), max(1, round(mean))):
        if all(abs(side * whole - l0_side) < whole for side, l0_side in zip(size, l0_size, strict=True)):
            return float(whole), float(whole)
    return ratios


def is_reduction(l0_size: tuple[int, int], size: tuple[int, int]) -> bool:
    """True where `size` is smaller than level 0 and has its shape, sides being rounded up or down at every step.

    >>> is_reduction((32_914, 46_000), (8228, 11_500)), is_reduction((2967, 2220), (431, 1280))
    (True, False)
    """
    if size == l0_size or size[0] > l0_size[0] or size[1] > l0_size[1]:
        return False
    # The true reduction lies, on each axis, between the ratios of sides that are one px off.
    low = max(l0_side / (side + 1) for side, l0_side in zip(size, l0_size, strict=True))
    high = min(l0_side / (side - 1) if side > 1 else float("inf") for side, l0_side in zip(size, l0_size, strict=True))
    return low <= high


def _ome_pixels(xml: str) -> list[dict[str, str]]:
    """Attributes of all `Pixels` elements; none where the text is no sound XML. No tree is made of it."""
    # Entities are refused unread: expanding them is the way to make a small file large.
    if len(xml) > _MAX_XML_CHARACTERS or "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        return []
    found: list[dict[str, str]] = []
    parser, depth = expat.ParserCreate(), 0

    def begin(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_XML_DEPTH:
            raise ValueError("elements within elements without end")
        if name.rpartition(":")[2] == "Pixels":
            found.append(attributes)

    def end(_: str) -> None:
        nonlocal depth
        depth -= 1

    parser.StartElementHandler, parser.EndElementHandler = begin, end
    try:
        parser.Parse(xml, True)
    except (expat.ExpatError, ValueError):
        return []
    return found


def _physical_size(pixels: Mapping[str, str]) -> Mpp | None:
    sides = []
    for axis in "YX":
        um = unit_um(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        try:
            value = float(pixels.get(f"PhysicalSize{axis}", "nan"))
        except ValueError:
            return None
        sides.append(value * um if um else float("nan"))
    return plausible_mpp(*sides)
