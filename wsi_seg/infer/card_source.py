"""Where a card comes from: inside the program, beside it, or from what the user states.

Owns that order and the completion of a card for programs that carry none. Knows no runtime. Guesses nothing that the
program's own shapes and operations do not prove.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_seg.card import ModelCard
from wsi_seg.errors import CardError, ModelLoadError
from wsi_seg.infer.protocol import CardOverrides, Signature


@dataclass(frozen=True, slots=True)
class FoundCard:
    """A card and whether its output stride was stated or is only the default."""

    card: ModelCard
    stride_stated: bool


def check_signature(signature: Signature, name: str) -> None:
    """Refuse programs that cannot be per-pixel classifiers of RGB images. Raises ModelLoadError."""
    for port, shape in (("input", signature.input_shape), ("output", signature.output_shape)):
        if shape is not None and len(shape) not in (0, 4):  # 0: the file does not say
            raise ModelLoadError(
                f"the {port} of {name} has {len(shape)} axes {_words(shape)}",
                rule="a segmentation model maps (N, 3, H, W) or (N, H, W, 3) to as many axes",
                remedy="export it as a fully convolutional network",
            )
    if signature.input_type not in (None, "float32"):
        raise ModelLoadError(
            f"the input of {name} is {signature.input_type}", rule="programs take float32", remedy="export it so"
        )


def find_card(name: str, signature: Signature, beside: Path, overrides: CardOverrides) -> FoundCard:
    """The card of a program: in its metadata, in `<program>.card.json`, in `card.json`, else from `overrides`.

    `overrides` wins over what a card says. `beside` is the program (or weights) file. Raises CardError.
    """
    text, source = signature.card_json, str(beside)
    if text is None:
        text, source = _card_file(beside)
    stated = overrides.stated()
    if text is None:
        return _assemble(name, signature, stated)
    card = ModelCard.from_json(text, source)
    # A card that leaves the stride out does not mean 1: it is measured, as without a card.
    knows_stride = "output_stride" in {*json.loads(text), *stated}
    return FoundCard(card.replaced(**stated) if stated else card, knows_stride)


def fixed_input(signature: Signature, layout: str) -> tuple[int | None, int | None, int | None]:
    """(N, H, W) where the program demands them.

    >>> fixed_input(Signature((1, 3, None, 256)), "NCHW")
    (1, None, 256)
    """
    shape = signature.input_shape
    if not shape:
        return None, None, None
    return (shape[0], shape[2], shape[3]) if layout == "NCHW" else (shape[0], shape[1], shape[2])


def _card_file(beside: Path) -> tuple[str | None, str]:
    for path in (beside.with_name(beside.name + ".card.json"), beside.with_name("card.json")):
        if path.is_file():
            try:
                return path.read_text(encoding="utf-8"), str(path)
            except (OSError, UnicodeDecodeError) as error:
                raise CardError(f"card {path} cannot be read: {error}") from error
    return None, str(beside)


def _assemble(name: str, signature: Signature, stated: dict[str, Any]) -> FoundCard:
    """A card from options and from what the program proves."""
    facts = {**_proven(signature), **stated}
    options = {
        "mpp": "--model-mpp", "classes": "--classes", "mean": "--mean", "std": "--std",
        "layout": "--layout", "activation": "--activation",
    }  # fmt: skip
    if missing := [option for key, option in options.items() if key not in facts]:
        found = ", ".join(f"{key} {_words(facts[key])}" for key in options if key in facts) or "nothing"
        channels = _channels(signature, facts.get("layout"))
        hint = f" (the output has {channels} channels)" if channels and "--classes" in missing else ""
        raise CardError(
            f"{name} carries no card; missing: {', '.join(missing)}{hint}; found: {found}",
            rule="resolution, classes and normalisation are never guessed",
            remedy="give these options or write a card.json beside the model",
        )
    stem = Path(name).stem or name
    return FoundCard(ModelCard(name=stem, **facts), "output_stride" in facts)


def _proven(signature: Signature) -> dict[str, Any]:
    """Card fields that follow from the program alone."""
    facts: dict[str, Any] = {}
    shape = signature.input_shape
    if not shape:
        facts["layout"] = "NCHW"  # only torch programs do not tell their shape, and torch images are NCHW
    elif (shape[1] == 3) != (shape[3] == 3):
        facts["layout"] = "NCHW" if shape[1] == 3 else "NHWC"
    if "layout" in facts:
        _, height, width = fixed_input(signature, facts["layout"])
        if height is not None and height == width:
            facts["tile_size"] = height
    if signature.last_operation in ("Softmax", "Sigmoid"):
        facts["activation"] = "probabilities"
    return facts


def _channels(signature: Signature, layout: str | None) -> int | None:
    if not signature.output_shape or layout is None:
        return None
    return signature.output_shape[1 if layout == "NCHW" else 3]


def _words(value: Any) -> str:
    """A value for a message, classes by name and free axes as `?`."""
    if isinstance(value, tuple):
        return "(" + ", ".join("?" if item is None else str(getattr(item, "name", item)) for item in value) + ")"
    return str(value)
