"""Small folders of images to train on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsi_seg.train.config import TrainConfig, config_from


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes images and labels of the given sizes; red is the image's number, green and blue are y and x."""

    def write(sizes: list[tuple[int, int]], name: str = "set", suffix: str = ".png") -> Path:
        for number, (height, width) in enumerate(sizes):
            y, x = np.mgrid[:height, :width]
            pixels = np.stack([np.full_like(y, number), y % 256, x % 256], axis=-1).astype(np.uint8)
            labels = ((y // 8 + x // 8 + number) % 3).astype(np.uint8)
            for part, array in (("images", pixels), ("labels", labels)):
                path = tmp_path / name / part / f"p{number // 2}_{number}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
        return tmp_path / name

    return write


@pytest.fixture
def config_of() -> Callable[..., TrainConfig]:
    """A configuration with these sources of training."""

    def make(*sources: dict[str, Any], **keys: Any) -> TrainConfig:
        data = {"train": list(sources), **keys.pop("data", {})}
        values = {"name": "t", "classes": ["background", "stroma", "tumour"], "mpp": 0.5, "patch_size": 32}
        return config_from({**values, "data": data, **keys})

    return make
