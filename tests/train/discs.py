"""A data set that a tiny network learns within seconds: dark discs on a bright ground, and runs over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsi_seg.train.config import TrainConfig, config_from

SIDE = 48


def write_discs(folder: Path, n: int, *, seed: int = 0, shade: tuple[int, int, int] = (90, 40, 130)) -> Path:
    """Write `n` images and label images (0 ground, 1 disc) of `SIDE` px; every image is its own case."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(n):
        labels = np.zeros((SIDE, SIDE), np.uint8)
        for cy, cx, radius in random.integers((0, 0, 6), (SIDE, SIDE, 12), (3, 3)):
            labels[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = 1
        image = np.where(labels[..., None] == 1, shade, (225, 200, 215)) + random.normal(0, 12, (SIDE, SIDE, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{number:02}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{number:02}.png")
    return folder


def disc_config(folder: Path, **changes: Any) -> TrainConfig:
    """A run of seconds over the discs in `folder`; `changes` are top-level keys."""
    source = {"images": str(folder / "images"), "labels": str(folder / "labels")}
    content: dict[str, Any] = {
        "name": "discs",
        "classes": ["ground", "disc=#aa00aa"],
        "mpp": 1.0,
        "data": {"train": [source], "validation_share": 0.25, "patches_per_epoch": 16},
        "patch_size": 32,
        "tile_size": 64,
        "model": {"width": 4, "depth": 1},
        "optimiser": {"lr": 0.01},
        "batch_size": 4,
        "epochs": 2,
        "threads": 1,
        "device": "cpu",
    }
    return config_from(content | changes)
