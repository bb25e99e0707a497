"""What surely is no nucleus: H&E tissue without haematoxylin, and glass, as label images for the recipe of `nuclei`.

The data sets of nuclei show crowded cells only; a network trained on them takes collagen, keratin and specks on glass
for nuclei. EBHI-Seg has no nuclei drawn, but where haematoxylin is far below the threshold of its image none is there:
those px are background, all others are ignored. Owns that rule and the making of glass. Trains nothing.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from wsi_seg.model.he_stain import unmixing_matrix

IGNORE = 255
SHARE_OF_THRESHOLD = 0.7
"""Of the haematoxylin at Otsu's threshold; below it a px is no nucleus."""
MARGIN_PX = 3
"""Distance from anything above the threshold; labels of borders would be guesses."""
N_GLASS = 30
GLASS_PX = 192


def certain_background(pixels: NDArray[np.uint8], threshold: float) -> NDArray[np.uint8]:
    """Labels (h, w) of RGB (h, w, 3): 0 where there surely is no nucleus, 255 elsewhere.

    `threshold` parts light from dark haematoxylin, in optical density.
    """
    stain = haematoxylin(pixels)
    far = ndimage.distance_transform_edt(stain <= threshold) >= MARGIN_PX
    return np.where((stain < SHARE_OF_THRESHOLD * threshold) & far, 0, IGNORE).astype(np.uint8)


def haematoxylin(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Amount of haematoxylin (h, w), smoothed with a sigma of 1 px (Ruifrok and Johnston 2001)."""
    density = -np.log((pixels.astype(np.float64) + 1) / 256)
    amount: NDArray[np.float64] = ndimage.gaussian_filter(density @ unmixing_matrix()[:, 0], 1.0)
    return amount


def glass(seed: int) -> NDArray[np.uint8]:
    """(192, 192, 3) RGB of an empty place: a light tone, slow shading, grain."""
    rng = np.random.default_rng(seed)
    tone = rng.uniform(215, 250) + rng.normal(0, 3, 3)
    width = rng.uniform(1, 12)
    shading = ndimage.gaussian_filter(rng.normal(0, 1, (GLASS_PX, GLASS_PX)), width) * rng.uniform(2, 40)
    grain = rng.normal(0, rng.uniform(0.5, 3), (GLASS_PX, GLASS_PX, 3))
    return (tone + shading[..., None] + grain).clip(0, 255).astype(np.uint8)


def write_negatives(ebhi: Path, out: Path) -> int:
    """Write `out`/images and `out`/labels from every second training image of EBHI-Seg, and glass; how many."""
    from benchmarks.nuclei import otsu_threshold

    for name in ("images", "labels"):
        (out / name).mkdir(parents=True, exist_ok=True)
    with (ebhi / "split.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"][::2]
    for row in rows:
        pixels = np.asarray(Image.open(ebhi / row["image"]).convert("RGB"))
        labels = certain_background(pixels, otsu_threshold(haematoxylin(pixels)))
        _write(out, Path(row["image"]).stem, pixels, labels)
    for seed in range(N_GLASS):
        _write(out, f"glass-{seed:02}", glass(seed), np.zeros((GLASS_PX, GLASS_PX), np.uint8))
    return len(rows) + N_GLASS


def _write(out: Path, stem: str, pixels: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    Image.fromarray(pixels).save(out / "images" / f"{stem}.png")
    Image.fromarray(labels).save(out / "labels" / f"{stem}.png")
