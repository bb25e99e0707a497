"""From a trained network to a program that `wsi-seg run` takes: card, ONNX, and the proof that both agree.

Owns what goes into the card. Writes model.onnx and card.json. Knows no loop.
"""

from __future__ import annotations

from hashlib import sha256
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_seg.card import ModelCard, named_classes
from wsi_seg.errors import PredictorError
from wsi_seg.infer import ModelSpec, load_predictor
from wsi_seg.model.network import Network, Probabilities
from wsi_seg.model.onnx_export import export_onnx
from wsi_seg.output.durable import mapped_errors, publish, sync_file, temporary_beside, write_durably
from wsi_seg.train.config import TrainConfig
from wsi_seg.train.objective import normaliser
from wsi_seg.train.score import Scores

LARGEST_DIFFERENCE = 0.01
"""Of a probability between torch and the exported program, both fp32; above it the export is broken."""


def make_card(config: TrainConfig, network: Network, halo: int | None, scores: Scores | None = None) -> ModelCard:
    """The card of a network trained by `config`; measured `scores` end its description. Raises CardError."""
    return ModelCard(
        name=config.name,
        mpp=config.mpp,
        classes=named_classes(config.classes),
        tile_size=config.tile_size,
        halo=halo,
        output_stride=network.output_stride,
        mean=config.mean,
        std=config.std,
        licence=config.licence,
        training_data=config.training_data,
        description=" ".join(part for part in (config.description.strip(), _told(config, scores)) if part),
    )


def write_program(network: Network, card: ModelCard, image: NDArray[np.uint8], path: Path) -> dict[str, Any]:
    """Write `path` (ONNX, card inside) and card.json beside it; answers how far it and torch agree on `image`.

    `image` is (H, W, 3) uint8 of any size. Raises WriteError, PredictorError where they do not agree.
    """
    network = network.cpu().eval()
    with mapped_errors(path, 0), temporary_beside(path) as temp:
        export_onnx(Probabilities(network), card, temp)
        sync_file(temp)
        publish(temp, path)
    with_hash = card.replaced(weights_sha256=sha256(path.read_bytes()).hexdigest())
    write_durably(path.with_name("card.json"), with_hash.to_json().encode())
    return _compared(network, card, _tile(image, card), path)


def _compared(network: Network, card: ModelCard, tile: NDArray[np.uint8], path: Path) -> dict[str, Any]:
    predictor = load_predictor(ModelSpec(model=str(path), precision="fp32"))
    try:
        got = predictor.predict(tile[None])
    finally:
        predictor.close()
    pixels = torch.from_numpy(tile).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        expected = Probabilities(network)(normaliser(card.mean, card.std, torch.device("cpu"))(pixels)).numpy()
    largest = float(np.abs(got - expected).max())
    if not largest <= LARGEST_DIFFERENCE:
        raise PredictorError(
            f"{path} differs from the trained network by up to {largest:.3g} in probability",
            rule=f"at most {LARGEST_DIFFERENCE}",
            remedy="report this architecture and its options",
        )
    same = float((got.argmax(1) == expected.argmax(1)).mean())
    return {"runtime": predictor.facts.as_dict(), "largest_difference": largest, "same_class_share": same}


def _tile(image: NDArray[np.uint8], card: ModelCard) -> NDArray[np.uint8]:
    """The image, repeated or cut to a tile of the card."""
    rows, columns = (np.arange(card.tile_size) % length for length in image.shape[:2])
    return np.ascontiguousarray(image[rows][:, columns])


def _told(config: TrainConfig, scores: Scores | None) -> str:
    if scores is None:
        return ""
    names = [entry.name for entry in named_classes(config.classes)]
    dice = ", ".join(f"{name} {value:.3f}" for name, value in zip(names, scores.dice, strict=True) if not isnan(value))
    return f"Dice on {scores.n_px / 1e6:.1f} Mpx held out: {dice}."
