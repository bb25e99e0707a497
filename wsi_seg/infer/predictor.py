"""The checks that hold for every runtime: what enters, what leaves, and nothing after closing.

Owns `ProgramPredictor`, which turns a runtime's `Program` into a `Predictor`. Knows no runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import ModelCard
from wsi_seg.errors import CardError, PredictorError
from wsi_seg.infer.device.out_of_memory import answered, run_program
from wsi_seg.infer.program.output_forms import NoneOfThem
from wsi_seg.infer.protocol import DeviceProgram, DeviceTile, Program, RuntimeFacts

FixedInput = tuple[int | None, int | None, int | None]

RANGE_TOLERANCE = 1e-2
"""How far rounding may carry a probability out of [0, 1] (bf16 has 8 bits); it is clipped. Beyond: an error."""


class ProgramPredictor:
    """A `Predictor` over a `Program`."""

    def __init__(self, program: Program, card: ModelCard, n_channels: int, fixed_input: FixedInput) -> None:
        self._program: Program | None = program
        self.card = card
        self.facts: RuntimeFacts = program.facts
        self.n_channels = n_channels
        self.n_own_channels = n_channels - isinstance(program, NoneOfThem)
        """Without the class that `NoneOfThem` puts before those of the program."""
        self.fixed_input = fixed_input

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, C, H, W) float32 in [0, 1] of tiles (N, H, W, 3) uint8; see `Predictor.predict`."""
        program = self._program
        if program is None:
            raise PredictorError(f"model {self.card.name!r} is closed", rule="predict before close")
        check_batch(batch, self.card, self.fixed_input)
        output = _run(program, batch, self.card)
        return shaped(output, (batch.shape[0], self.n_channels, *batch.shape[1:3]), self.card)

    def prediction_bytes(self, side: int) -> int | None:
        """Memory that predicting one tile takes, reckoned from the program; None where it cannot be told so."""
        reckon = getattr(self._program, "prediction_bytes", None)
        return None if reckon is None else reckon((1, side, side, 3))

    @property
    def device_blend(self) -> Any:
        """What blends predictions on the program's device; None where they all come to the host."""
        return getattr(self._program, "device_blend", None)

    def predict_on_device(self, batch: NDArray[np.uint8]) -> Sequence[DeviceTile]:
        """As `predict`, a tile each, left on the device; only where `device_blend` is not None."""
        program = cast("DeviceProgram | None", self._program)
        if program is None:
            raise PredictorError(f"model {self.card.name!r} is closed", rule="predict before close")
        check_batch(batch, self.card, self.fixed_input)
        tiles = answered(program.run_on_device, batch, self.card.name)
        expected = (self.n_channels, *batch.shape[1:3])
        shapes = {tile.shape for tile in tiles}
        if len(tiles) != len(batch) or shapes != {expected}:
            raise PredictorError(
                f"{len(tiles)} tiles of shape {shapes} from model {self.card.name!r}",
                rule=f"expected {len(batch)} of {expected}",
            )
        return tiles

    def close(self) -> None:
        """Release the program; calls under way in other threads finish."""
        program, self._program = self._program, None
        if program is not None:
            program.close()


