"""From a spec to a predictor: find the program, complete its card, choose the runtime, probe once.

Owns that order; which runtime is passed over for the next is `attempts`'. Imports a runtime only when a spec needs it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import ModelCard
from wsi_seg.errors import CardError, ModelLoadError, PredictorError
from wsi_seg.infer.attempts import first_that_works
from wsi_seg.infer.card_source import FoundCard, check_signature, find_card, fixed_input, has_card_file
from wsi_seg.infer.composing import composed, composed_card
from wsi_seg.infer.location import (
    STORED,
    Location,
    builtin_models,
    locate,
    original_sha256,
    weights_sha256,
)
from wsi_seg.infer.places import places
from wsi_seg.infer.predictor import ProgramPredictor, checked_channels, first_answer
from wsi_seg.infer.probing import accepted_stride, measure_output_stride
from wsi_seg.infer.program.output_forms import NoneOfThem, Votes
from wsi_seg.infer.protocol import ModelSpec, Predictor, Program, Signature
from wsi_seg.infer.runtime.constant import constant_parts, is_constant

_DECIDING = ("mpp", "classes", "mean", "std", "channels", "layout", "activation", "threshold", "background", "output")
"""Fields of a card that change a result."""


def load_predictor(spec: ModelSpec) -> Predictor:
    """Load, compile and probe the model of a spec, or the models of an ensemble, with its augmentation around them.

    Precision `auto` runs as the program is stored; `wsi_seg.infer.choose_program` decides on real tiles first. Where no
    card states the output stride, it is measured by shifting an image.

    Raises ModelLoadError, CardError, PredictorError.
    """
    return composed(spec, _load_program)


def _load_program(spec: ModelSpec) -> Predictor:
    """The predictor of one program."""
    if is_constant(spec.model):
        constant, card = constant_parts(spec.model)
        card = card.replaced(**spec.card.stated())
        return _checked(constant, first_answer(constant, card, (None, None, None)), FoundCard(card, True))
    location = locate(spec)
    module, signature = _signature(location, spec)
    found = _card(location, signature, spec)
    program, answer = first_that_works(
        (f"{runtime} on {device}", partial(_running, runtime, location, module, (found, spec.replaced(device=device))))
        for runtime, device in places(location.runtimes, spec, location.name)
    )
    return _checked(program, answer, found)


def read_card(spec: ModelSpec) -> ModelCard:
    """The card of a spec with its overrides, without compiling the program; for planning and listing.

    An output stride that no card states is given as 1 here; `load_predictor` measures it. Raises as `load_predictor`.
    """
    return composed_card(spec, _read_card)


def member_cards(spec: ModelSpec) -> tuple[ModelCard, ...]:
    """The cards of the models of an ensemble, as `read_card` gives them; empty for a single model."""
    return tuple(_read_card(one) for one in spec.single) if spec.members else ()


def _read_card(spec: ModelSpec) -> ModelCard:
    """The card of one program."""
    if is_constant(spec.model):
        return constant_parts(spec.model)[1].replaced(**spec.card.stated())
    location = locate(spec)
    return _card(location, _signature(location, spec)[1], spec).card


def read_found(spec: ModelSpec) -> FoundCard | None:
    """Card and signature of a spec, read again from its file; None for what has to be run or imported to be known."""
    if is_constant(spec.model):
        return None
    location = locate(spec)
    if location.kind not in ("onnx", "openvino-ir"):
        return None
    return _card(location, _signature(location, spec)[1], spec)


def _signature(location: Location, spec: ModelSpec) -> tuple[Any, Signature]:
    """What the program says of itself, and for torch the callable, which cannot be had without it."""
    if location.kind == "onnx":
        from wsi_seg.infer.program import onnx_file

        module, signature = None, onnx_file.read_signature(location.path)
    elif location.kind == "openvino-ir":
        from wsi_seg.infer.runtime import openvino_predictor

        module, signature = None, openvino_predictor.read_signature(location.path)
    elif location.kind == "tensorrt-engine":
        from wsi_seg.infer.runtime import tensorrt_engine

        module, signature = None, tensorrt_engine.read_signature(location.path, spec)
    else:
        try:
            from wsi_seg.infer.runtime import torch_predictor
        except ImportError as error:
            raise ModelLoadError(
                f"{location.name} needs torch, which is not installed", remedy="pip install 'wsi-seg[torch]'"
            ) from error
        module, signature = torch_predictor.open_module(location, spec)
    types = ("float32", "float16", "uint8") if location.kind in ("onnx", "openvino-ir") else ("float32",)
    check_signature(signature, location.name, types)
    return module, signature


def _card(location: Location, signature: Signature, spec: ModelSpec) -> FoundCard:
    found = find_card(location.name, signature, Path(spec.weights) if spec.weights else location.path, spec.card)
    _check_variant(location, found.card, spec)
    promised = found.card.weights_sha256.lower()
    if promised and promised != (actual := weights_sha256(spec)):
        raise ModelLoadError(
            f"the weights of {location.name} have SHA-256 {actual}",
            rule=f"its card promises {promised}",
            remedy="the file is damaged or is another version; fetch it again",
        )
    return found


def _check_variant(location: Location, card: ModelCard, spec: ModelSpec) -> None:
    """Refuse a program that is not stored in the precision asked for, or was made from another original."""
    halved = spec.precision == "fp16" and location.runtimes == ("torch",)  # by autocast, while it runs
    if spec.precision in STORED and card.precision != spec.precision and not halved:
        raise ModelLoadError(
            f"{location.name} in {spec.precision}",
            rule=f"its program is stored in {card.precision}, and no {spec.precision} program lies beside it",
            remedy=f"wsi-seg export {location.name} --precision {spec.precision} makes one"
            + (": name its file with --model" if location.name in builtin_models() else ""),
        )
    if spec.precision in ("fp32", "bf16") and card.precision in STORED:
        raise ModelLoadError(
            f"{location.name} in {spec.precision}",
            rule=f"its program is stored in {card.precision}",
            remedy="name the original program, or leave --precision auto",
        )
    if location.original is not None and card.derived_from != original_sha256(location):
        raise ModelLoadError(
            f"{location.path.name} was not made from {location.original.name} as it is now",
            rule="a program of lower precision belongs to one original",
            remedy=f"wsi-seg export {location.name} --precision {spec.precision} makes it again",
        )
    if changed := _changed_since(location, card, spec):
        raise ModelLoadError(
            f"the card beside {location.name} has another {', '.join(changed)} than {location.path.name}",
            rule="a program of lower precision keeps the card that its original had when it was made",
            remedy=f"wsi-seg export {location.name} --precision {spec.precision} makes it again",
        )


def _changed_since(location: Location, card: ModelCard, spec: ModelSpec) -> list[str]:
    """Fields of the card beside the original that are others than in the program made from it, and change a result.

    A card inside the original needs no look: with it, the hash of the file changes.
    """
    if location.original is None or not has_card_file(location.original):
        return []
    signature = _signature(replace(location, path=location.original), spec)[1]
    if signature.card_json is not None:
        return []
    now = find_card(location.name, signature, location.original, spec.card).card
    return [field for field in _DECIDING if getattr(now, field) != getattr(card, field)]


def _open(runtime: str, location: Location, module: Any, settings: tuple[ModelCard, ModelSpec]) -> Program:
    if runtime == "openvino":
        from wsi_seg.infer.runtime.openvino_predictor import OpenvinoProgram

        return OpenvinoProgram(location.path, *settings)
    if runtime == "onnxruntime":
        from wsi_seg.infer.runtime.onnxruntime_predictor import OnnxRuntimeProgram

        return OnnxRuntimeProgram(location.path, *settings)
    if runtime == "onnxruntime-tensorrt":
        from wsi_seg.infer.runtime.onnxruntime_tensorrt import OnnxRuntimeTensorrtProgram

        return OnnxRuntimeTensorrtProgram(location.path, *settings)
    if runtime == "tensorrt":
        from wsi_seg.infer.runtime.tensorrt_predictor import TensorrtProgram

        return TensorrtProgram(location.path, *settings)
    from wsi_seg.infer.runtime.torch_predictor import TorchProgram

    return TorchProgram(module, *settings)


def _running(
    runtime: str, location: Location, module: Any, settings: tuple[FoundCard, ModelSpec]
) -> tuple[Program, NDArray[np.floating[Any]]]:
    """The program on one runtime, and its answer for one tile: some load what they cannot run.

    Raises ModelLoadError, PredictorError.
    """
    found, spec = settings
    program = _open(runtime, location, module, (found.card, spec))
    if found.signature.gives_labels:
        program = Votes(program, found.card)
    try:
        return program, first_answer(program, found.card, fixed_input(found.signature, found.card.layout))
    except PredictorError:
        program.close()
        raise


def _checked(program: Program, answer: NDArray[np.floating[Any]], found: FoundCard) -> Predictor:
    """The predictor, if the program's first answer is what the card promises. Raises CardError, PredictorError."""
    card, signature = found.card, found.signature
    fixed = fixed_input(signature, card.layout)
    independent = card.activation == "sigmoid" or signature.last_operation == "Sigmoid"
    n_channels = checked_channels(answer, card, fixed[0] or 1, independent=independent)
    if 1 < n_channels < card.n_classes:
        program, n_channels = NoneOfThem(program, card.threshold), n_channels + 1
    predictor = ProgramPredictor(program, card, n_channels, fixed)
    if found.stride_stated:
        return predictor
    return ProgramPredictor(program, card.replaced(output_stride=_stride(predictor)), n_channels, fixed)


def _stride(predictor: Predictor) -> int:
    """The output stride, measured: by shifting an image, and by whether the program takes such sides at all."""
    stride = measure_output_stride(predictor)
    stride = None if stride is None else accepted_stride(predictor, stride)
    if stride is None:
        raise CardError(
            f"the output stride of {predictor.card.name!r} is not stated and could not be measured",
            rule="a card-less model must be shift-equivariant for some step up to 64 px",
            remedy="give --output-stride",
        )
    return stride
