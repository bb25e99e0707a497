"""Geometry of augmentation: flips, quarter turns and one sampling grid per patch for all the rest.

Owns the coordinates, so that image and labels move in step: both are read once, at the same points. kornia was
considered: it chains interpolations, each blurring, and draws from the global generator. Knows no colour.

Points are (y, x) offsets in px from the centre of the patch. All random numbers come from a CPU generator, so that a
patch is warped alike on every device; they are few, and fields are made of them on the device.
"""

from __future__ import annotations

import functools
import math

import torch
from torch.nn import functional

from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.train.config import AugmentConfig


def turn(
    images: torch.Tensor, labels: torch.Tensor, config: AugmentConfig, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flips and quarter turns, one of the eight per patch: pixels change their place and nothing else.

    `images` (N, C, P, P) and `labels` (N, P, P) of any type.
    """
    n = len(images)
    moves = torch.randint(0, 2, (n, 2), generator=generator) * config.flip
    quarters = torch.randint(0, 4, (n,), generator=generator) * config.rotate90
    moved = [
        (_turned(image, move, quarter), _turned(label, move, quarter))
        for image, label, move, quarter in zip(images, labels, moves.tolist(), quarters.tolist(), strict=True)
    ]
    return torch.stack([image for image, _ in moved]), torch.stack([label for _, label in moved])


def _turned(pixels: torch.Tensor, flips: list[int], quarter: int) -> torch.Tensor:
    """`pixels` (..., P, P) mirrored in y and x where `flips` says so, then turned."""
    axes = [axis for axis, flip in zip((-2, -1), flips, strict=True) if flip]
    mirrored = pixels.flip(axes) if axes else pixels
    return mirrored.rot90(quarter, (-2, -1)) if quarter else mirrored


def draw_points(
    config: AugmentConfig, n: int, size: int, generator: torch.Generator, device: torch.device
) -> torch.Tensor | None:
    """Where each pixel of `n` patches of side `size` comes from: (n, 2, size, size) float32, or None for no change.

    Grid distortion, then zoom and rotation, then the elastic field; all are added up before anything is read.
    """
    if not _warps(config):
        return None
    line = torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2
    y, x = line.expand(n, size), line.expand(n, size)
    if config.grid:
        y, x = (
            y + _line_shifts(config, n, size, generator).to(device),
            x + _line_shifts(config, n, size, generator).to(device),
        )
    angle = math.radians(config.rotate) * _uniform((n, 1, 1), generator).to(device)
    low, high = (math.log(factor) for factor in config.scale)
    zoom = torch.exp((low + high) / 2 + (high - low) / 2 * _uniform((n, 1, 1), generator).to(device))
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    points = torch.stack(
        [cos * y[:, :, None] - sin * x[:, None, :], sin * y[:, :, None] + cos * x[:, None, :]], dim=1
    )  # (n, 2, size, size)
    if config.elastic:
        points += _elastic_field(config, n, size, generator, device)
    return points


def sample(images: torch.Tensor, labels: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, C, P, P) float32 read bilinearly and labels (N, P, P) int64 at the nearest pixel, at `points`.

    Beyond the patch the image is its own mirror image, which leaves the network's context looking like tissue, and
    labels are `IGNORE`, since what is there is not known.
    """
    # Normalised so that -1 and 1 are the outer edges of the outer pixels; grid_sample wants (x, y).
    grid = points.flip(1).permute(0, 2, 3, 1) * (2 / images.shape[-1])
    options = {"align_corners": False}
    warped = functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", **options)
    moved = functional.grid_sample(
        (labels[:, None] - IGNORE).float(), grid, mode="nearest", padding_mode="zeros", **options
    )
    return warped, moved[:, 0].to(labels.dtype) + IGNORE


def _warps(config: AugmentConfig) -> bool:
    return bool(config.rotate or config.elastic or config.grid or config.scale != (1.0, 1.0))


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Evenly in -1..1."""
    return torch.rand(shape, generator=generator) * 2 - 1


def _line_shifts(config: AugmentConfig, n: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Grid distortion of one axis: (n, size) px, linear between shifted lines; the outer edges stay."""
    spacing = size / config.grid_lines
    shifts = torch.zeros(n, config.grid_lines + 1)
    shifts[:, 1:-1] = config.grid * spacing * _uniform((n, config.grid_lines - 1), generator)
    places = (torch.arange(size) + 0.5) / spacing
    cell = places.long().clamp_max(config.grid_lines - 1)
    return torch.lerp(shifts[:, cell], shifts[:, cell + 1], places - cell)


def _elastic_field(
    config: AugmentConfig, n: int, size: int, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    """Displacements (n, 2, size, size) px: a cubic B-spline over a coarse random grid.

    B-splines (Rueckert et al. 1999, doi:10.1109/42.796284) and not interpolation: a mean of the grid's values, so none
    exceeds `elastic`, and without creases.
    """
    weights = _spline_weights(size, config.elastic_spacing).to(device)
    n_knots = weights.shape[1]
    knots = config.elastic * _uniform((n, 2, n_knots, n_knots), generator).to(device)
    return weights @ knots @ weights.T


@functools.lru_cache(maxsize=8)
def _spline_weights(size: int, spacing: float) -> torch.Tensor:
    """(size, knots): what each knot adds to each pixel of a line; rows sum to 1."""
    n_knots = math.ceil((size - 1) / spacing) + 3
    distance = (torch.arange(size)[:, None] / spacing - torch.arange(-1, n_knots - 1)).abs()
    inner = 2 / 3 - distance**2 + distance**3 / 2
    outer = (2 - distance).clamp_min(0) ** 3 / 6
    return torch.where(distance < 1, inner, outer)
