"""What can be asked of an export, in one value, and what is refused before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsi_seg.errors import UsageError
from wsi_seg.infer.parity import MAX_DICE_LOSS, MIN_ARGMAX_AGREEMENT

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2", "tensorrt": ".engine", "coreml": ".mlpackage"}
"""Format -> suffix of its file."""
MODULE_FORMATS = ("torch", "coreml")
"""Formats made from a torch module; all others are made from the ONNX program."""
PRECISIONS = {
    "onnx": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16", "int8"),
    "torch": ("fp32", "fp16", "bf16"),
    "tensorrt": ("fp32", "fp16", "int8"),
    "coreml": ("fp32", "fp16"),
}
"""Format -> what its weights can be stored in."""
METHODS = ("minmax", "percentile", "entropy")
"""How ranges of activations are read off the calibration tiles."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """Options of `wsi-seg export`."""

    model: str
    """Folder of a training, ONNX file, built-in name, or `module:factory`."""
    weights: Path | None = None
    """safetensors file for `module:factory`."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """Card fields given by the user; they win over the model's own."""
    to: str = "onnx"
    """One of `FORMATS`."""
    precision: str = "fp32"
    """One of `PRECISIONS` of the format."""
    out: Path | None = None
    """File to write; None: beside the model, under its name; of built-in models and factories here."""
    slides: tuple[Path, ...] = ()
    """Whose tissue the program is calibrated on."""
    judged_on: tuple[Path, ...] = ()
    """Whose tissue the program is judged on; none: other tiles of `slides`, or else the sample slide."""
    slide_mpp: float | None = None
    """µm per px of level 0, for slides that do not state it."""
    n_tiles: int = 32
    """Tiles to calibrate on; as many others judge."""
    method: str = "minmax"
    """One of `METHODS`."""
    symmetric: bool | None = None
    """Activations as signed integers around 0, as TensorRT wants them; None: for TensorRT only."""
    upsample: str = "trained"
    """`trained`, or `transposed`: resizing by two as transposed convolutions with fixed weights, the same values."""
    min_agreement: float | None = None
    """Share of the pixels that must keep their class; None: `MIN_ARGMAX_AGREEMENT`, for int8 0."""
    max_dice_loss: float = MAX_DICE_LOSS
    """Of the worst class."""
    seed: int = 0
    """Of the tiles."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.to not in FORMATS:
            raise UsageError(f"--to {self.to!r}", rule=f"one of {', '.join(FORMATS)}")
        if self.precision not in PRECISIONS[self.to]:
            raise UsageError(
                f"--precision {self.precision} --to {self.to}", rule=f"one of {', '.join(PRECISIONS[self.to])}",
                remedy="bf16 on OpenVINO is a way to run: `wsi-seg run --precision bf16`"
                if self.precision == "bf16" else "",
            )  # fmt: skip
        if self.method not in METHODS:
            raise UsageError(f"--method {self.method!r}", rule=f"one of {', '.join(METHODS)}")
        if self.upsample not in ("trained", "transposed"):
            raise UsageError(f"--upsample {self.upsample!r}", rule="trained or transposed")
        if self.upsample != "trained" and self.to in MODULE_FORMATS:
            raise UsageError(f"--upsample {self.upsample} --to {self.to}", rule="it changes ONNX programs")
        if self.precision == "int8" and not self.slides:
            raise UsageError(
                "--precision int8 without slides", rule="int8 is calibrated on tissue of real slides",
                remedy="--calibrate SLIDE …, slides like those it will run on",
            )  # fmt: skip
        both = {path.resolve() for path in self.slides} & {path.resolve() for path in self.judged_on}
        if self.precision == "int8" and both:
            raise UsageError(
                f"{', '.join(sorted(path.name for path in both))} in --calibrate and in --judge",
                rule="what calibrates does not judge", remedy="leave --judge out: then other tiles of the slides judge",
            )  # fmt: skip
        if not 1 <= self.n_tiles <= 10_000:
            raise UsageError(f"--tiles {self.n_tiles}", rule="1 … 10000")
        if not (0 <= (self.min_agreement or 0) <= 1 and 0 <= self.max_dice_loss <= 1):
            raise UsageError(
                f"--min-agreement {self.min_agreement} --max-dice-loss {self.max_dice_loss}", rule="shares, 0 … 1"
            )

    @property
    def agreement_needed(self) -> float:
        """Share of the pixels that must keep their class."""
        if self.min_agreement is not None:
            return self.min_agreement
        return 0.0 if self.precision == "int8" else MIN_ARGMAX_AGREEMENT

    @property
    def signed_activations(self) -> bool:
        """Whether activations are symmetric int8 rather than uint8 with a zero point."""
        return self.to == "tensorrt" if self.symmetric is None else self.symmetric
