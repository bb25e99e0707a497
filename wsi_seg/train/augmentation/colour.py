"""Colour, sharpness and noise of augmentation: what scanners and monitors differ in.

Per patch, on float images (N, 3, H, W) in 0..1; every function returns 0..1 again. Random numbers come from a CPU
generator; only noise is drawn on the device, from a generator that the CPU one seeds. Knows no labels.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from wsi_seg.train.config import AugmentConfig

LUMA = (0.299, 0.587, 0.114)
"""Share of R, G, B in brightness (ITU-R BT.601)."""


def change_colour(images: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """Saturation, hue, contrast, brightness, in this order, as one matrix and one offset per patch.

    Hue turns about the grey axis: grey stays grey, and the brightness (mean of the channels) is kept.
    """
    if not (config.saturation or config.hue or config.contrast or config.brightness):
        return images
    n = len(images)
    saturation, hue, contrast, brightness = (torch.rand((4, n, 1, 1), generator=generator) * 2 - 1).unbind()
    luma = torch.tensor(LUMA).expand(3, 3)
    change = luma + (torch.eye(3) - luma) * (1 + config.saturation * saturation).clamp_min(0)
    change = _hue_turn(2 * math.pi * config.hue * hue) @ change
    gain = (1 + config.contrast * contrast).clamp_min(0).to(images.device)
    change = change.to(images.device)
    pixels = images.flatten(2)
    grey = (change @ pixels.mean(dim=2, keepdim=True)).mean(dim=1, keepdim=True)  # contrast is about the patch's mean
    offset = (1 - gain) * grey + (config.brightness * brightness).to(images.device)
    return torch.baddbmm(offset.expand(n, 3, 1), gain * change, pixels).clamp_(0, 1).view_as(images)


def change_gamma(images: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """Intensity to a power, log-uniform between the two of `config.gamma`."""
    if config.gamma == (1.0, 1.0):
        return images
    low, high = (math.log(exponent) for exponent in config.gamma)
    exponents = torch.exp(low + (high - low) * torch.rand((len(images), 1, 1, 1), generator=generator))
    return images.log().mul_(exponents.to(images.device)).exp_()  # a quarter of the time of `**`; 0 stays 0


def blur(images: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """Half of the patches with a Gaussian of sigma up to `config.blur` px, cut at 3 sigma; edges are mirrored."""
    if not config.blur:
        return images
    draws = torch.rand((len(images), 2), generator=generator)
    chosen = (draws[:, 0] < 0.5).nonzero()[:, 0].tolist()
    if not chosen:
        return images
    blurred = images.clone()
    for i in chosen:
        blurred[i] = _gaussian(images[i], config.blur * float(draws[i, 1]))
    return blurred


def add_noise(images: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """Independent Gaussian noise of a standard deviation up to `config.noise`."""
    if not config.noise:
        return images
    strengths = config.noise * torch.rand((len(images), 1, 1, 1), generator=generator)
    seed = int(torch.randint(2**62, (1,), generator=generator))
    own = torch.Generator(images.device).manual_seed(seed)
    noise = torch.randn(images.shape, generator=own, device=images.device)
    return torch.addcmul(images, noise, strengths.to(images.device)).clamp_(0, 1)


def _hue_turn(angles: torch.Tensor) -> torch.Tensor:
    """(N, 3, 3): rotations by `angles` (N, 1, 1) about (1, 1, 1) (Rodrigues)."""
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    cos, sin = torch.cos(angles), torch.sin(angles)
    return cos * torch.eye(3) + sin * cross + (1 - cos) / 3


def _gaussian(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """(3, H, W) smoothed along both axes."""
    radius = min(math.ceil(3 * sigma), *(side - 1 for side in image.shape[1:]))
    steps = torch.arange(-radius, radius + 1, dtype=torch.float32)
    taps = torch.exp(-(steps**2) / (2 * max(sigma, 1e-3) ** 2))
    taps = (taps / taps.sum()).to(image.device).expand(3, 1, 1, -1)
    padded = functional.pad(image[None], (radius, radius, radius, radius), mode="reflect")
    rows = functional.conv2d(padded, taps, groups=3)
    return functional.conv2d(rows, taps.transpose(2, 3), groups=3)[0]
