"""Every runtime and precision of a model on this machine, measured alike: speed, memory, agreement.

Owns the processes: each candidate has one of its own, so that its memory is its own. What is timed is `infer`'s.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import ModelCard
from wsi_seg.engine.warm_up import peak_bytes
from wsi_seg.errors import CardError, ModelError
from wsi_seg.export.tissue_tiles import draw_tiles
from wsi_seg.infer import (
    CardOverrides,
    ModelSpec,
    Trial,
    agreement,
    builtin_models,
    candidates,
    load_predictor,
    read_card,
    try_candidate,
)
from wsi_seg.infer.location import locate

_SIBLINGS = (".xml", ".pt2")
"""Formats of exports that lie beside an ONNX program and are measured with it."""


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to measure."""

    models: tuple[str, ...]
    """Programs of one network; the first in fp32 is the reference."""
    slides: tuple[Path, ...]
    """Whose tissue is predicted."""
    slide_mpp: float | None = None
    weights: Path | None = None
    """safetensors file for `module:factory`."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """Card fields given by the user; they win over the first model's own, and complete others that carry no card."""
    n_tiles: int = 4
    streams: int = 1
    """Predictions at once, one thread each."""


def bench(request: BenchRequest) -> Iterator[Trial]:
    """One trial after another; the first that runs is the reference. Raises ModelError where no card can be read."""
    specs = [_spec(model, request, first=not number) for number, model in enumerate(request.models)]
    card = read_card(specs[0])
    tiles = draw_tiles(request.slides, card, request.n_tiles, 0, request.slide_mpp).judging
    with _torch_program(request.models[0], card) as made:
        todo = [candidate for spec in specs for candidate in candidates(spec, thorough=True)]
        todo += [ModelSpec(str(path), streams=request.streams) for path in (*_beside(request.models), *made)]
        reference: ModelSpec | None = None
        for spec in todo:
            trial = _apart(spec, tiles, reference)
            reference = spec if reference is None and trial.runs else reference
            yield replace(trial, spec=spec.replaced(runtime=trial.spec.runtime, precision=trial.spec.precision))


def _spec(model: str, request: BenchRequest, *, first: bool) -> ModelSpec:
    """The spec of one model. Raises ModelError where it is the first and has no complete card."""
    plain = ModelSpec(model, streams=request.streams)
    if request.weights is not None and locate(plain).kind == "factory":
        plain = plain.replaced(weights=str(request.weights))
    stated = plain.replaced(card=CardOverrides(**request.card))
    if first:
        return stated
    try:
        read_card(plain)
    except CardError:
        return stated
    return plain


def _beside(models: Sequence[str]) -> list[Path]:
    """Exports in other formats beside the first model."""
    location = locate(ModelSpec(models[0]))
    if location.kind != "onnx" or models[0] in builtin_models():
        return []
    stems = (location.path.stem, *(f"{location.path.stem}.{precision}" for precision in ("fp16", "bf16", "int8")))
    found = [location.path.with_name(stem + suffix) for suffix in _SIBLINGS for stem in stems]
    return [path for path in found if path.is_file() and str(path) not in models]


@contextmanager
def _torch_program(model: str, card: ModelCard) -> Iterator[list[Path]]:
    """The network of a training's folder as a torch program, where torch is there and none was exported."""
    folder = Path(model)
    if not (folder / "best.safetensors").is_file() or (folder / "model.pt2").exists():
        yield []
        return
    with TemporaryDirectory(prefix="wsi-seg-bench-") as made:
        path = Path(made) / "model.pt2"
        try:
            from wsi_seg.export.original import trained_module
            from wsi_seg.export.torch_module import write_torch

            write_torch(trained_module(folder), card.replaced(weights_sha256=""), "fp32", path)
        except ImportError:
            yield []
            return
        yield [path]


def _apart(spec: ModelSpec, tiles: NDArray[np.uint8], reference: ModelSpec | None) -> Trial:
    """A trial in a process of its own; one that dies takes nothing with it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_measured, spec, tiles, reference).result()
        except BrokenProcessPool:
            return Trial(spec, problem="its process died")


def _measured(spec: ModelSpec, tiles: NDArray[np.uint8], reference: ModelSpec | None) -> Trial:
    with _warnings() as said:
        trial = _timed(spec, tiles)
        if reference is not None and trial.runs:
            trial = _compared(trial, spec, tiles, reference)
    return replace(trial, notes=tuple(said))


def _timed(spec: ModelSpec, tiles: NDArray[np.uint8]) -> Trial:
    """Speed and memory, before the reference takes any."""
    before = peak_bytes()
    trial = try_candidate(spec, tiles, None)
    return replace(trial, peak_bytes=max(0, peak_bytes() - before))


def _compared(trial: Trial, spec: ModelSpec, tiles: NDArray[np.uint8], reference: ModelSpec) -> Trial:
    first, second = load_predictor(reference), load_predictor(spec)
    try:
        return replace(trial, agreement=agreement(first, second, tiles))
    except ModelError as error:
        return replace(trial, problem=str(error.what))
    finally:
        first.close()
        second.close()


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What our own code warns of meanwhile, instead of on the terminal; each once."""

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (text := record.getMessage()) not in said:
                said.append(text)

    said: list[str] = []
    log, kept = logging.getLogger("wsi_seg"), Kept(logging.WARNING)
    before, log.propagate = log.propagate, False
    log.addHandler(kept)
    try:
        yield said
    finally:
        log.removeHandler(kept)
        log.propagate = before
