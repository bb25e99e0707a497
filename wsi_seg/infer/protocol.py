"""What the engine knows of a model: a card, the facts of its runtime, and `predict`.

Owns the `Predictor` protocol, the picklable `ModelSpec` from which any process makes the same predictor, and the
`Program` seam that each runtime fills. Knows no runtime, no file and no slide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import inf
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import ModelCard, SegmentationClass
from wsi_seg.errors import UsageError
from wsi_seg.infer.combined.augmentation import NO_AUGMENTATION, Augmentation

RUNTIMES = ("auto", "onnxruntime", "openvino", "torch", "tensorrt", "onnxruntime-tensorrt")
DEVICES = r"auto|cpu|cuda(:\d+)?"
"""What a device may be called."""
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """The runtime that is really in use, not the one that was asked for."""

    runtime: str
    """`openvino`, `onnxruntime`, `torch`, `tensorrt`, `onnxruntime-tensorrt` or `numpy`."""
    version: str
    device: str
    """`CPU`, or the GPU by number and product name, such as `cuda:0 NVIDIA H200`."""
    precision: str
    """Precision of the arithmetic, `fp32` or `bf16`; for a program stored in less than fp32, that: `fp16` or `int8`."""

    def as_dict(self) -> dict[str, str]:
        """Plain values, for metadata and run identity."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CardOverrides:
    """Fields of the card that the user states; None: as the card says. Same meaning as in `ModelCard`."""

    mpp: float | None = None
    classes: tuple[SegmentationClass, ...] | None = None
    tile_size: int | None = None
    halo: int | None = None
    output_stride: int | None = None
    channels: str | None = None
    layout: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    activation: str | None = None
    threshold: float | None = None
    background: tuple[int, int, int] | None = None
    output: str | None = None

    def stated(self) -> dict[str, Any]:
        """The fields that are given.

        >>> CardOverrides(mpp=0.25).stated()
        {'mpp': 0.25}
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Member:
    """One model of an ensemble and how much it counts."""

    model: str
    """As `ModelSpec.model`."""
    weight: float = 1.0
    """Above 0; what counts is its share of the sum of all."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """All a worker needs to make the predictor; pickles, hashes and compares by value."""

    model: str
    """A built-in name, `constant:K/C`, a path, or `module:factory` of a torch module."""
    weights: str | None = None
    """Path of the safetensors file for `module:factory`."""
    runtime: str = "auto"
    """One of `RUNTIMES`."""
    precision: str = "auto"
    """One of `PRECISIONS`; `auto` means as stored until `choose_program` has decided on real tiles.

    `fp16` and `int8` are programs of their own, made by `wsi-seg export`, which lie beside the one in fp32."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`; see `wsi_seg.infer.places`."""
    trust_engine: bool = False
    """Load a TensorRT engine file, which is executable code."""
    cuda_graphs: bool = False
    """On torch and a GPU: record the network once per batch shape and replay it."""
    threads: int = 1
    """Threads inside one call."""
    streams: int = 1
    """Calls expected at once."""
    card: CardOverrides = CardOverrides()
    augmentation: Augmentation = NO_AUGMENTATION
    """Copies of each tile whose predictions are averaged."""
    members: tuple[Member, ...] = ()
    """All models of an ensemble, `model` first; empty for a single model. Everything else holds for each of them."""

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise UsageError(f"runtime {self.runtime!r}", rule=f"one of {', '.join(RUNTIMES)}")
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision {self.precision!r}", rule=f"one of {', '.join(PRECISIONS)}")
        if not re.fullmatch(DEVICES, self.device):
            raise UsageError(f"device {self.device!r}", rule="auto, cpu, cuda or cuda:N")
        if self.threads < 1 or self.streams < 1:
            raise UsageError(f"{self.threads} threads, {self.streams} streams", rule="both must be at least 1")
        if self.members:
            self._check_members()

    def replaced(self, **changes: Any) -> ModelSpec:
        """A spec with some fields changed."""
        return replace(self, **changes)

    @property
    def single(self) -> tuple[ModelSpec, ...]:
        """Specs of the programs behind it, each to be loaded on its own: no ensemble, no augmentation."""
        plain = replace(self, members=(), augmentation=NO_AUGMENTATION)
        return tuple(replace(plain, model=member.model) for member in self.members) or (plain,)

    @property
    def shares(self) -> tuple[float, ...]:
        """How much each of `single` counts; sums to 1.

        >>> ModelSpec("a.onnx", members=(Member("a.onnx", 3), Member("b.onnx", 1))).shares
        (0.75, 0.25)
        """
        weights = [member.weight for member in self.members] or [1.0]
        return tuple(weight / sum(weights) for weight in weights)

    def _check_members(self) -> None:
        if len(self.members) < 2 or self.members[0].model != self.model:
            raise UsageError(
                f"an ensemble of {', '.join(member.model for member in self.members)} for model {self.model}",
                rule="two models or more, the first of them named as the model too",
            )
        if not all(0 < member.weight < inf for member in self.members):
            told = ", ".join(f"{member.weight:g}" for member in self.members)
            raise UsageError(f"--model-weights {told}", rule="numbers above 0")
        if self.weights is not None:
            raise UsageError(
                f"--weights {self.weights} with several models", rule="it says nothing of which model they belong to",
                remedy="export the models to ONNX, or write factories that load their own weights",
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Port:
    """One output of a program, as its file states it; None where it does not say."""

    name: str
    shape: tuple[int | None, ...] | None = None
    element: str | None = None
    """NumPy name of the element type."""
    operation: str | None = None
    """Operation that makes it, layout changes skipped, e.g. `Softmax`."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a program file says about itself before it is compiled; None where it does not say.

    The fields of the output are those of the one in use; `outputs` lists all.
    """

    input_shape: tuple[int | None, ...] | None = None
    output_shape: tuple[int | None, ...] | None = None
    input_type: str | None = None
    """NumPy name of the input's element type."""
    last_operation: str | None = None
    """Operation that makes the output, layout changes skipped, e.g. `Softmax`."""
    card_json: str | None = None
    output_type: str | None = None
    """NumPy name of the output's element type."""
    outputs: tuple[Port, ...] = ()
    """All outputs; empty where the format does not tell before it runs."""
    tile_wide: tuple[str, ...] = ()
    """Operations found that normalise or pool over all pixels of a tile, by name."""

    @property
    def gives_labels(self) -> bool:
        """True where the output holds class indices instead of one value per class."""
        return self.last_operation == "ArgMax" or (self.output_type or "").startswith(("int", "uint"))

    def of_output(self, port: Port) -> Signature:
        """The signature with `port` as the output in use."""
        return replace(self, output_shape=port.shape, output_type=port.element, last_operation=port.operation)


class Program(Protocol):
    """A compiled program of one runtime: pixels in, probabilities out, nothing checked."""

    @property
    def facts(self) -> RuntimeFacts:
        """What really runs."""

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """(N, H, W, 3) uint8 RGB, C-contiguous -> (N, C, H, W) after activation. Raises PredictorError.

        A program whose signature `gives_labels` answers class indices (N, 1, H, W).

        The array belongs to the caller. Callable from several threads at once.
        """

    def close(self) -> None:
        """Release the runtime's memory."""


class DeviceTile(Protocol):
    """Probabilities of one tile where the network made them; what may be asked of it is told by a `DeviceBlend`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""

    def copy(self) -> DeviceTile:
        """A tile that keeps nothing else of its batch alive; finished."""

    def behind(self, constant: np.float32) -> DeviceTile:
        """The tile with a channel before its own that is `constant` everywhere; finished."""


class DeviceProgram(Program, Protocol):
    """A program that can leave predictions on its device, to be blended there."""

    @property
    def device_blend(self) -> Any:
        """What blends them, such as `wsi_seg.infer.device.device_blend.TorchBlend`."""

    def run_on_device(self, batch: NDArray[np.uint8]) -> Sequence[DeviceTile]:
        """As `run`, a tile each; finished, so that any thread may read them."""


class Predictor(Protocol):
    """What answers: tiles in, probabilities out.

    One that can leave predictions on its device also has `device_blend`, not None, and `predict_on_device`. One that
    puts a class 0 before the program's own channels has `n_own_channels`, one less than `n_channels`. One that can tell
    has `prediction_bytes(side)`.
    """

    @property
    def card(self) -> ModelCard:
        """The contract in force, overrides included."""

    @property
    def facts(self) -> RuntimeFacts:
        """What really runs."""

    @property
    def n_channels(self) -> int:
        """Channels of `predict`: the number of classes, or 1 where `card.threshold` separates two."""

    @property
    def fixed_input(self) -> tuple[int | None, int | None, int | None]:
        """(N, H, W) where the program demands a value, else None."""

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities of a batch of tiles.

        Args:
            batch: (N, H, W, 3) uint8 RGB pixels as read; not changed. Any strides; C-contiguous is fastest.

        Returns:
            (N, n_channels, H, W) float32, C-contiguous. The caller owns it. In [0, 1] but for rounding (1e-2 in bf16);
            NaN where the network overflowed on a tile. Loading proves the range once; whoever uses the values checks
            them per tile, as `wsi_kernels.quantise` does in passing, so that one bad tile harms no other.

        Callable from several threads at once. Raises PredictorError.
        """

    def close(self) -> None:
        """Release the runtime's memory; `predict` raises afterwards. May be called twice."""
