"""Compile the kernels of a run into Numba's cache: `make test` does it beside the linters, and no test waits for it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.run import run_slide
from wsi_seg.slide import ArraySlide


def main() -> None:
    """One small run with every step, resampled, with probabilities and without background."""
    pixels = np.random.default_rng(0).integers(0, 200, (300, 300, 3), dtype=np.uint8)
    options = RunOptions(
        model="he-stain", tile=64, overlap=16, block=256, workers=1, probabilities=True, runtime="openvino",
        precision="fp32", min_object={"": 9.0}, fill_holes={"": 9.0}, crf={"radius_um": 1.0, "iterations": 1},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run_slide(ArraySlide(pixels, mpp=0.37), options, out=Path(folder) / "x.seg.zarr")


if __name__ == "__main__":
    main()
