"""The model card: the one contract between training, export and deployment.

Owns what a model promises (resolution, tile, halo, input convention, classes) and its JSON form. Knows no runtime, no
file format of weights and no slide. It travels inside the exported program (ONNX metadata key `wsi_seg.card`) or beside
it (`card.json`, `<program>.card.json`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from typing import Any

from wsi_seg.errors import CardError

METADATA_KEY = "wsi_seg.card"
MAX_CARD_CHARACTERS = 1 << 22
"""Key under which an ONNX file carries its card as JSON."""

MAX_TILE = 1 << 14
"""Largest side of a tile, px."""

ACTIVATIONS = ("probabilities", "softmax", "sigmoid")
"""What is still to be applied to the program's output: nothing, a softmax over classes, or a sigmoid."""

STORED_PRECISIONS = ("fp32", "fp16", "bf16", "int8")
"""What weights are stored in; `int8` with Q/DQ nodes."""

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_PALETTE = ("#d9d9d9", "#d55e00", "#0072b2", "#56b4e9", "#cc79a7", "#f0e442", "#e69f00", "#009e73", "#000000")
"""Grey for the first class, then the colours of Okabe and Ito (https://jfly.uni-koeln.de/color/, 2002), which people
with any of the three colour-vision deficiencies tell apart; tests measure how well."""


