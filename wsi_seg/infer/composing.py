"""One predictor from the programs of a spec: single ones, their ensemble, and augmentation around either.

Owns that order, and that all members of an ensemble run on one runtime. How a program is loaded is told by a function.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from wsi_seg.card import ModelCard
from wsi_seg.errors import ModelLoadError
from wsi_seg.infer.attempts import first_that_works
from wsi_seg.infer.combined.ensemble import EnsemblePredictor, joint_card
from wsi_seg.infer.combined.tta import AugmentedPredictor, augmented_card
from wsi_seg.infer.location import locate
from wsi_seg.infer.protocol import ModelSpec, Predictor
from wsi_seg.infer.runtime.constant import is_constant

Load = Callable[[ModelSpec], Predictor]


def composed(spec: ModelSpec, load: Load) -> Predictor:
    """The predictor of a spec; `load` makes that of one program. Raises as `load`, CardError, ModelLoadError."""
    if spec.augmentation.is_none:
        return _averaged(spec, load)
    # One per scale: runtimes compile for a size, and keep what they compiled for few sizes only.
    predictors = _all_or_none([spec] * len(spec.augmentation.scales), lambda one: _averaged(one, load))
    try:
        return AugmentedPredictor(predictors, spec.augmentation)
    except BaseException:
        _close(predictors)
        raise


def composed_card(spec: ModelSpec, read: Callable[[ModelSpec], ModelCard]) -> ModelCard:
    """The card of the predictor of a spec; `read` gives that of one program. Raises as `read`, CardError."""
    cards = [read(one) for one in spec.single]
    return augmented_card(joint_card(cards) if spec.members else cards[0], spec.augmentation)


def _averaged(spec: ModelSpec, load: Load) -> Predictor:
    if not spec.members:
        return load(spec.single[0])
    members = first_that_works(
        (
            f"ensemble on {runtime}",
            partial(_all_or_none, [one.replaced(runtime=_runtime(one, runtime)) for one in spec.single], load),
        )
        for runtime in _common_runtimes(spec)
    )
    try:
        return EnsemblePredictor(members, spec.shares)
    except BaseException:
        _close(members)
        raise


def _common_runtimes(spec: ModelSpec) -> list[str]:
    """Runtimes that run every member, in the first's order of preference. Raises ModelLoadError where there is none."""
    able = {one.model: locate(one).runtimes for one in spec.single if not is_constant(one.model)}
    first = next(iter(able.values()), (spec.runtime,))
    if common := [runtime for runtime in first if all(runtime in others for others in able.values())]:
        return common
    raise ModelLoadError(
        "no runtime runs all members: " + ", ".join(f"{name} on {' or '.join(can)}" for name, can in able.items()),
        rule="the models of an ensemble run on one runtime",
        remedy="export them to ONNX",
    )


def _runtime(spec: ModelSpec, runtime: str) -> str:
    return "auto" if is_constant(spec.model) else runtime


def _all_or_none(specs: list[ModelSpec], load: Load) -> list[Predictor]:
    """A predictor for each spec; where one fails, those before it are closed."""
    loaded: list[Predictor] = []
    try:
        for spec in specs:
            loaded.append(load(spec))
    except BaseException:
        _close(loaded)
        raise
    return loaded


def _close(predictors: list[Predictor]) -> None:
    for predictor in predictors:
        predictor.close()