def first_answer(program: Program, card: ModelCard, fixed_input: FixedInput) -> NDArray[np.floating[Any]]:
    """What a program answers for a made-up tile of the card's size. Raises PredictorError as `Program.run` does."""
    side, count = card.tile_size, fixed_input[0] or 1
    batch = np.full((count, side, side, 3), card.background, np.uint8)
    batch[:, : side // 2, : side // 2] = (128, 64, 160)
    batch[:, side // 2 :, : side // 2] = np.random.default_rng(0).integers(0, 256, (side - side // 2, side // 2, 3))
    check_batch(batch, card, fixed_input)
    return _run(program, batch, card)


def checked_channels(answer: NDArray[np.floating[Any]], card: ModelCard, count: int, *, independent: bool) -> int:
    """Number of output channels of a `first_answer` for `count` tiles. Raises CardError, PredictorError.

    `independent`: the channels are sigmoids, for which there may be one class more.
    """
    side = card.tile_size
    if answer.ndim != 4 or answer.shape[0] != count or answer.shape[2:] != (side, side):
        raise _wrong_shape(answer, (count, side, side, 3), card)
    n_channels = int(answer.shape[1])
    check_channels(card, n_channels, independent=independent)
    checked(answer, (count, n_channels, side, side), card)
    return n_channels


def _run(program: Program, batch: NDArray[np.uint8], card: ModelCard) -> NDArray[np.floating[Any]]:
    """Run, and say what to do where a program that fails may only dislike the sides of its input."""
    try:
        return run_program(program, batch, card.name)
    except PredictorError as error:
        if error.remedy or not any(side % 64 for side in batch.shape[1:3]):
            raise
        stride = 64 if card.output_stride % 64 == 0 else 32
        raise PredictorError(
            f"model {card.name!r} fails on tiles of {batch.shape[2]} x {batch.shape[1]} px",
            rule="many networks only take sides that are a multiple of 32 or 64",
            remedy=f"use such a tile size, and state it: --output-stride {stride} "
            f"({' '.join(error.what.split())[:300]})",
        ) from error


def _wrong_shape(output: NDArray[Any], shape: tuple[int, ...], card: ModelCard) -> PredictorError:
    what = f"model {card.name!r} turns input {shape} into output {output.shape}"
    side = card.tile_size
    lower = output.ndim == 4 and output.shape[2] == output.shape[3] and 0 < output.shape[2] < side
    if lower and side % output.shape[2] == 0:
        return PredictorError(
            f"{what}: at 1/{side // output.shape[2]} of the resolution",
            rule="a segmentation model gives one value per class for each px of its input",
            remedy="export it with the up-sampling that its authors apply to the result inside the program "
            "(in torch: functional.interpolate to the size of the input, before the softmax)",
        )
    return PredictorError(
        what,
        rule="a segmentation model returns (N, C, H, W) of the input's N, H and W",
        remedy=f"check layout {card.layout}, tile size {side} and output stride {card.output_stride} of the card",
    )


def check_channels(card: ModelCard, n_channels: int, *, independent: bool = False) -> None:
    """Refuse a card whose classes do not match the output. Raises CardError."""
    if n_channels == card.n_classes or (n_channels == 1 and card.n_classes == 2):
        return
    if independent and n_channels == card.n_classes - 1:
        return
    names = ", ".join(entry.name for entry in card.classes)
    more = f", or {n_channels + 1} of which the first means none of them" if independent and n_channels > 1 else ""
    raise CardError(
        f"model {card.name!r} has {n_channels} output channels but {card.n_classes} classes ({names})",
        rule="as many classes as output channels, or two classes for a single channel with a threshold",
        remedy=f"give --classes with {max(2, n_channels)} names{more}",
    )


def check_batch(batch: NDArray[np.uint8], card: ModelCard, fixed_input: FixedInput) -> None:
    """Refuse what the program cannot take. Raises PredictorError."""
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != 3 or 0 in batch.shape:
        raise PredictorError(
            f"batch of shape {batch.shape} and type {batch.dtype}", rule="a batch is (N, H, W, 3) uint8, not empty"
        )
    if any(side % card.output_stride for side in batch.shape[1:3]):
        raise PredictorError(
            f"tiles of {batch.shape[1]} x {batch.shape[2]} px for model {card.name!r}",
            rule=f"height and width must be multiples of the output stride {card.output_stride}",
        )
    axes = ("batch size", "tile height", "tile width")
    for name, asked, demanded in zip(axes, batch.shape[:3], fixed_input, strict=True):
        if demanded is not None and asked != demanded:
            raise PredictorError(
                f"{name} {asked} for model {card.name!r}",
                rule=f"this program takes exactly {demanded}",
                remedy=f"use {name} {demanded} or export the model with dynamic axes",
            )


def shaped(output: NDArray[np.floating[Any]], shape: tuple[int, ...], card: ModelCard) -> NDArray[np.float32]:
    """The output as C-contiguous float32 of the expected shape. Raises PredictorError."""
    if output.shape != shape:
        raise PredictorError(f"output of shape {output.shape} from model {card.name!r}", rule=f"expected {shape}")
    return np.ascontiguousarray(output, dtype=np.float32)


def checked(output: NDArray[np.floating[Any]], shape: tuple[int, ...], card: ModelCard) -> NDArray[np.float32]:
    """The output as C-contiguous float32 in [0, 1]; one pass for the minimum, one for the maximum.

    NaN fails both comparisons, so it is found by the same two passes. Raises PredictorError.
    """
    result = shaped(output, shape, card)
    low, high = float(result.min()), float(result.max())
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        finite = np.isfinite(low) and np.isfinite(high)
        raise PredictorError(
            f"model {card.name!r} gave values {low:.4g} … {high:.4g}",
            rule="probabilities lie in [0, 1]" if finite else "probabilities are finite",
            remedy=_activation_remedy(shape[1]) if finite else "fetch it, or export the model, again",
        )
    if low < 0 or high > 1:
        result = np.clip(result, 0, 1, out=result if result.flags.writeable else None)
    return result


def _activation_remedy(n_channels: int) -> str:
    if n_channels == 1:
        return "if these are logits, set the card's activation (--activation sigmoid)"
    return (
        "if these are logits, set the card's activation (--activation softmax for classes that exclude each other, "
        "--activation sigmoid for classes that may overlap)"
    )