@dataclass(frozen=True, slots=True)
class SegmentationClass:
    """One class: its name and its display colour `#rrggbb`."""

    name: str
    colour: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or not self.name.isprintable():
            remedy = "give every class a name of one line"
            raise CardError(f"class name {self.name!r}"[:200], rule="a class needs a printable name", remedy=remedy)
        if not isinstance(self.colour, str) or not _COLOUR.fullmatch(self.colour):
            what = f"colour {self.colour!r} of class {self.name!r}"[:200]
            raise CardError(what, rule="colours are #rrggbb", remedy="e.g. #d55e00")

    @property
    def rgb(self) -> tuple[int, int, int]:
        """(red, green, blue), 0-255."""
        return int(self.colour[1:3], 16), int(self.colour[3:5], 16), int(self.colour[5:7], 16)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model promises; see the fields.

    The program sees `(pixel / 255 - mean) / std` per channel, pixel being uint8 in `channels` order.
    """

    name: str
    """Short name, e.g. `nuclei`."""
    mpp: float
    """µm per px that the model was trained at, both axes."""
    classes: tuple[SegmentationClass, ...]
    """Classes in index order; class index = position. At least two."""
    tile_size: int = 512
    """Side of the square input, px; a multiple of `output_stride`."""
    halo: int | None = None
    """Context per side that an exact prediction of a pixel needs, px; None: not known, or unbounded."""
    output_stride: int = 1
    """Total down-sampling of the network; tile origins and sizes are multiples of it."""
    channels: str = "RGB"
    """`RGB` or `BGR`: the order the program expects."""
    layout: str = "NCHW"
    """`NCHW` or `NHWC`: layout of the program's input and output."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Per channel, in units of pixel / 255, in the order of `channels`."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Per channel, in units of pixel / 255, in the order of `channels`; 1/255 feeds raw 0-255."""
    activation: str = "probabilities"
    """What is still to be applied to the output, one of `ACTIVATIONS`."""
    threshold: float = 0.5
    """For a single output channel: pixels with probability >= threshold are class 1, else class 0. For independent
    (sigmoid) probabilities with one class more than channels: class 0 is where all of them are below the threshold."""
    background: tuple[int, int, int] = (255, 255, 255)
    """RGB that pads beyond the slide, as in training."""
    precision: str = "fp32"
    """Precision of the stored weights, one of `STORED_PRECISIONS`."""
    derived_from: str = ""
    """SHA-256 of the fp32 program that a program of lower precision was made from; empty: it is an original."""
    licence: str = ""
    """SPDX identifier, or empty when unknown."""
    training_data: str = ""
    """What the model was trained on, with attribution."""
    description: str = ""
    """One paragraph for people."""
    weights_sha256: str = ""
    """SHA-256 of the program or weights file, where it is known; checked on loading."""
    output: str = ""
    """Name of the output to use, for a program that has several (torch: key or position of what it returns)."""

    def __post_init__(self) -> None:
        if problems := _problems(self):
            raise CardError(
                f"card of model {self.name!r}: {'; '.join(problems)}",
                rule="every field of a card lies in its range",
                remedy="correct the card, or give the option of the same name",
            )

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def not_analysed(self) -> int:
        """Label of a pixel that was not analysed: the largest value of the label dtype, never a class.

        >>> ModelCard("m", 0.5, named_classes(["a", "b"])).not_analysed
        255
        """
        return 255 if self.n_classes <= 255 else 65535

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no white space; equal cards give equal text. `output` only where it is named."""
        content = asdict(self)
        if not self.output:
            del content["output"]
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, source: str, stated: Mapping[str, Any] | None = None) -> ModelCard:
        """Read a card; `source` names the file in errors, fields in `stated` win over it. Raises CardError."""
        remedy = "`wsi-seg models --json` shows what cards look like"
        if len(text) > MAX_CARD_CHARACTERS:
            rule = f"at most {MAX_CARD_CHARACTERS}"
            raise CardError(f"card in {source} has {len(text)} characters", rule=rule, remedy=remedy)
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:  # JSONDecodeError, or bytes of a damaged file that are no text
            raise CardError(f"card in {source} is not JSON: {error}", rule="a card is JSON", remedy=remedy) from error
        if not isinstance(content, dict):
            raise CardError(
                f"card in {source} is a {type(content).__name__}", rule="a card is a JSON object", remedy=remedy
            )
        changes = {} if stated is None else dict(stated)
        if "classes" in changes:
            changes["classes"] = [asdict(entry) for entry in changes["classes"]]
        return cls.from_mapping({**content, **changes}, source)

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any], source: str) -> ModelCard:
        """Card from plain values; unknown and missing keys are errors that name them. Raises CardError."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(content) - known):
            raise CardError(
                f"card in {source} has unknown keys {unknown}",
                rule=f"known keys: {sorted(known)}",
                remedy="remove them, or correct their spelling",
            )
        if missing := [key for key in ("name", "mpp", "classes") if key not in content]:
            raise CardError(
                f"card in {source} lacks {missing}",
                rule="resolution and classes are never guessed",
                remedy="give --model-mpp, --classes or complete the card",
            )
        values = dict(content)
        values["classes"] = _classes(values["classes"], source)
        remedy = "`wsi-seg models --json` shows what cards look like"
        if wrong := sorted(key for key, value in values.items() if not _is_of_type(key, value)):
            raise CardError(
                f"card in {source}: {', '.join(f'{key} {values[key]!r}'[:80] for key in wrong)}",
                rule="every value has the type of its field, and numbers are finite", remedy=remedy,
            )  # fmt: skip
        for key in ("mean", "std", "background"):
            if key in values:
                values[key] = tuple(values[key]) if isinstance(values[key], list | tuple) else (values[key],) * 3
        try:
            return cls(**values)
        except TypeError as error:
            rule = "every value has the type of its field"
            raise CardError(f"card in {source}: {error}", rule=rule, remedy=remedy) from error

    def replaced(self, **changes: Any) -> ModelCard:
        """A card with some fields changed, checked again."""
        return replace(self, **changes)


def named_classes(names: list[str]) -> tuple[SegmentationClass, ...]:
    """Classes of the given names (`name` or `name=#rrggbb`) with default colours.

    >>> [c.colour for c in named_classes(["background", "tumour=#ff0000"])]
    ['#d9d9d9', '#ff0000']
    """
    classes = []
    for index, entry in enumerate(names):
        name, _, colour = entry.partition("=")
        classes.append(SegmentationClass(name.strip(), colour.strip() or _PALETTE[index % len(_PALETTE)]))
    return tuple(classes)


