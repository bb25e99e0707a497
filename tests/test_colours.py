"""Default colours of classes can be told apart, also by people who see colours otherwise.

Colour-vision deficiencies are simulated as Machado, Oliveira and Fernandes do (doi:10.1109/TVCG.2009.113, severity 1),
on linear sRGB; distances are those of CIELAB (1976) under D65, where about 2.3 is just noticeable.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from wsi_seg.card import named_classes

SEEN = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def lab(rgb: tuple[int, int, int], seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB of a colour as it is seen."""
    part = np.array(rgb) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    t = XYZ @ np.clip(seen @ linear, 0, 1) / WHITE
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def closest(n: int, seen: NDArray[np.float64]) -> float:
    """Least distance of any two of the first `n` colours."""
    colours = [lab(entry.rgb, seen) for entry in named_classes([f"class {i}" for i in range(n)])]
    return min(float(np.linalg.norm(a - b)) for a, b in combinations(colours, 2))


def test_known_values() -> None:
    np.testing.assert_allclose(lab((255, 255, 255), SEEN["normal"]), [100, 0, 0], atol=0.02)
    np.testing.assert_allclose(lab((255, 0, 0), SEEN["normal"]), [53.24, 80.09, 67.20], atol=0.05)


@pytest.mark.parametrize("eyes", SEEN)
@pytest.mark.parametrize(("n", "least"), [(2, 60), (3, 47), (5, 20), (9, 16)])
def test_default_colours_can_be_told_apart(eyes: str, n: int, least: float) -> None:
    assert closest(n, SEEN[eyes]) >= least


def test_red_and_green_would_fail() -> None:
    """What the test is for: the palette that was there before (ColorBrewer Set1) had 3.7."""
    red, brown = (lab(rgb, SEEN["protanopia"]) for rgb in ((228, 26, 28), (166, 86, 40)))
    assert np.linalg.norm(red - brown) < 4
