"""Running exported programs: a spec in, a predictor out.

Everything the engine needs is named here. Importing this package imports no runtime; loading a predictor imports the
one it needs.
"""

from wsi_seg.infer.loading import load_predictor, read_card
from wsi_seg.infer.location import builtin_models, model_sha256
from wsi_seg.infer.parity import Agreement, agreement, choose_precision
from wsi_seg.infer.probing import batch_independent, measure_halo, measure_output_stride
from wsi_seg.infer.protocol import CardOverrides, ModelSpec, Predictor, RuntimeFacts

__all__ = [
    "Agreement",
    "CardOverrides",
    "ModelSpec",
    "Predictor",
    "RuntimeFacts",
    "agreement",
    "batch_independent",
    "builtin_models",
    "choose_precision",
    "load_predictor",
    "measure_halo",
    "measure_output_stride",
    "model_sha256",
    "read_card",
]
