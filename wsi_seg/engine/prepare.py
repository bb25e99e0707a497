"""From a slide and options to a plan: opens, loads, measures, decides; writes nothing.

Owns the order in which facts are gathered before the work: resolution, scale, tissue, what the model is really like.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_seg.engine.cores import usable_cores
from wsi_seg.engine.decoding import check_decode, decoding_notes
from wsi_seg.engine.models import Models
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.planning import Planning, post_wishes
from wsi_seg.engine.same_slide import whole_sha256
from wsi_seg.engine.stages import StageClock, added
from wsi_seg.engine.stopping import check_stop
from wsi_seg.engine.sums import BLENDS, chosen_blend
from wsi_seg.engine.tolerance import readable_thumbnail
from wsi_seg.engine.versions import deciding_versions
from wsi_seg.errors import (
    MemoryBudgetError,
    MissingMppError,
    PredictorError,
    PredictorOutOfMemory,
    RegionReadError,
    UsageError,
)
from wsi_seg.geometry import Box
from wsi_seg.slide.canvas import read_canvas
from wsi_seg.slide.remote import outside_bytes

if TYPE_CHECKING:
    from wsi_seg.infer import Member, ModelSpec, Predictor
    from wsi_seg.plan import Plan, Roi, Scale
    from wsi_seg.slide import Slide

THUMBNAIL_SIDE = 2048
"""Longest side of the thumbnail that tissue is looked for in, px."""
N_PROBE_TILES = 4
"""Real tiles on which the model is measured before the run."""
TIMED_SIDE = 512
"""Side of the tiles on which runtimes are measured, px."""
MEASURED_FROM_S = 30.0
"""Seconds of prediction from which runtimes are measured against each other, which takes some seconds."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Everything that is known of a run before it begins, nothing of it on disk yet. Pickles."""

    slide: Slide
    model: ModelSpec
    plan: Plan
    thumbnail: NDArray[np.uint8]
    """uint8 RGB (h, w, 3) of the whole of level 0."""
    blend: str
    """`host` or `device`."""
    slide_sha256: str
    """Of all bytes of the slide; empty where that was not asked for."""
    preparing: Mapping[str, float] = field(kw_only=True, default_factory=dict)
    """Seconds by step of the preparation."""


@dataclass(frozen=True, slots=True)
class Prepared(Planned):
    """What is planned, and the loaded model that it was measured with."""

    predictor: Predictor

    @property
    def planned(self) -> Planned:
        """The part that can travel."""
        return Planned(**{each.name: getattr(self, each.name) for each in fields(Planned)})


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model, and where others like it come from."""

    model: ModelSpec
    predictor: Predictor
    models: Models


class _Steps:
    """The steps of a preparation: how long each takes, and an end after any of them where that is asked for."""

    def __init__(self, stop: Event | None) -> None:
        self.clock, self._stop = StageClock(), stop

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Raises RunStopped at its end."""
        with self.clock.stage(name):
            yield
        check_stop(self._stop)


def prepare(
    source: Path | Slide, options: RunOptions, stop: Event | None = None, models: Models | None = None
) -> Prepared:
    """Open the slide, load and measure the model, and plan the run; looks at `stop` between the steps.

    `models` is where the model comes from; without it, it is loaded anew and the caller's to close.

    Raises the leaves of SlideError, ModelError and PlanError; UsageError for options that make no sense; RunStopped.
    """
    from wsi_seg.plan import read_roi

    steps = _Steps(stop)
    _check(options)
    with steps.step("open"):
        slide = _opened(source, options)
    roi = None if options.roi is None else read_roi(options.roi, slide.bounds)
    if slide.mpp is None:
        raise MissingMppError(
            f"{slide.path or 'the slide'} does not state its resolution",
            rule="a model only works at the resolution it was trained at",
            remedy="give the um per px of level 0 with --mpp",
        )
    workers = options.workers or usable_cores()
    with steps.step("load"):
        loaded = _load(options, workers, models or Models())
    options = _as_the_program_demands(options, loaded.predictor)
    return _measured(slide, roi, loaded, options, workers, steps)


def _check(options: RunOptions) -> None:
    """Refuse what no slide and no model could make right. Raises UsageError, GridError."""
    from wsi_seg.plan.blocks import check_block

    for name, value in (("workers", options.workers), ("batch-size", options.batch), ("tile", options.tile)):
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}", rule="at least 1")
    if options.blend not in BLENDS:
        raise UsageError(f"--blend {options.blend}", rule=f"one of {', '.join(BLENDS)}")
    check_decode(options.decode)
    if options.block is not None:
        check_block(options.block)


def _opened(source: Path | Slide, options: RunOptions) -> Slide:
    from wsi_seg.slide import open_slide

    if isinstance(source, str | Path):
        return open_slide(Path(source), mpp=options.slide_mpp, reader=options.reader, decode=options.decode)
    return source


