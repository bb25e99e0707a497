"""Random changes of a training batch, on its device: geometry, colour and dropout, composed.

Owns the order and coarse dropout. Every random number comes from the generator that is given, so a batch is a function
of its pixels and that generator's state; parameters are drawn per patch. With everything off, images are pixel / 255.
"""

from __future__ import annotations

import torch

from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.errors import UsageError
from wsi_seg.train.augmentation.colour import add_noise, blur, change_colour, change_gamma
from wsi_seg.train.augmentation.stain import jitter_stain
from wsi_seg.train.augmentation.warp import draw_points, sample, turn
from wsi_seg.train.config import AugmentConfig


class Augment:
    """The changes that `config` asks for, for patches of one side."""

    def __init__(self, config: AugmentConfig, patch_size: int) -> None:
        self.config, self.patch_size = config, patch_size

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches (N, 3, P, P) uint8 and labels (N, P, P) int64 -> float32 in 0..1, and labels in step.

        `generator` is a CPU generator, wherever the batch is. Labels that came from outside the patch, or were
        dropped, are `IGNORE`. Raises UsageError for patches of another side.
        """
        side = self.patch_size
        if images.shape[2:] != (side, side) or labels.shape[1:] != (side, side):
            shapes = f"images {tuple(images.shape)}, labels {tuple(labels.shape)}"
            raise UsageError(shapes, rule=f"patches are {side} x {side} px")
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):  # bf16 coordinates would be px off
            if self.config.flip or self.config.rotate90:
                images, labels = turn(images, labels, self.config, generator)
            pixels = images.float() / 255
            points = draw_points(self.config, len(images), self.patch_size, generator, pixels.device)
            if points is not None:
                pixels, labels = sample(pixels, labels, points)
            pixels = self.photometric(pixels, generator)
            return drop_rectangles(pixels, labels, self.config, generator) if self.config.dropout else (pixels, labels)

    def photometric(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Stain, gamma, colour, blur and noise alone: (N, 3, H, W) float32 in 0..1 -> the same; pixels stay in place.

        In the order of their origin: the section, the scanner's curve and colours, its optics, its sensor.
        """
        config = self.config
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            if config.stain or config.stain_shift:
                images = jitter_stain(images, config.stain, config.stain_shift, generator)
            images = change_gamma(images, config, generator)
            images = change_colour(images, config, generator)
            return add_noise(blur(images, config, generator), config, generator)


def drop_rectangles(
    images: torch.Tensor, labels: torch.Tensor, config: AugmentConfig, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Coarse dropout (DeVries and Taylor 2017, arXiv:1708.04552): rectangles become the patch's mean colour.

    Labels there become `IGNORE`: what cannot be seen is not asked for. Centres are spread evenly; a rectangle near an
    edge is cut off there.
    """
    n, _, height, width = images.shape
    draws = torch.rand((n, config.dropout_holes, 4), generator=generator)
    losers = torch.rand((n, 2), generator=generator)
    n_holes = torch.where(losers[:, 0] < config.dropout, 1 + (losers[:, 1] * config.dropout_holes).long(), 0)
    images, labels = images.clone(), labels.clone()
    for i, holes in enumerate(n_holes.tolist()):
        colour = images[i].mean(dim=(1, 2))[:, None, None]
        for y, x, h, w in draws[i, :holes].tolist():
            rows, columns = _span(y, h * config.dropout_size, height), _span(x, w * config.dropout_size, width)
            images[i, :, rows, columns] = colour
            labels[i, rows, columns] = IGNORE
    return images, labels


def _span(centre: float, share: float, size: int) -> slice:
    """Of a side of `size` px, `share` around `centre` (0..1): one pixel at least."""
    length = max(int(share * size), 1)
    start = int(centre * size) - length // 2
    return slice(max(start, 0), start + length)
