"""Running exported programs: a spec in, a predictor out.

    spec ─► location ─► card_source ─► runtime/ ─► predictor ─► probing ─► composing          (loading.py)
           (program/)                  (device/)  (its checks)             (combined/)

`choice` asks `measuring` and `parity` which runtime and precision `auto` becomes; `places` knows what runs where.
Everything the engine needs is named here. Importing this package imports no runtime; loading a predictor imports the
one it needs.
"""

import sys

from wsi_seg.infer.choice import Choice, choose_program
from wsi_seg.infer.combined.augmentation import Augmentation, parse_scales
from wsi_seg.infer.device.lanes import default_batch
from wsi_seg.infer.loading import load_predictor, member_cards, read_card
from wsi_seg.infer.location import builtin_models, model_sha256
from wsi_seg.infer.measuring import Trial, candidates, concrete, rough_throughput, throughput, try_candidate
from wsi_seg.infer.notes import model_notes
from wsi_seg.infer.parity import Agreement, agreement
from wsi_seg.infer.probing import batch_independent, measure_halo, measure_output_stride
from wsi_seg.infer.protocol import CardOverrides, Member, ModelSpec, Predictor, RuntimeFacts

# Importing `openvino` starts a process that tells Google Analytics. Without this package it uses a stand-in that tells
# nobody. Who has imported it before has decided for themselves.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__all__ = [
    "Agreement",
    "Augmentation",
    "CardOverrides",
    "Choice",
    "Member",
    "ModelSpec",
    "Predictor",
    "RuntimeFacts",
    "Trial",
    "agreement",
    "batch_independent",
    "builtin_models",
    "candidates",
    "choose_program",
    "concrete",
    "default_batch",
    "load_predictor",
    "measure_halo",
    "measure_output_stride",
    "member_cards",
    "model_notes",
    "model_sha256",
    "parse_scales",
    "read_card",
    "rough_throughput",
    "throughput",
    "try_candidate",
]