def _load(options: RunOptions, workers: int, models: Models) -> _Loaded:
    from wsi_seg.infer import Augmentation, CardOverrides, ModelSpec, parse_scales

    names = (options.model, *options.more_models)
    spec = ModelSpec(
        model=options.model,
        members=_members(names, options.model_weights),
        augmentation=Augmentation(options.tta, parse_scales(options.tta_scales)),
        weights=None if options.weights is None else str(options.weights),
        runtime=options.runtime,
        precision=options.precision,
        device=options.device,
        trust_engine=options.trust_engine,
        cuda_graphs=options.cuda_graphs,
        # One thread per call and one call per block worker: cores are never shared by two layers of parallelism,
        # and a prediction does not depend on how many workers there are.
        threads=1,
        streams=workers,
        card=CardOverrides(**options.card),
    )
    return _Loaded(spec, models.load(spec), models)


def _as_the_program_demands(options: RunOptions, predictor: Predictor) -> RunOptions:
    """The options with the tile size of a program that takes no other. Raises UsageError where they contradict it."""
    count, height, width = predictor.fixed_input
    side = height or width
    for name, asked, demanded in (("--tile", options.tile, side), ("--batch-size", options.batch, count)):
        if demanded is not None and asked not in (None, demanded):
            raise UsageError(
                f"{name} {asked}",
                rule=f"the program of model {predictor.card.name!r} takes exactly {demanded}",
                remedy=f"leave {name} out, or export the model with dynamic axes",
            )
    return options if side is None else replace(options, tile=side)


def _members(names: tuple[str, ...], weights: tuple[float, ...]) -> tuple[Member, ...]:
    """The models of an ensemble with their weights; none for a single model."""
    from wsi_seg.infer import Member

    if weights and len(weights) != len(names):
        raise UsageError(
            f"--model-weights has {len(weights)} numbers for {len(names)} models",
            rule="one per --model, in their order",
        )
    if len(names) == 1:
        return ()
    return tuple(Member(name, weight) for name, weight in zip(names, weights or (1.0,) * len(names), strict=True))


def _measured(
    slide: Slide,
    roi: Roi | None,
    loaded: _Loaded,
    options: RunOptions,
    workers: int,
    steps: _Steps,
) -> Prepared:
    """Look at the slide and at what the model does on it, and make the plan."""
    from wsi_seg.infer import measure_halo, member_cards, model_notes, model_sha256
    from wsi_seg.plan import PlanRequest, ProgramFacts, SlideFacts, choose_scale, choose_tiling, plan_postprocessing

    assert slide.mpp is not None
    predictor = loaded.predictor
    name = "slide in memory" if slide.path is None else slide.path.name
    facts = SlideFacts(name, slide.vendor, slide.levels, slide.mpp, slide.bounds, slide.fingerprint())
    scale = choose_scale(slide.levels, slide.mpp, slide.bounds, predictor.card.mpp)
    # Both refuse before anything is measured.
    plan_postprocessing(post_wishes(options), predictor.card, scale.canvas_mpp)
    choose_tiling(
        predictor.card, predictor.card.halo, tile=options.tile, overlap=options.overlap, window=options.window
    )
    with steps.step("thumbnail"):
        thumbnail, notes = readable_thumbnail(slide, THUMBNAIL_SIDE)
    _refuse_hopeless(predictor, options, workers)
    with steps.step("thumbnail"):
        probes = probe_tiles(slide, scale, thumbnail, options.tile or predictor.card.tile_size)
    height, width = scale.canvas_size
    # Somebody waits for the first view of a lazy mask: what is preferred is taken, whatever the slide's size.
    n_px = height * width if options.lazy_bytes is None else 0
    with steps.step("choose"):
        loaded, chosen = _chosen(loaded, probes, n_px)
    model, predictor = loaded.model, loaded.predictor
    blend = chosen_blend(options.blend, predictor)
    with steps.step("halo"):
        halo = predictor.card.halo if predictor.card.halo is not None else measure_halo(predictor, probes)
    with steps.step("load"):
        of_model = model_notes(model, predictor, halo)  # reads the file again: before memory is measured
    program = ProgramFacts(
        sha256=model_sha256(model),
        runtime=predictor.facts.runtime,
        device=predictor.facts.device,
        precision=predictor.facts.precision,
        n_channels=predictor.n_channels,
        halo=halo,
        augmentation=model.augmentation.text,
        members=member_cards(model),
        libraries=deciding_versions(predictor.facts.runtime),
    )
    request = PlanRequest(facts, predictor.card, program, thumbnail=thumbnail, roi=roi)
    planning = Planning(request, predictor, probes, outside_bytes(slide.reader, workers), steps.step)
    plan, of_batch = planning.plan(options, workers)
    told = (*decoding_notes(slide, scale, options.decode), *notes, *chosen, *of_batch, *plan.notes, *of_model)
    with steps.step("open"):
        full_hash = whole_sha256(slide) if options.full_hash else ""
    plan, preparing = replace(plan, notes=told), added([steps.clock.seconds])
    return Prepared(slide, model, plan, thumbnail, blend, full_hash, predictor, preparing=preparing)


