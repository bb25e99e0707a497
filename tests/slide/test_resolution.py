"""Resolutions and downsamples: what is believed and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_seg.errors import UsageError
from wsi_seg.geometry import Mpp, ceil_div
from wsi_seg.slide.resolution import (
    aperio_mpp,
    as_mpp,
    is_reduction,
    level_downsample,
    ome_mpp,
    ome_planes,
    tag_mpp,
)

OME = '<OME xmlns="http://www.openmicroscopy.org/OME"><Image><Pixels SizeX="30" SizeY="20" {}/></Image></OME>'


@pytest.mark.parametrize(
    ("description", "mpp"),
    [
        ("Aperio Image Library v11\r\n1x1|AppMag = 40|MPP = 0.2520|Left = 1", Mpp(0.252, 0.252)),
        ("Aperio|MPP = 0,499", Mpp(0.499, 0.499)),
        ("Aperio|AppMag = 40", None),
        ("Aperio|MPP = 0", None),
        ("Aperio|MPP = 499", None),
        ("Aperio|XMPP = 0.5", None),
    ],
)
def test_aperio_states_its_resolution_as_mpp(description: str, mpp: Mpp | None) -> None:
    assert aperio_mpp(description) == mpp


@pytest.mark.parametrize(
    ("unit", "y", "x", "mpp"),
    [
        (3, 40_000, 20_000, Mpp(0.25, 0.5)),
        (2, 101_600, 50_800, Mpp(0.25, 0.5)),
        (1, 40_000, 40_000, None),  # no unit
        (0, 40_000, 40_000, None),
        (2, 72, 72, None),  # what programs write by default
        (2, 300, 300, None),
        (2, 1200, 1200, None),
        (3, 10, 10, None),  # 1000 um
        (3, 1e9, 1e9, None),
        (3, 0, 40_000, None),
        (3, float("nan"), 40_000, None),
    ],
)
def test_resolution_tags_need_a_unit_and_a_plausible_value(unit: int, y: float, x: float, mpp: Mpp | None) -> None:
    assert tag_mpp(unit, y, x) == mpp


@pytest.mark.parametrize(
    ("attributes", "mpp"),
    [
        ('PhysicalSizeX="0.5" PhysicalSizeY="0.25"', Mpp(0.25, 0.5)),
        ('PhysicalSizeX="500" PhysicalSizeXUnit="nm" PhysicalSizeY="0.00025" PhysicalSizeYUnit="mm"', Mpp(0.25, 0.5)),
        ('PhysicalSizeX="0.5" PhysicalSizeXUnit="pixel" PhysicalSizeY="0.5"', None),
        ('PhysicalSizeX="0.5"', None),
        ('PhysicalSizeX="half" PhysicalSizeY="0.5"', None),
        ("", None),
    ],
)
def test_ome_states_a_physical_size_with_a_unit(attributes: str, mpp: Mpp | None) -> None:
    assert ome_mpp(OME.format(attributes), (20, 30)) == mpp
    assert ome_mpp(OME.format(attributes), (21, 30)) is None


def test_ome_xml_with_entities_or_without_sense_is_not_expanded() -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa">]>' + OME.format('PhysicalSizeX="0.5" PhysicalSizeY="0.5"')
    assert ome_mpp(bomb, (20, 30)) is None
    assert ome_mpp("<OME", (20, 30)) is None


def test_ome_planes_are_z_and_t() -> None:
    assert ome_planes(OME.format('SizeZ="3" SizeT="2" SizeC="3"'), (20, 30)) == 6
    assert ome_planes(OME.format(""), (20, 30)) == 1


@pytest.mark.parametrize("value", [0, -1, 1e6, float("nan"), Mpp(0.5, 500)])
def test_the_users_resolution_must_be_plausible(value: float | Mpp) -> None:
    with pytest.raises(UsageError, match=r"0\.02 to 100"):
        as_mpp(value)
    assert as_mpp(None) is None
    assert as_mpp(Mpp(0.5, 0.25)) == Mpp(0.5, 0.25)


sides = st.integers(400, 200_000)


@given(sides, sides, st.integers(2, 4), st.integers(1, 5), st.booleans())
def test_a_pyramid_of_whole_steps_has_whole_downsamples(height: int, width: int, step: int, n: int, up: bool) -> None:
    size = (height, width)
    for _ in range(n):
        size = (ceil_div(size[0], step), ceil_div(size[1], step)) if up else (size[0] // step, size[1] // step)
    whole = step**n
    if min(size) > 2 * whole:  # below, rounding leaves the ratio open
        assert is_reduction((height, width), size)
        assert level_downsample((height, width), size) == (float(whole), float(whole))


@given(st.tuples(sides, sides), st.floats(1.3, 50), st.floats(1.1, 3))
def test_another_shape_is_no_reduction(size: tuple[int, int], ratio: float, stretch: float) -> None:
    other = (round(size[0] / ratio), round(size[1] / ratio / stretch))
    if min(other) > 50:
        assert not is_reduction(size, other)


def test_a_level_is_no_reduction_of_itself_or_of_something_smaller() -> None:
    assert not is_reduction((100, 200), (100, 200))
    assert not is_reduction((100, 200), (200, 400))
