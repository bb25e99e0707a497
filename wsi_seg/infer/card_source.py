"""Where a card comes from: inside the program, beside it, or from what the user states.

Owns that order and the completion of a card for programs that carry none. Knows no runtime. Guesses nothing that the
program's own shapes and operations do not prove.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_seg.card import MAX_CARD_CHARACTERS, ModelCard
from wsi_seg.errors import CardError, ModelLoadError
from wsi_seg.infer.protocol import CardOverrides, Port, Signature

NO_SIGNATURE = Signature()
"""Of a program that has no file."""
_RAW_STD = 1 / 255
"""`std` that feeds 0-255."""
MAX_TILE_PIXELS, MAX_BATCH_PIXELS = 2**28, 2**25
"""Pixels that a program may demand: of a tile, and of several at once (which are predicted, padded, as one)."""
_ACTIVATED = ("Softmax", "Sigmoid")
"""Operations that prove an output to be probabilities."""


@dataclass(frozen=True, slots=True)
class FoundCard:
    """A card, the signature narrowed to the output in use, and whether the output stride was stated."""

    card: ModelCard
    stride_stated: bool
    signature: Signature = NO_SIGNATURE


def check_signature(signature: Signature, name: str, types: tuple[str, ...] = ("float32",)) -> None:
    """Refuse programs that do not take RGB images of one of the types. Raises ModelLoadError."""
    shape = signature.input_shape
    if shape is not None and len(shape) not in (0, 4):  # 0: the file does not say
        raise ModelLoadError(
            f"the input of {name} has {len(shape)} axes {_words(shape)}",
            rule="a segmentation model maps (N, 3, H, W) or (N, H, W, 3) to as many axes",
            remedy="export it as a fully convolutional network",
        )
    if signature.input_type not in (None, *types):
        raise ModelLoadError(
            f"the input of {name} is {signature.input_type}",
            rule=f"programs take {', '.join(types)}",
            remedy="export it so",
        )


def find_card(name: str, signature: Signature, beside: Path, overrides: CardOverrides) -> FoundCard:
    """The card of a program: in its metadata, in `<program>.card.json`, in `card.json`, else from `overrides`.

    `overrides` wins over what a card says; what neither says is taken from the program where that proves it. `beside`
    is the program (or weights) file. Raises CardError, ModelLoadError.
    """
    text, source = signature.card_json, str(beside)
    if text is None:
        text, source = _card_file(beside)
    stated = overrides.stated()
    if text is None:
        card = _assemble(name, signature, stated)
        narrowed = _with_output(name, signature, card.output)
        given = set(stated)
    else:
        card = ModelCard.from_json(text, source, stated)
        given = {*json.loads(text), *stated}
        narrowed = _with_output(name, signature, card.output)
    # A card that leaves the stride out does not mean 1: it is measured, as without a card.
    return FoundCard(_agreeing(card, given, narrowed), "output_stride" in given, narrowed)


def _with_output(name: str, signature: Signature, wanted: str) -> Signature:
    """The signature with the output of that name in use, or with the only one. Raises ModelLoadError."""
    ports = signature.outputs
    if not ports:  # only known once it runs, or already in use
        return signature
    chosen = [port for port in ports if port.name == wanted] if wanted else list(ports)
    if len(chosen) != 1:
        listed = _listed(ports)
        raise ModelLoadError(
            f"{name} has no output {wanted!r}; it has {listed}" if wanted else f"{name} has several outputs: {listed}",
            rule="one output holds the classes, and which one is never guessed",
            remedy="name it with --output or in the card",
        )
    shape = chosen[0].shape
    if shape is not None and len(shape) not in (0, 3, 4):
        raise ModelLoadError(
            f"the output {chosen[0].name} of {name} has {len(shape)} axes {_words(shape)}",
            rule="a segmentation model gives one value per class and px: (N, C, H, W), (N, H, W, C) or (N, H, W)",
            remedy="export it as a fully convolutional network",
        )
    return signature.of_output(chosen[0])


def _agreeing(card: ModelCard, given: set[str], signature: Signature) -> ModelCard:
    """The card, completed by what the program demands. Raises CardError, ModelLoadError where they contradict."""
    _check_image_axes(card, signature)
    card = _with_tile(card, given, signature)
    last = signature.last_operation
    if last in ("Softmax", "Sigmoid", "ArgMax") and card.activation != "probabilities":
        raise CardError(
            f"activation {card.activation} for {card.name!r}, whose program ends in {last}",
            rule="an activation is applied once",
            remedy="use activation probabilities",
        )
    if signature.input_type != "uint8":
        return card
    if not given & {"mean", "std"}:
        return card.replaced(mean=(0.0,) * 3, std=(_RAW_STD,) * 3)
    if any(card.mean) or any(abs(value - _RAW_STD) > 1e-6 for value in card.std):
        raise CardError(
            f"mean {card.mean} and std {card.std} for {card.name!r}, whose program takes uint8",
            rule="a uint8 program takes pixels as they are and normalises them itself",
            remedy="leave mean and std out, or give mean 0 and std 0.0039215686 (1/255)",
        )
    return card


def _check_image_axes(card: ModelCard, signature: Signature) -> None:
    """Refuse an input whose channel axis, by the card's layout, is not of three channels."""
    shape = signature.input_shape
    if not shape:
        return
    other = "NHWC" if card.layout == "NCHW" else "NCHW"
    channels, elsewhere = shape[_channel_axis(card.layout)], shape[_channel_axis(other)]
    if channels != 3 and (channels is not None or elsewhere == 3):
        raise CardError(
            f"layout {card.layout} for {card.name!r}, whose input is {_words(shape)}",
            rule="the channel axis of the input has 3 entries: red, green and blue",
            remedy=f"give --layout {other}" if elsewhere == 3 else "export a model that takes RGB images",
        )