def _chosen(loaded: _Loaded, probes: NDArray[np.uint8], n_px: int) -> tuple[_Loaded, tuple[str, ...]]:
    """The model with its runtime and precision made concrete, and what was measured.

    Candidates are measured where the slide's `n_px` take long enough to earn it; else the preferred runtime is taken.
    """
    from wsi_seg.infer import choose_program, concrete, rough_throughput

    model, predictor = loaded.model, loaded.predictor
    kept = concrete(model, predictor)
    as_it_is = replace(loaded, model=kept), ()
    if "auto" not in (model.runtime, model.precision):
        return as_it_is
    failure: PredictorError | None = None
    try:
        if n_px / 1e6 < MEASURED_FROM_S * rough_throughput(predictor, probes, model.streams):
            return as_it_is
    except PredictorOutOfMemory:
        return as_it_is  # smaller batches are `fitting_batch`'s to find
    except PredictorError as error:  # it runs a made-up tile, and not this one: another runtime may
        failure = error
    choice = choose_program(model, for_timing(predictor, probes))
    if choice.spec != kept:
        loaded.models.discard(predictor)
        return replace(loaded, model=choice.spec, predictor=loaded.models.load(choice.spec)), choice.notes()
    if failure is not None:
        raise failure
    return replace(loaded, model=choice.spec), choice.notes()


def for_timing(predictor: Predictor, probes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The tiles (n, T, T, 3), cut to `TIMED_SIDE` px at most where the program takes any side.

    Which runtime is faster does not depend on that, and larger ones take their time and memory in every runtime.
    """
    if any(predictor.fixed_input):
        return probes
    stride = predictor.card.output_stride
    side = min(probes.shape[1], max(stride, TIMED_SIDE // stride * stride))
    return np.ascontiguousarray(probes[:, :side, :side])


def _refuse_hopeless(predictor: Predictor, options: RunOptions, workers: int) -> None:
    """Refuse, before anything of that size is made, what the plan would refuse after it was tried.

    A lower bound: every worker holds the pixels and the predictions of a batch. Raises MemoryBudgetError.
    """
    from wsi_seg.plan import default_budget, format_bytes

    tile, batch = options.tile or predictor.card.tile_size, options.batch or predictor.fixed_input[0] or 1
    least = workers * batch * tile**2 * (3 + 4 * predictor.n_channels)
    budget = options.memory_bytes or default_budget()
    if least > budget:
        raise MemoryBudgetError(
            f"{workers} workers with batches of {batch} tiles of {tile} px need {format_bytes(least)} at the least",
            rule=f"the budget is {format_bytes(budget)}",
            remedy="a smaller --tile, --batch-size or --workers, or a larger --memory",
        )


def probe_tiles(slide: Slide, scale: Scale, thumbnail: NDArray[np.uint8], tile: int) -> NDArray[np.uint8]:
    """Some real tiles, uint8 (n, tile, tile, 3) with n >= 1: where the thumbnail is darkest, at the canvas' scale.

    Tiles that cannot be read are left out; where none can, the background stands in.
    """
    found = []
    l0_size = slide.levels[0].size
    for place in _dark_places(thumbnail, N_PROBE_TILES):
        y, x = scale.canvas_points(np.array([place]) * l0_size)[0]
        box = Box.at(round(y) - tile // 2, round(x) - tile // 2, tile, tile)
        try:
            found.append(read_canvas(slide, scale, box, slide.background))
        except RegionReadError:
            continue
    if not found:
        found.append(np.full((tile, tile, 3), slide.background, np.uint8))
    return np.stack(found)


def _dark_places(thumbnail: NDArray[np.uint8], n: int) -> list[tuple[float, float]]:
    """Centres of the `n` darkest cells of a coarse grid over the thumbnail, as shares (y, x) of its size."""
    cells = 16
    height, width = thumbnail.shape[:2]
    rows, columns = np.linspace(0, height, cells + 1).astype(int), np.linspace(0, width, cells + 1).astype(int)
    darkness = {
        ((rows[i] + rows[i + 1]) / 2 / height, (columns[j] + columns[j + 1]) / 2 / width): float(
            thumbnail[rows[i] : rows[i + 1], columns[j] : columns[j + 1]].mean()
        )
        for i in range(cells)
        for j in range(cells)
        if rows[i] < rows[i + 1] and columns[j] < columns[j + 1]
    }
    return sorted(darkness, key=darkness.__getitem__)[:n]
