"""What a peer is asked to do: the arguments of every peer's script; and reading, for those that have no reader.

Runs in the peers' environments: NumPy and OpenSlide only, and these only where they are used.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Job:
    """Level 0 of a slide through a network of three classes, to a label map."""

    slide: Path
    model: Path
    """ONNX, (N, 3, H, W) -> probabilities (N, 3, H, W)."""
    weights: Path
    """The same network, written by `networks.save_weights`."""
    out: Path
    """Label map: .npy or .tif, uint8 (height, width); or a folder .zarr that holds it."""
    mean: float
    """Of pixel / 255, all channels."""
    std: float
    tile: int
    """Side of the network's input, px."""
    overlap: int
    """px shared by neighbours."""
    threads: int
    precision: str

    @property
    def step(self) -> int:
        """From tile to tile, px."""
        return self.tile - self.overlap


def asked() -> Job:
    """The job that the command line states."""
    parser = argparse.ArgumentParser()
    for name in ("slide", "model", "weights", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("mean", "std"):
        parser.add_argument(f"--{name}", type=float, required=True)
    for name in ("tile", "overlap", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--precision", required=True)
    return Job(**vars(parser.parse_args()))


def rgb(slide: object, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
    """A region of level 0 as OpenSlide reads it, (height, width, 3); white where the slide has nothing."""
    import numpy as np

    pixels = np.asarray(slide.read_region((x, y), 0, (width, height)))  # type: ignore[attr-defined]
    colours = np.ascontiguousarray(pixels[..., :3])
    if not pixels[..., 3].all():
        colours[pixels[..., 3] == 0] = 255
    return colours