def _classes(entries: object, source: str) -> tuple[SegmentationClass, ...]:
    if not isinstance(entries, list | tuple):
        raise CardError(f"classes in {source} are {entries!r}"[:200], rule=_CLASSES_RULE, remedy=_CLASSES_REMEDY)
    if all(isinstance(entry, str) for entry in entries):
        return named_classes(list(entries))
    try:
        return tuple(SegmentationClass(entry["name"], entry["colour"]) for entry in entries)
    except (TypeError, KeyError) as error:
        raise CardError(f"classes in {source}: {error!r}"[:200], rule=_CLASSES_RULE, remedy=_CLASSES_REMEDY) from error


_CLASSES_RULE = "classes are a list of names, or of {name, colour}"
_CLASSES_REMEDY = 'e.g. ["background", "tumour=#ff0000"]; `wsi-seg models --json` shows what cards look like'
_INTEGERS, _REALS = frozenset({"tile_size", "output_stride"}), frozenset({"mpp", "threshold"})
_TRIPLES = {"mean": (int, float), "std": (int, float), "background": (int,)}


def _is_of_type(key: str, value: object) -> bool:
    """Whether a field of a card has a value of its type; of classes, see `_classes`."""
    if key in _TRIPLES:
        entries = value if isinstance(value, list | tuple) else [value]
        return all(_is_number(entry, _TRIPLES[key]) for entry in entries)
    if key in _REALS:
        return _is_number(value, (int, float))
    if key in _INTEGERS or (key == "halo" and value is not None):
        return _is_number(value, (int,))
    return key in ("classes", "halo") or isinstance(value, str)


def _is_number(value: object, types: tuple[type, ...]) -> bool:
    """Of one of the types, no truth value, and within what computing can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return isinstance(value, types) and abs(value) < _HUGE


_HUGE = 1e18


def _problems(card: ModelCard) -> list[str]:
    """What is wrong with a card, in words; empty when it is sound."""
    checks = (
        (isfinite(card.mpp) and 0.02 <= card.mpp <= 100, f"mpp {card.mpp} must lie in 0.02 … 100 um/px"),
        (2 <= card.n_classes <= 65534, f"{card.n_classes} classes; 2 … 65534 are possible"),
        (len({c.name for c in card.classes}) == card.n_classes, "class names must differ"),
        (card.output_stride >= 1, f"output_stride {card.output_stride} must be at least 1"),
        (
            card.output_stride < 1 or (card.tile_size >= 16 and card.tile_size % card.output_stride == 0),
            f"tile_size {card.tile_size} must be at least 16 and a multiple of the output stride {card.output_stride}",
        ),
        (card.tile_size <= MAX_TILE, f"tile_size {card.tile_size} must be at most {MAX_TILE}"),
        (card.halo is None or card.halo >= 0, f"halo {card.halo} must not be negative"),
        (card.channels in ("RGB", "BGR"), f"channels {card.channels!r} must be RGB or BGR"),
        (card.layout in ("NCHW", "NHWC"), f"layout {card.layout!r} must be NCHW or NHWC"),
        (card.activation in ACTIVATIONS, f"activation {card.activation!r} must be one of {ACTIVATIONS}"),
        (card.precision in STORED_PRECISIONS, f"precision {card.precision!r} must be one of {STORED_PRECISIONS}"),
        (0 < card.threshold < 1, f"threshold {card.threshold} must lie between 0 and 1"),
        (len(card.mean) == 3 and len(card.std) == 3, "mean and std have three values"),
        (all(value > 0 and isfinite(value) for value in card.std), f"std {card.std} must be above 0"),
        (len(card.background) == 3 and all(0 <= v <= 255 for v in card.background), "background is RGB in 0 … 255"),
    )
    return [text for sound, text in checks if not sound]
