"""What synthetic H&E looks like: square textures that can be laid beside one another in any order without a seam.

Owns the picture (stains, fibres, glands, nuclei) and its ground truth. Knows no slide, no level and no file.

Every texture of a family is toroidal and shares its border with all others of the family: smooth fields are blended
into one common field at the border, and the nuclei near it are the same everywhere. So no mosaic of them has a seam.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

CELL = 1024
"""Side of a texture in level-0 px."""
GLASS, STROMA, NUCLEUS = 0, 1, 2
"""Values of the ground truth: glass or lumen; tissue; nucleus."""

_WHITE = np.array((245.0, 243.0, 246.0), np.float32)
# Natural optical density per unit of stain, after Ruifrok & Johnston 2001 (PMID 11531144); eosin is moved towards the
# salmon of a slide scanner, whose blue channel sees more of it.
_HAEMATOXYLIN = np.array((0.65, 0.70, 0.29), np.float32) * 1.9
_EOSIN = np.array((0.10, 0.80, 0.46), np.float32) * 1.3
_DENSEST_PER_MM2 = 16000.0
_SEAM_UM = 40.0
_LARGEST_NUCLEUS_UM = 12.0
_NEST_EDGE, _LUMEN_EDGE, _CLUSTER_EDGE = 0.75, 2.0, -2.0


@dataclass(frozen=True, slots=True)
class Texture:
    """One square of picture with its ground truth."""

    rgb: NDArray[np.uint8]
    """(CELL, CELL, 3) RGB."""
    labels: NDArray[np.uint8]
    """(CELL, CELL): GLASS, STROMA or NUCLEUS."""


@dataclass(frozen=True, slots=True)
class _Fields:
    """Toroidal smooth fields, (CELL, CELL) each, of unit variance but for `angle`."""

    nest: Field
    """High: epithelial nests, at its peaks their lumen; very low: clusters of lymphocytes."""
    tone: Field
    """How strongly eosin binds, over tens of µm."""
    fibre: Field
    """Collagen fibres along `angle`."""
    angle: Field
    """Direction of the fibres, radians."""
    grain: Field
    """Texture of a few px: chromatin and cytoplasm."""


class TextureFamily:
    """Textures of one seed and resolution that fit beside one another; every member is a pure function of its index."""

    def __init__(self, seed: int, mpp: float) -> None:
        self.seed, self.mpp = seed, mpp

    def rng(self, *key: int) -> np.random.Generator:
        """Random numbers of one purpose, independent of those of every other key."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, *key])))

    @cached_property
    def ragged(self) -> Field:
        """(CELL, CELL) toroidal field in [-1, 1] that roughens an outline."""
        rng = self.rng(1)
        rough = _noise(rng, 12.0 / self.mpp) + 0.6 * _noise(rng, 3.0 / self.mpp)
        return np.clip(rough / 2.5, -1, 1).astype(np.float32)

    def glass(self) -> Texture:
        """Empty glass: the light's white with the noise of a sensor."""
        noise = self.rng(2).standard_normal((CELL, CELL, 3), np.float32) * 1.2
        return Texture(_to_uint8(_WHITE + noise), np.full((CELL, CELL), GLASS, np.uint8))

    def tissue(self, index: int, cellularity: float = 0.5) -> Texture:
        """Member `index` >= 0 of the family: fibrous at `cellularity` 0, rich in nests and nuclei at 1."""
        seam = self._seam
        own = self._shifted(self.rng(3, index))
        mixed = _Fields(**{name: _blend(value, getattr(own, name), seam) for name, value in _items(self._shared)})
        away = 1 - seam
        mixed = replace(
            mixed, nest=mixed.nest + away * (1.1 * cellularity - 0.5), tone=mixed.tone + away * (0.4 - cellularity)
        )
        nuclei = Nuclei(self.mpp)
        nuclei.scatter(self._shared, self.rng(4), near_border=True)
        nuclei.scatter(mixed, self.rng(5, index), near_border=False)
        return _stain(mixed, nuclei)

    @cached_property
    def _seam(self) -> Field:
        """1 on the border, 0 from `_SEAM_UM` inwards; a smooth step between."""
        distance = np.minimum(np.arange(CELL), np.arange(CELL)[::-1]).astype(np.float32)
        ramp = 1 - _step(distance, 0, min(_SEAM_UM / self.mpp, CELL / 3))
        return np.asarray(np.maximum(ramp[:, None], ramp[None, :]), np.float32)

    @cached_property
    def _shared(self) -> _Fields:
        rng = self.rng(6)
        turn = np.arctan2(_noise(rng, 60 / self.mpp), _noise(rng, 60 / self.mpp))
        angle = np.asarray(turn / 2, np.float32)
        return _Fields(
            nest=_unit(_noise(rng, 26 / self.mpp) + 0.25 * _noise(rng, 6 / self.mpp)),
            tone=_unit(_noise(rng, 35 / self.mpp) + 0.5 * _noise(rng, 8 / self.mpp)),
            fibre=_fibres(rng, angle, self.mpp),
            angle=angle,
            grain=_unit(_noise(rng, 0.55 / self.mpp) + 0.5 * _noise(rng, 1.3 / self.mpp)),
        )

    def _shifted(self, rng: np.random.Generator) -> _Fields:
        """The shared fields, each rolled by its own random way (fibres together with their angle): toroidal again."""
        ways = {name: tuple(int(v) for v in rng.integers(0, CELL, 2)) for name in ("nest", "tone", "fibre", "grain")}
        ways["angle"] = ways["fibre"]
        return _Fields(**{name: np.roll(value, ways[name], (0, 1)) for name, value in _items(self._shared)})


