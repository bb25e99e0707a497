"""A torch module to an ONNX program that carries its card; the only file of this room that imports onnx.

Owns opset, dynamic axes and the metadata key. Knows no architecture.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch

from wsi_seg.card import METADATA_KEY, ModelCard
from wsi_seg.model.tracing import traced_input

OPSET = 18


def export_onnx(module: torch.nn.Module, card: ModelCard, path: Path) -> None:
    """Write `module` (eval mode, (N, 3, H, W) float32 in) to `path`, dynamic in N, H and W, `card` in its metadata.

    H and W stay multiples of the card's output stride. Raises whatever torch.onnx raises.
    """
    example, shapes = traced_input(module, card)
    with warnings.catch_warnings(), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecations
        program = torch.onnx.export(
            module, (example,), input_names=["image"], output_names=["probabilities"], opset_version=OPSET,
            dynamic_shapes=(shapes,), dynamo=True, verbose=False, optimize=True,
        )  # fmt: skip
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces of the exporting machine
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Keep a library's warnings from the terminal: the exporter tells which unrelated packages are not installed."""
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
