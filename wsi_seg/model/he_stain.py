"""The embedded default model: H&E colour deconvolution as a fixed convolutional network, and how it is exported.

Owns the stain matrix, the three class rules and the card of `he-stain`. No weight is trained; every number is in this
file. `python -m wsi_seg.model.he_stain OUT.onnx` writes the program that the package ships. Knows no runtime.

Source of the stain vectors and of the unmixing: Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291-299
(PMID 11531144).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_seg.card import ModelCard, SegmentationClass

HAEMATOXYLIN = (0.650, 0.704, 0.286)
"""Optical density of pure haematoxylin per channel (R, G, B)."""
EOSIN = (0.072, 0.990, 0.105)
"""Optical density of pure eosin per channel (R, G, B)."""

SIGMA = 1.0
"""Standard deviation of the smoothing, px at 0.5 um/px: below the radius of a lymphocyte nucleus, above JPEG grain."""
SIDE = 5
"""Side of the smoothing kernel, px; its half is the halo."""

LOGITS = (
    # H      E      residual  bias
    (-16.0, -16.0, 0.0, 4.0),  # background: less than a quarter of a unit of stain
    (0.0, 0.0, 0.0, 0.0),  # stroma: the reference that the others are measured against
    (6.0, -1.5, 0.0, -11.7),  # nuclei: two units of haematoxylin; eosin counts against
)
"""Per class, weights of the smoothed stain amounts and bias; tuned by eye on CMU-1-Small-Region, see `CARD`."""

CARD = ModelCard(
    name="he-stain",
    mpp=0.5,
    classes=(
        SegmentationClass("background", "#e8e8e8"),
        SegmentationClass("stroma", "#e8839a"),
        SegmentationClass("nuclei", "#4b2e83"),
    ),
    tile_size=512,
    halo=SIDE // 2,
    licence="Apache-2.0",
    training_data="none: fixed weights, thresholds chosen by eye on CMU-1-Small-Region (Aperio, CC0)",
    description=(
        "Colour deconvolution of haematoxylin and eosin (Ruifrok and Johnston 2001) with fixed thresholds: background, "
        "stroma (eosin-rich and all other tissue), nuclei (haematoxylin-rich). A demonstration and a baseline: "
        "depends on the strength of the stain, and takes dark keratin, ink and pigment for nuclei. Not for diagnosis."
    ),
)


def unmixing_matrix() -> NDArray[np.float64]:
    """(3, 3): optical density (R, G, B) @ matrix = amounts of haematoxylin, eosin, residual.

    Vectors have unit length; the residual is orthogonal to both stains.
    """
    stains = np.array([HAEMATOXYLIN, EOSIN])
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    residual = np.cross(*stains)
    return np.linalg.inv(np.vstack([stains, residual / np.linalg.norm(residual)]))


class HeStain(torch.nn.Module):  # type: ignore[misc]
    """RGB / 255 (N, 3, H, W) float32 -> probabilities (N, 3, H, W): background, stroma, nuclei."""

    card = CARD

    def __init__(self) -> None:
        super().__init__()
        ramp = np.exp(-((np.arange(SIDE) - SIDE // 2) ** 2) / (2 * SIGMA**2))
        window = np.outer(ramp, ramp) / np.outer(ramp, ramp).sum()
        rules = np.array(LOGITS)
        self.unmix = torch.nn.Conv2d(3, 3, 1, bias=False)
        self.smooth = torch.nn.Conv2d(3, 3, SIDE, padding=SIDE // 2, groups=3, bias=False)
        self.rules = torch.nn.Conv2d(3, 3, 1)
        weights = {
            "unmix.weight": unmixing_matrix().T[:, :, None, None],
            "smooth.weight": np.broadcast_to(window, (3, 1, SIDE, SIDE)),
            "rules.weight": rules[:, :3, None, None],
            "rules.bias": rules[:, 3],
        }
        self.load_state_dict(
            {name: torch.tensor(np.array(value), dtype=torch.float32) for name, value in weights.items()}
        )
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, 3, H, W) in [0, 1]."""
        density = -torch.log((x * 255 + 1) / 256)  # (N, 3, H, W), 0 for white
        return torch.softmax(self.rules(self.smooth(self.unmix(density))), dim=1)


def main(path: Path) -> None:
    """Write the model to `path` as ONNX with its card."""
    from wsi_seg.model.onnx_export import export_onnx

    export_onnx(HeStain().eval(), CARD, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