def _channel_axis(layout: str) -> int:
    return 1 if layout == "NCHW" else 3


def _with_tile(card: ModelCard, given: set[str], signature: Signature) -> ModelCard:
    """The card with the tile size that the program demands, if it demands one."""
    count, height, width = fixed_input(signature, card.layout)
    if height is not None and width is not None and height != width:
        raise ModelLoadError(
            f"the program of {card.name!r} takes {width} x {height} px (width x height) only",
            rule="tiles are square",
            remedy="export it with equal sides, or with dynamic height and width",
        )
    side, n_tiles = height or width, count or 1
    tile = side or card.tile_size
    if n_tiles * tile**2 > (MAX_BATCH_PIXELS if n_tiles > 1 else MAX_TILE_PIXELS):
        raise ModelLoadError(
            f"the program of {card.name!r} takes batches of {n_tiles} x {tile} x {tile} px",
            rule=f"at most {MAX_TILE_PIXELS} px in a tile, and {MAX_BATCH_PIXELS} in a batch of several",
            remedy="export it with dynamic axes, or with smaller ones",
        )
    if side is None or side == card.tile_size:
        return card
    if "tile_size" in given:
        raise CardError(
            f"tile_size {card.tile_size} of {card.name!r}",
            rule=f"the program takes exactly {side} px",
            remedy=f"state tile_size {side} in the card, or export the program with dynamic height and width",
        )
    return card.replaced(tile_size=side)


def fixed_input(signature: Signature, layout: str) -> tuple[int | None, int | None, int | None]:
    """(N, H, W) where the program demands them.

    >>> fixed_input(Signature((1, 3, None, 256)), "NCHW")
    (1, None, 256)
    """
    shape = signature.input_shape
    if not shape:
        return None, None, None
    return (shape[0], shape[2], shape[3]) if layout == "NCHW" else (shape[0], shape[1], shape[2])


def has_card_file(beside: Path) -> bool:
    """Whether a card lies beside a program, as a file of its own."""
    return any(path.is_file() for path in _card_files(beside))


def _card_files(beside: Path) -> tuple[Path, Path]:
    return beside.with_name(beside.name + ".card.json"), beside.with_name("card.json")


def _check_place(card: Path, beside: Path) -> None:
    """Refuse a card that is a link out of the model's folder; where the program is a link, both may lead to one place.

    So lie models in the caches of model hubs. Raises CardError.
    """
    place = card.resolve().parent
    if place not in (card.parent.resolve(), beside.resolve().parent):
        raise CardError(
            f"card {card} is a link to {card.resolve()}",
            rule="a card lies in the folder of its program",
            remedy="copy it there",
        )


