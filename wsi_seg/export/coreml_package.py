"""A torch module as a Core ML package, and what can be proven of the package where no Core ML is.

Core ML predicts on macOS only, so nothing here is judged on tiles. The package is read again instead: its ends, their
shapes and types, and its card must be what was asked for.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wsi_seg.card import METADATA_KEY, ModelCard
from wsi_seg.errors import ModelLoadError
from wsi_seg.export.quiet import quiet_terminal

_IMAGE, _RESULT = "image", "probabilities"


def write_coreml(module: nn.Module, card: ModelCard, precision: str, path: Path) -> str:
    """Write a package of one tile at the card's size, fp16 or fp32; answer in words what was read back from it.

    Raises ModelLoadError where coremltools cannot convert the module, or the package is not what was asked for.
    """
    side = card.tile_size
    example = torch.zeros(1, 3, side, side)
    try:
        with warnings.catch_warnings(), torch.inference_mode(), quiet_terminal():
            warnings.simplefilter("ignore")
            shape = tuple(module(example).shape)
            _convert(torch.jit.trace(module, example), card, precision, path)
    except Exception as error:  # coremltools raises anything from ValueError to its own
        text = " ".join(str(error).split())
        raise ModelLoadError(
            f"coremltools cannot convert {card.name}: {type(error).__name__}: {text[:300]}",
            remedy="its operations may be too new for it; --to onnx runs everywhere else",
        ) from error
    return _read_back(path, card, {_IMAGE: tuple(example.shape), _RESULT: shape}, precision)


def _convert(traced: Any, card: ModelCard, precision: str, path: Path) -> None:
    import coremltools as ct

    kind = ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32
    model = ct.convert(
        traced, convert_to="mlprogram", compute_precision=kind, minimum_deployment_target=ct.target.iOS16,
        inputs=[ct.TensorType(_IMAGE, (1, 3, card.tile_size, card.tile_size))], outputs=[ct.TensorType(_RESULT)],
        skip_model_load=True,
    )  # fmt: skip
    model.user_defined_metadata[METADATA_KEY] = card.to_json()
    model.save(str(path))


def _read_back(path: Path, card: ModelCard, shapes: dict[str, tuple[int, ...]], precision: str) -> str:
    """Compare what the written package says of itself with what it should. Raises ModelLoadError."""
    with warnings.catch_warnings(), quiet_terminal():
        warnings.simplefilter("ignore")
        import coremltools as ct

        described = ct.models.MLModel(str(path), skip_model_load=True).get_spec().description
    ends = (*described.input, *described.output)
    found = {end.name: tuple(int(size) for size in end.type.multiArrayType.shape) for end in ends}
    stored = described.metadata.userDefined.get(METADATA_KEY, "")
    if found != shapes or stored != card.to_json():
        raise ModelLoadError(
            f"the package that coremltools wrote of {card.name} has {found}"
            + ("" if stored == card.to_json() else " and another card"),
            rule=f"it must have {shapes} and the card of the model",
            remedy="another version of coremltools; --to onnx runs everywhere else",
        )
    told = ", ".join(f"{name} {shape}" for name, shape in found.items())
    return (
        f"Core ML was not run: it predicts on macOS only. The package was read again: {told}, {precision}, card as made"
    )
