"""The exported program against the original on real tiles, on every runtime of this machine that takes it.

Owns the gate. A runtime that is not here is told as not judged, never taken as passed in silence; what none of those
that take the format runs has not passed. A runtime that is here, loads the program and cannot run it is told as failed.
That alone does not stop the export: it answers an error instead of other labels, so nobody gets a wrong mask from it,
and on the runtimes that passed the program is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import ModelLoadError, PredictorError, PredictorOutOfMemory
from wsi_seg.export.request import ExportRequest
from wsi_seg.infer import Agreement, ModelSpec, Predictor, agreement, load_predictor

RUNTIMES = {
    "onnx": ("openvino", "onnxruntime"), "openvino": ("openvino",), "torch": ("torch",), "tensorrt": ("tensorrt",),
    "coreml": (),
}  # fmt: skip
"""Format -> runtimes that take it."""
NO_GPU = "no NVIDIA GPU answers here"
SOURCE_RUNTIMES = ("onnxruntime",)
"""What judges the ONNX program an engine is built from: like TensorRT, it computes Q/DQ nodes as written."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One runtime's answers beside the original's."""

    runtime: str
    agreement: Agreement | None
    """None: not judged here, or failed."""
    problem: str = ""
    """Why there are no figures."""
    failed: bool = False
    """True where the runtime is here, loads the program, and cannot run it."""

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able form."""
        figures = None if self.agreement is None else self.agreement.to_mapping()
        return {"runtime": self.runtime, "agreement": figures, "failed": self.failed, "problem": self.problem}


class Judge:
    """The original's predictor and the tiles that decide."""

    def __init__(self, reference: Predictor, tiles: NDArray[np.uint8], request: ExportRequest) -> None:
        self.reference, self.tiles, self._request = reference, tiles, request

    def verdicts(self, program: Path, fmt: str) -> list[Verdict]:
        """What each runtime of a format makes of a program."""
        if not RUNTIMES[fmt]:
            return [Verdict(fmt, None, "no runtime of wsi-seg takes this format")]
        return [self._verdict(program, runtime, self.tiles) for runtime in RUNTIMES[fmt]]

    def of_onnx(self, program: Path, tiles: NDArray[np.uint8] | None = None) -> list[Verdict]:
        """What is made of an ONNX program on its way to the format asked for."""
        runtimes = SOURCE_RUNTIMES if self._request.to == "tensorrt" else RUNTIMES["onnx"]
        return [self._verdict(program, runtime, self.tiles if tiles is None else tiles) for runtime in runtimes]

    def _verdict(self, program: Path, runtime: str, tiles: NDArray[np.uint8]) -> Verdict:
        try:
            predictor = load_predictor(ModelSpec(str(program), runtime=runtime, trust_engine=True))
        except ModelLoadError as error:
            return Verdict(runtime, None, NO_GPU if "NVIDIA GPU" in str(error) else str(error))
        except PredictorError as error:
            if error.__cause__ is None:  # not the runtime's own: it ran, and its answers are no probabilities
                raise
            return Verdict(runtime, None, str(error), failed=True)
        try:
            return Verdict(runtime, agreement(self.reference, predictor, tiles))
        except PredictorError as error:
            return Verdict(runtime, None, str(error), failed=not isinstance(error, PredictorOutOfMemory))
        finally:
            predictor.close()

    def failures(self, verdicts: list[Verdict]) -> list[str]:
        """Which limits are broken, in words; empty when the program passes."""
        found = []
        if RUNTIMES[self._request.to] and all(verdict.agreement is None for verdict in verdicts):
            found += [f"{verdict.runtime} does not run it ({verdict.problem})" for verdict in verdicts]
        for verdict in verdicts:
            result = verdict.agreement
            if result is None:
                continue
            if result.argmax_agreement < self._request.agreement_needed:
                found.append(
                    f"on {verdict.runtime} {result.argmax_agreement:.5f} of the pixels keep their class, "
                    f"{self._request.agreement_needed:g} must"
                )
            if not result.worst_dice_loss <= self._request.max_dice_loss:
                found.append(
                    f"on {verdict.runtime} the worst class loses {result.worst_dice_loss:.4f} of Dice, "
                    f"{self._request.max_dice_loss:g} may be lost"
                )
        return found


def warnings(verdicts: list[Verdict]) -> tuple[str, ...]:
    """What a user must know of a program that passed: on which runtimes it fails."""
    failed = [verdict.runtime for verdict in verdicts if verdict.failed]
    able = [verdict.runtime for verdict in verdicts if verdict.agreement is not None]
    if not failed or not able:
        return ()
    return (f"{' and '.join(failed)} cannot run this program; it was judged on {' and '.join(able)} alone",)