def _card_file(beside: Path) -> tuple[str | None, str]:
    for path in _card_files(beside):
        if path.is_file():
            _check_place(path, beside)
            try:
                if (n_bytes := path.stat().st_size) > 4 * MAX_CARD_CHARACTERS:
                    rule, remedy = f"at most {MAX_CARD_CHARACTERS} characters", "give the model's own card"
                    raise CardError(f"card {path} has {n_bytes} bytes", rule=rule, remedy=remedy)
                return path.read_text(encoding="utf-8"), str(path)
            except (OSError, UnicodeDecodeError) as error:
                rule, remedy = "a card is a text file in UTF-8", "check the file and its permissions"
                raise CardError(f"card {path} cannot be read: {error}", rule=rule, remedy=remedy) from error
    return None, str(beside)


_OPTIONS = {
    "mpp": "--model-mpp", "classes": "--classes", "mean": "--mean", "std": "--std",
    "layout": "--layout", "activation": "--activation",
}  # fmt: skip
"""Field that a card must state -> the option that states it."""


def _assemble(name: str, signature: Signature, stated: dict[str, Any]) -> ModelCard:
    """A card from options and from what the program proves. Raises CardError that names all that is missing."""
    open_choice = len(signature.outputs) > 1 and "output" not in stated
    used = _common(signature) if open_choice else _with_output(name, signature, stated.get("output", ""))
    facts = {**_proven(used), **stated}
    missing = [option for key, option in _OPTIONS.items() if key not in facts]
    if not missing:
        file = Path(name).name  # or module:factory
        return ModelCard(name=file.rpartition(":")[2] if ":" in file else Path(name).stem or name, **facts)
    channels = _channels(used, facts.get("layout"))
    hint = f" (the output has {channels} channels)" if channels and "--classes" in missing else ""
    if open_choice:
        missing.insert(0, f"--output (it has several outputs: {_listed(signature.outputs)})")
    found = ", ".join(f"{key} {_words(facts[key])}" for key in _OPTIONS if key in facts) or "nothing"
    raise CardError(
        f"{name} carries no card; missing: {', '.join(missing)}{hint}; found: {found}",
        rule="resolution, classes and normalisation are never guessed",
        remedy="give these options or write a card.json beside the model",
    )


def _common(signature: Signature) -> Signature:
    """The signature of an output yet to be chosen: the shape if all have it, an activation if one of them has it."""
    ports = signature.outputs
    shape = ports[0].shape if len({port.shape for port in ports}) == 1 else None
    operation = next((port.operation for port in ports if port.operation in _ACTIVATED), None)
    return signature.of_output(Port("", shape, None, operation))


def _listed(ports: Sequence[Port]) -> str:
    return ", ".join(f"{port.name} {_words(port.shape or ())}" for port in ports)


def _proven(signature: Signature) -> dict[str, Any]:
    """Card fields that follow from the program alone."""
    facts: dict[str, Any] = {}
    shape = signature.input_shape
    if not shape:
        facts["layout"] = "NCHW"  # only torch programs do not tell their shape, and torch images are NCHW
    elif (shape[1] == 3) != (shape[3] == 3):
        facts["layout"] = "NCHW" if shape[1] == 3 else "NHWC"
    if signature.last_operation in _ACTIVATED or signature.gives_labels:
        facts["activation"] = "probabilities"
    if signature.input_type == "uint8":
        facts["mean"], facts["std"] = (0.0,) * 3, (_RAW_STD,) * 3
    return facts


def _channels(signature: Signature, layout: str | None) -> int | None:
    shape = signature.output_shape
    if not shape or len(shape) != 4 or layout is None or signature.gives_labels:
        return None
    return shape[_channel_axis(layout)]


def _words(value: Any) -> str:
    """A value for a message, classes by name and free axes as `?`."""
    if isinstance(value, tuple):
        return "(" + ", ".join("?" if item is None else str(getattr(item, "name", item)) for item in value) + ")"
    return str(value)