class Nuclei:
    """Haematoxylin and outline of nuclei, drawn one by one into a toroidal square of `mpp` um/px."""

    def __init__(self, mpp: float) -> None:
        self.mpp = mpp
        self.stain = np.zeros((CELL, CELL), np.float32)
        """Haematoxylin in the nucleus, 0 … about 1.2."""
        self.cover = np.zeros((CELL, CELL), np.float32)
        """Share of the pixel inside a nucleus, 0 … 1."""
        self._reach = ceil(_LARGEST_NUCLEUS_UM / mpp)
        self._spots: dict[tuple[int, int], list[tuple[float, float, float]]] = {}

    def scatter(self, terrain: _Fields, rng: np.random.Generator, *, near_border: bool) -> None:
        """Place nuclei as dense as the terrain wants them, either near the border or away from it, without touching."""
        n = int(2 * _DENSEST_PER_MM2 * (CELL * self.mpp / 1000) ** 2)
        centres = rng.uniform(0, CELL, (n, 2))
        traits = rng.uniform(0, 1, (n, 6))
        rows = centres.astype(np.intp)
        edge = np.minimum(centres, CELL - centres).min(axis=1)
        wanted = _density(terrain.nest[rows[:, 0], rows[:, 1]]) > 2 * _DENSEST_PER_MM2 * rng.uniform(0, 1, n)
        for i in np.flatnonzero(wanted & ((edge < self._reach) == near_border)):
            y, x = rows[i]
            self._place(centres[i], traits[i], float(terrain.nest[y, x]), float(terrain.angle[y, x]))

    def _place(self, centre: NDArray[np.float64], traits: NDArray[np.float64], nest: float, angle: float) -> None:
        long_um, short_um, turn = _shape(traits, nest, angle)
        if self._claim(float(centre[0]), float(centre[1]), (long_um * short_um) ** 0.5 / self.mpp / 2):
            radii = (max(long_um / self.mpp / 2, 0.6), max(short_um / self.mpp / 2, 0.6))
            self._draw((float(centre[0]), float(centre[1])), radii, turn, traits)

    def _claim(self, y: float, x: float, radius: float) -> bool:
        """Whether a disc is free; if so it is taken. Discs are kept per square of `reach` px: nine are asked."""
        n = max(1, CELL // self._reach)
        row, column = int(y * n / CELL), int(x * n / CELL)
        for key in {((row + i) % n, (column + j) % n) for i in (-1, 0, 1) for j in (-1, 0, 1)}:
            for other_y, other_x, other_radius in self._spots.get(key, ()):
                dy = (y - other_y + CELL / 2) % CELL - CELL / 2
                dx = (x - other_x + CELL / 2) % CELL - CELL / 2
                if dy * dy + dx * dx < (1.02 * (radius + other_radius)) ** 2:
                    return False
        self._spots.setdefault((row, column), []).append((y, x, radius))
        return True

    def _draw(
        self, centre: tuple[float, float], radii: tuple[float, float], turn: float, traits: NDArray[np.float64]
    ) -> None:
        """Draw a slightly dented ellipse with a darker rim; px wrap around the square's edges."""
        reach = ceil(max(radii) * 1.25) + 2
        ys = np.arange(int(centre[0]) - reach, int(centre[0]) + reach + 1)
        xs = np.arange(int(centre[1]) - reach, int(centre[1]) + reach + 1)
        dy, dx = (ys + 0.5 - centre[0])[:, None], (xs + 0.5 - centre[1])[None, :]
        along = (dx * np.cos(turn) + dy * np.sin(turn)) / radii[0]
        across = (dy * np.cos(turn) - dx * np.sin(turn)) / radii[1]
        theta = np.arctan2(across, along)
        dent = 1 + 0.07 * np.cos(2 * theta + 6.28 * traits[3]) + 0.05 * np.cos(3 * theta + 6.28 * traits[4])
        rho = np.hypot(along, across) / dent
        cover = np.clip((1 - rho) * min(radii) + 0.5, 0, 1)
        depth = (0.55 + 0.4 * traits[5]) * (0.82 + 0.3 * np.clip(rho, 0, 1) ** 4)
        where = np.ix_(ys % CELL, xs % CELL)
        self.stain[where] = np.maximum(self.stain[where], (cover * depth).astype(np.float32))
        self.cover[where] = np.maximum(self.cover[where], cover.astype(np.float32))


def _items(value: _Fields) -> list[tuple[str, Field]]:
    return [(field.name, getattr(value, field.name)) for field in fields(value)]


def _noise(rng: np.random.Generator, length: float) -> Field:
    """Toroidal Gaussian noise of unit variance with a correlation length in px."""
    fy, fx = _frequencies()
    return _from_spectrum(_white(rng) * np.exp(-(np.float32(np.pi * length) ** 2) * (fy * fy + fx * fx)))


def _fibres(rng: np.random.Generator, angle: Field, mpp: float) -> Field:
    """Wavy noise drawn out along `angle`: six fixed directions, each shown where the angle is near it."""
    fy, fx = _frequencies()
    white = _white(rng)
    total = np.zeros((CELL, CELL), np.float32)
    for direction in (np.arange(6) * np.pi / 6).astype(np.float32):
        along, across = fx * np.cos(direction) + fy * np.sin(direction), fy * np.cos(direction) - fx * np.sin(direction)
        squares = (np.float32(10 / mpp) * along) ** 2 + (np.float32(0.9 / mpp) * across) ** 2
        total += _from_spectrum(white * np.exp(-(np.float32(np.pi) ** 2) * squares)) * (
            np.clip(np.cos(2 * (angle - direction)), 0, 1) ** 3
        )
    wave = np.rint(_noise(rng, 5 / mpp) * (1.6 / mpp)).astype(np.intp)
    grid = np.arange(CELL)
    return _unit(total[(grid[:, None] + wave) % CELL, (grid[None, :] - wave) % CELL])


def _frequencies() -> tuple[Field, Field]:
    """Cycles per px along y (CELL, 1) and x (1, CELL // 2 + 1)."""
    fy, fx = np.fft.fftfreq(CELL), np.fft.rfftfreq(CELL)
    return fy[:, None].astype(np.float32), fx[None, :].astype(np.float32)


def _white(rng: np.random.Generator) -> NDArray[np.complex64]:
    """Spectrum of white noise, (CELL, CELL // 2 + 1)."""
    return rng.standard_normal((CELL, CELL + 2), np.float32).view(np.complex64)


def _from_spectrum(spectrum: NDArray[np.complex64]) -> Field:
    """The toroidal field of a spectrum, with unit variance."""
    return _unit(np.fft.irfft2(spectrum, (CELL, CELL)))


def _unit(field: NDArray[Any]) -> Field:
    """The field with mean 0 and variance 1; a field that is flat at this resolution stays flat."""
    centred = field - field.mean(dtype=np.float64)
    return np.asarray(centred / max(float(centred.std()), 1e-12), np.float32)


def _blend(shared: Field, own: Field, seam: Field) -> Field:
    """`shared` on the seam, `own` away from it, at constant variance between."""
    return np.asarray((seam * shared + (1 - seam) * own) / np.sqrt(seam * seam + (1 - seam) ** 2), np.float32)


def _step(field: Field, edge: float, width: float) -> Field:
    """0 below `edge`, 1 above `edge` + `width`, smooth between."""
    ramp = np.clip((field - edge) / width, 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)


def _density(nest: Field) -> Field:
    """Nuclei per mm² that a place wants: few in stroma, many in a nest, most in a cluster, none in a lumen."""
    density = 1400 + 9500 * _step(nest, _NEST_EDGE, 0.15) + 14000 * _step(-nest, -_CLUSTER_EDGE, 0.2)
    return np.where(nest > _LUMEN_EDGE - 0.12, 0, density).astype(np.float32)


def _shape(traits: NDArray[np.float64], nest: float, angle: float) -> tuple[float, float, float]:
    """(long axis µm, short axis µm, direction) of a nucleus: epithelial, lymphocyte, or spindle along the fibres."""
    a, b, c = (float(v) for v in traits[:3])
    if nest > _NEST_EDGE:
        return 6.8 + 2.2 * a, 5.4 + 1.4 * b, 3.14 * c
    if nest < _CLUSTER_EDGE:
        return 5.2 + 0.8 * a, 5.0 + 0.6 * b, 3.14 * c
    return 7.0 + 2.0 * a, 3.2 + 1.8 * b, angle + 0.5 * (c - 0.5)


def _stain(terrain: _Fields, nuclei: Nuclei) -> Texture:
    """Stain amounts of fields and nuclei, turned into RGB by the law of Beer and Lambert."""
    nest, lumen = _step(terrain.nest, _NEST_EDGE, 0.2), _step(terrain.nest, _LUMEN_EDGE, 0.1)
    cleft = _step(-terrain.fibre, 1.6, 0.5) * (1 - nest) * 0.65
    stroma = 0.50 + 0.09 * terrain.tone + 0.10 * terrain.fibre + 0.03 * terrain.grain
    cytoplasm = 0.52 + 0.04 * terrain.tone + 0.07 * terrain.grain
    body = (1 - lumen) * (1 - cleft)
    eosin = np.clip(stroma + nest * (cytoplasm - stroma), 0.2, None) * body * (1 - 0.35 * nuclei.cover)
    haematoxylin = (0.05 + 0.17 * nest) * body + nuclei.stain * (1 + 0.16 * np.clip(terrain.grain, -2.5, 2.5))
    density = haematoxylin[..., None] * _HAEMATOXYLIN + eosin[..., None] * _EOSIN
    labels = np.where(nuclei.cover > 0.5, NUCLEUS, np.where(lumen > 0.5, GLASS, STROMA)).astype(np.uint8)
    return Texture(_to_uint8(_WHITE * np.exp(-density) + terrain.grain[..., None] * 1.2), labels)


def _to_uint8(field: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(field), 0, 255), np.uint8)
