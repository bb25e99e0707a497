"""Other programs at the same work, each a script for its own environment; here: what each needs and can do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

HOME = Path(os.environ.get("WSI_SEG_PEERS", Path.home() / ".cache" / "wsi-seg" / "peers"))
"""Folder of the environments, one per peer, by its name."""
_SLIDES = ("openslide-python", "openslide-bin")
_TORCH = "torch==2.13.0"


@dataclass(frozen=True, slots=True)
class Peer:
    """What a peer's environment is made of, and which precisions its script knows."""

    requirements: tuple[str, ...]
    precisions: tuple[str, ...] = ("fp32", "bf16")
    suffix: str = ".npy"
    """Of the label map that its script writes."""
    debian: tuple[str, ...] = ()
    """Packages of Debian 12 that the environment needs and pip does not bring."""


PEERS = {
    "handwritten": Peer((_TORCH, "onnxruntime", *_SLIDES), ("fp32", "bf16", "int8")),
    "monai": Peer((_TORCH, "monai==1.6.1", *_SLIDES)),
    "tiatoolbox": Peer(("tiatoolbox==2.1.3",), suffix=".zarr"),
    "fast": Peer(
        ("pyfast==4.18.0",),
        ("fp32", "bf16", "int8"),
        ".tif",
        debian=(
            *("libusb-1.0-0", "libxcb-icccm4", "libxcb-keysyms1", "libxcb-xinerama0", "libxcb-image0"),
            *("libxcb-render-util0", "libxkbcommon-x11-0", "libgl1", "libopengl0", "ocl-icd-libopencl1"),
            "pocl-opencl-icd",
        ),
    ),
    "toolbelt": Peer((_TORCH, "pytorch-toolbelt==0.8.0", *_SLIDES)),
}


def interpreter(name: str) -> Path:
    """The Python of a peer's environment."""
    return HOME / name / "bin" / "python"
