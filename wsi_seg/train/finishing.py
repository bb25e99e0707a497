"""The end of a run: best weights, statistics re-estimated where asked, halo, program, summary.

Owns summary.json. Works from the folder alone, so that a run that ended before its export is finished by running again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from wsi_seg.card import named_classes
from wsi_seg.model.cost import count_macs, count_parameters
from wsi_seg.model.network import Network
from wsi_seg.model.receptive_field import receptive_halo
from wsi_seg.train.config import TrainConfig, to_yaml
from wsi_seg.train.exporting import make_card, write_program
from wsi_seg.train.material import Supply
from wsi_seg.train.method.losses import make_loss
from wsi_seg.train.objective import normaliser
from wsi_seg.train.record.events import Listener, Note
from wsi_seg.train.record.log import Row
from wsi_seg.train.run_folder import RunFolder
from wsi_seg.train.score import Scores
from wsi_seg.train.trained import read_trained, write_trained
from wsi_seg.train.validation import validate


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished run."""

    path: Path
    """The folder; a valid `--model`."""
    summary: dict[str, Any]
    """Content of summary.json."""

    def describe(self) -> str:
        """A few lines for people."""
        scores, network, export = (self.summary[key] for key in ("scores", "network", "export"))
        lines = [f"{self.path}: {self.summary['epochs']} epochs, {network['parameters']:,} parameters"]
        if scores is not None:
            dice = ", ".join(f"{name} {value:.3f}" for name, value in scores["dice"].items() if value is not None)
            lines.append(f"validation Dice: {dice}")
        lines.append(f"model.onnx differs from torch by at most {export['largest_difference']:.1e}")
        lines.append(f"use it: wsi-seg run SLIDE --model {self.path}")
        return "\n".join(lines)


def finish(config: TrainConfig, folder: RunFolder, supply: Supply, rows: Sequence[Row], tell: Listener) -> TrainResult:
    """Export the best weights of a run that ended. Raises WriteError, PredictorError."""
    network = read_trained(folder.path).network
    normalise = normaliser(config.mean, config.std, torch.device("cpu"))
    if config.batch_norm.recalibrate:
        from wsi_seg.train.method.batch_norm import recalibrate

        tell(Note(f"re-estimating normalisation statistics over {config.batch_norm.recalibrate} batches"))
        recalibrate(network, supply.plain_batches(normalise), config.batch_norm.recalibrate)
        write_trained(network, folder.weights)
    scores = None
    if supply.validation is not None:
        loss = make_loss(config.loss, len(config.classes))
        scores, _ = validate(network, supply.validation.whole(), loss, normalise, lambda: None)
    halo = receptive_halo(network)
    card = make_card(config, network, halo, scores)
    agreement = write_program(network, card, supply.example(), folder.program)
    summary = {
        "name": config.name,
        "config_sha256": _digest(config),
        "epochs": len(rows),
        "seconds": round(sum(row["seconds"] for row in rows), 3),
        "bad_steps": sum(row["bad steps"] for row in rows),
        "scores": None if scores is None else _scores(config, scores),
        "data": dict(zip(("train", "validation"), supply.describe(), strict=True)),
        "network": _network(config, network, halo),
        "export": agreement,
        "torch": torch.__version__,
    }
    folder.write_summary(summary)
    return TrainResult(folder.path, summary)


def finished_before(folder: RunFolder, config: TrainConfig) -> TrainResult | None:
    """The result of a run that was finished with exactly this configuration, else None."""
    try:
        summary = json.loads(folder.summary.read_text())
    except (OSError, ValueError):
        return None
    return TrainResult(folder.path, summary) if summary.get("config_sha256") == _digest(config) else None


def _network(config: TrainConfig, network: Network, halo: int | None) -> dict[str, Any]:
    side = config.tile_size
    return {
        "architecture": config.model.architecture,
        "parameters": count_parameters(network),
        "macs_per_px": round(count_macs(network, (side, side)) / side**2, 1),
        "halo": halo,
        "output_stride": network.output_stride,
    }


def _scores(config: TrainConfig, scores: Scores) -> dict[str, Any]:
    names = [entry.name for entry in named_classes(config.classes)]
    per_class = {
        kind: {name: value if isfinite(value) else None for name, value in zip(names, values, strict=True)}
        for kind, values in (("dice", scores.dice), ("iou", scores.iou))
    }
    return {
        "mean_dice": scores.mean_dice, "mean_iou": scores.mean_iou, "loss": scores.loss, "px": scores.n_px, **per_class
    }  # fmt: skip


def _digest(config: TrainConfig) -> str:
    return sha256(to_yaml(config).encode()).hexdigest()
