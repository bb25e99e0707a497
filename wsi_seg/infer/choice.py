"""Which runtime and precision `auto` becomes: the fastest one here that gives the same labels, by measurement.

Owns the rule and the memory of earlier choices on this machine. Knows no slide.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import PredictorError
from wsi_seg.infer.device.cuda_driver import gpu_names
from wsi_seg.infer.loading import load_predictor, member_cards, read_card
from wsi_seg.infer.location import model_sha256, variants
from wsi_seg.infer.measuring import Trial, candidates, concrete, try_candidate
from wsi_seg.infer.protocol import ModelSpec
from wsi_seg.infer.runtime.constant import is_constant
from wsi_seg.user_cache import cache_folder

_LOG = logging.getLogger(__name__)

WORTH_CHANGING = 1.1
"""How many times faster than the reference another candidate must be: less is noise."""
_PACKAGES = ("wsi-seg", "openvino", "onnxruntime", "onnxruntime-gpu", "torch", "tensorrt", "tensorrt-rtx")


@dataclass(frozen=True, slots=True)
class Choice:
    """What `auto` became."""

    spec: ModelSpec
    """With a concrete runtime and precision."""
    trials: tuple[Trial, ...] = ()
    """Behind it, the reference first; empty where there was nothing to choose, or the choice was remembered."""
    remembered: bool = False

    def notes(self) -> tuple[str, ...]:
        """What was measured, in one line; nothing where nothing was."""
        if not self.trials:
            return ()
        return (f"measured on tiles of this slide: {'; '.join(_told(trial, self.spec) for trial in self.trials)}",)


def _told(trial: Trial, chosen: ModelSpec) -> str:
    name = f"{trial.spec.runtime} {trial.spec.precision}"
    if not trial.runs:
        return f"{name} {trial.failure}"
    text = f"{name} {trial.mpx_per_s:.1f} Mpx/s"
    if trial.agreement is not None:
        text += f", {100 * trial.agreement.argmax_agreement:.2f} % of labels as the first"
        if not trial.agreement.sufficient:
            text += f", taken only with --precision {trial.spec.precision}"
    return f"{text} (taken)" if trial.spec == chosen else text


def choose_program(spec: ModelSpec, tiles: NDArray[np.uint8]) -> Choice:
    """Measure the candidates of a spec on real `tiles` (n, T, T, 3) uint8 and take the fastest that agrees.

    A candidate agrees when it labels at least `parity.MIN_ARGMAX_AGREEMENT` of the pixels as the reference does: the
    preferred runtime at the precision of the program. The choice is remembered per machine, versions and weights, so
    that the same command gives the same bits tomorrow. Raises as `load_predictor`; PredictorError where none runs.
    """
    others = [] if is_constant(spec.model) else candidates(spec)
    if len(others) <= 1:
        return Choice(_loaded(spec))
    key = _key(spec, tiles.shape[1])
    if (remembered := _recall(key, others)) is not None:
        return Choice(remembered, remembered=True)
    trials = compare_candidates(others, tiles)
    chosen = fastest(trials)
    _remember(key, chosen)
    return Choice(chosen, tuple(trials))


def compare_candidates(specs: Sequence[ModelSpec], tiles: NDArray[np.uint8]) -> list[Trial]:
    """All candidates against the first of them that runs. Raises PredictorError with all reasons where none does."""
    failed: list[Trial] = []
    for number, spec in enumerate(specs, 1):
        trial = try_candidate(spec, tiles, None)
        if trial.runs:
            return [trial, *failed, *_compared(trial.spec, specs[number:], tiles)]
        failed.append(trial)
    raise PredictorError(
        f"no runtime here runs {specs[0].model}",
        rule="; ".join(f"{trial.spec.runtime} on {trial.spec.device}: {trial.problem}" for trial in failed),
        remedy="another --tile or --device, or export the model again",
    )


def _compared(first: ModelSpec, others: Sequence[ModelSpec], tiles: NDArray[np.uint8]) -> list[Trial]:
    """The trials of `others`, with `first` as the reference."""
    reference = load_predictor(first)
    try:
        return [try_candidate(spec, tiles, reference) for spec in others]
    finally:
        reference.close()


def fastest(trials: Sequence[Trial]) -> ModelSpec:
    """The candidate to take; the first trial is the reference.

    It is left only for one that agrees and is `WORTH_CHANGING` times as fast.
    """
    reference = trials[0]
    able = [trial for trial in trials[1:] if trial.runs and trial.agreement is not None and trial.agreement.sufficient]
    best = max(able, key=lambda trial: trial.mpx_per_s, default=reference)
    return best.spec if best.mpx_per_s > WORTH_CHANGING * reference.mpx_per_s else reference.spec


def _loaded(spec: ModelSpec) -> ModelSpec:
    predictor = load_predictor(spec)
    try:
        return concrete(spec, predictor)
    finally:
        predictor.close()


def _key(spec: ModelSpec, side: int) -> str:
    """Hash of everything that speeds and labels depend on: machine, versions, weights, cards, tiles' `side`."""
    programs = [model_sha256(spec), *(model_sha256(spec.replaced(precision=name)) for name in variants(spec))]
    asked = [spec.runtime, spec.precision, spec.device, spec.threads, spec.streams, side, spec.augmentation.text]
    cards = [card.to_json() for card in (read_card(spec), *member_cards(spec))]
    text = json.dumps([programs, cards, asked, _machine(), [(name, _version(name)) for name in _PACKAGES]])
    return sha256(text.encode()).hexdigest()


def _machine() -> list[str]:
    return [platform.node(), platform.machine(), *_cpu(), *gpu_names()]


def _cpu() -> list[str]:
    """Model and instruction sets of the processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.processor()]
    return [next((line for line in lines if line.startswith(name)), "") for name in ("model name", "flags")]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _recall(key: str, among: Sequence[ModelSpec]) -> ModelSpec | None:
    try:
        stored = json.loads((cache_folder() / "choices" / key).read_text())
        wanted = (stored["runtime"], stored["precision"], stored["device"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    possible = [
        spec for spec in among
        if (spec.runtime, spec.device) == (wanted[0], wanted[2]) and spec.precision in (wanted[1], "auto")
    ]  # fmt: skip
    return possible[0].replaced(precision=wanted[1]) if possible else None


def _remember(key: str, spec: ModelSpec) -> None:
    """Best effort: a cache that cannot be written costs a second at the next run."""
    folder = cache_folder() / "choices"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=folder, delete=False) as file:
            json.dump({"runtime": spec.runtime, "precision": spec.precision, "device": spec.device}, file)
        Path(file.name).replace(folder / key)
    except (OSError, RuntimeError) as error:
        _LOG.debug("the choice of a runtime is not remembered: %s", error)
