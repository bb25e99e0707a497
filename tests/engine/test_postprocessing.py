"""Post-processed labels are those of the whole canvas at once, whatever the blocks, the workers and the history."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from wsi_kernels import FieldShape, fill_polygons, mean_field

from tests.engine.runs import Runs, answer_nan_where, assert_same_labels, labels_of, shard_bytes, worker_processes
from tests.engine.test_differential import IGNORE, HoledSlide, canvas_of, naive_sums, random_options, random_slide
from tests.engine.test_odd_slides import card_of, small_model
from tests.kernels import naive
from wsi_seg.engine.events import Event, TaskDone
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.postprocessing import GrownBlock, _RowPixels
from wsi_seg.engine.prepare import Prepared, prepare
from wsi_seg.engine.run import run_slide
from wsi_seg.engine.stages import StageClock
from wsi_seg.errors import RunMismatchError, RunStopped
from wsi_seg.geometry import Box
from wsi_seg.output.label_store import open_result
from wsi_seg.output.status import TileStatus
from wsi_seg.plan import Crf, FillHoles, RemoveObjects
from wsi_seg.sample import write_synthetic
from wsi_seg.slide import ArraySlide

N_RUNS = 12
MARK = (254, 1, 254)
ALL_STEPS: dict[str, Any] = {
    "min_object": {"": 6.0, "class 2": 15.0},
    "fill_holes": {"": 9.0},
    "crf": {"radius_um": 1.0, "iterations": 3},
}
"""At 0.5 um/px: objects below 24 and 60 px within 62, holes below 36 px within 24, a CRF that looks 6 px far."""


@pytest.fixture(autouse=True)
def simple(monkeypatch: pytest.MonkeyPatch) -> None:
    """No overview; small pieces; NaN where a tile holds MARK."""
    answer_nan_where(MARK, monkeypatch)
    monkeypatch.setattr("wsi_seg.plan.postprocessing.SMALLEST_PIECE", 70)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic slide of 520 x 600 px, 0.5 um/px: 3 x 3 blocks of 256 px."""
    path = tmp_path_factory.mktemp("slide") / "s.tif"
    write_synthetic(path, (520, 600), mpp=0.5, seed=3, tissue_fraction=0.9)
    return path


def random_steps(rng: np.random.Generator, folder: Path, size: tuple[int, int]) -> dict[str, Any]:
    """Some of the steps, and sometimes a region."""
    steps: dict[str, Any] = {}
    if rng.random() < 0.7:
        steps["min_object"] = {"": float(rng.uniform(2, 20)), "class 1": float(rng.choice([0, 3, 12]))}
    if rng.random() < 0.7:
        steps["fill_holes"] = {"": float(rng.uniform(2, 20))}
    if rng.random() < 0.6 or not steps:
        steps["crf"] = {
            "radius_um": float(rng.choice([0.5, 1.2])),
            "iterations": int(rng.integers(1, 4)),
            "colour": float(rng.choice([15, 60])),
            "weight": float(rng.choice([1, 6])),
        }
    if rng.random() < 0.5 and min(size) > 40:
        corners = (rng.random((5, 2)) * size[::-1]).tolist()
        centre = np.mean(corners, 0)
        corners.sort(key=lambda corner: np.arctan2(*(np.array(corner) - centre)))
        steps["roi"] = folder / "roi.json"
        steps["roi"].write_text(json.dumps({"type": "Polygon", "coordinates": [[*corners, corners[0]]]}))
    return steps


def expected(slide: HoledSlide, prepared: Prepared) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Labels without and with post-processing, from sums and images of the whole canvas."""
    plan = prepared.plan
    sums, sound, _ = naive_sums(slide, prepared)
    if plan.canvas_roi is not None:
        sound &= fill_polygons(plan.canvas_roi.rings, (0, 0, *sound.shape))
    before = np.where(sound, sums.argmax(0), IGNORE).astype(np.uint8)
    labels = before
    for step in plan.post.steps:
        match step:
            case Crf(radius, iterations, colour, weight):
                priors = (sums >> 16).astype(np.float32) * np.float32(1 / 65535)
                pixels = canvas_of(slide, prepared, plan.grid.extent)
                marginals = mean_field(priors, pixels, sound, FieldShape(radius, iterations, colour, weight))
                labels = np.where(sound, marginals.argmax(0), IGNORE).astype(np.uint8)
            case FillHoles(limits, windows):
                labels = naive.fill_holes(labels, limits, windows, (True,) * 4)
            case RemoveObjects(limits, windows):
                labels = naive.remove_small(labels, limits, windows)
    return before, labels


changed: list[int] = []


@pytest.mark.parametrize("seed", range(N_RUNS))
def test_as_the_whole_canvas_at_once(
    seed: int, tmp_path: Path, unet: str, null_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random slides, tiles, windows, blocks, damage, regions and steps; stopped and resumed on the way."""
    rng = np.random.default_rng(seed)
    slide = random_slide(rng)
    steps = random_steps(rng, tmp_path, slide.levels[0].size)
    if "roi" in steps:
        slide.bounds = Box(0, 0, *slide.levels[0].size)
    options = RunOptions(**{**random_options(rng, [unet, null_model]), **steps, "batch": 1, "probabilities": False})
    prepared = prepare(slide, options)
    level = prepared.plan.scale.level
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
        y, x = (int(rng.integers(0, side)) for side in slide.levels[level].size)
        slide.holes += (Box.at(y, x, 9, 20).intersect(Box(0, 0, *slide.levels[level].size)),)
    before, after = expected(slide, prepared)

    monkeypatch.setattr(prepared.predictor, "close", lambda: None)
    monkeypatch.setattr("wsi_seg.engine.run.prepare", lambda *_: prepared)
    stop, out = threading.Event(), tmp_path / "x.seg.zarr"
    with suppress(RunStopped):  # a small one is done before it hears of it
        run_slide(slide, options, out=out, stop=stop, listener=lambda e: isinstance(e, TaskDone) and stop.set())
    if not out.exists():
        run_slide(slide, options, out=out)

    labels = labels_of(open_result(out))[0]
    np.testing.assert_array_equal(labels, after)
    np.testing.assert_array_equal(labels == IGNORE, before == IGNORE)
    changed.append(int((before != after).sum()))


def test_the_runs_above_changed_something() -> None:
    if len(changed) < N_RUNS // 2:
        pytest.skip("they were not run here")
    assert sum(n > 20 for n in changed) >= len(changed) // 2, "else they prove nothing"


class TestSameBytes:
    @pytest.mark.parametrize("window", ["cosine", "crop"])
    def test_blocks_and_workers(self, run: Runs, slide: Path, unet: str, window: str) -> None:
        options: dict[str, Any] = {**ALL_STEPS, "model": unet, "overlap": 48, "window": window}
        reference = run(slide, **options, workers=1)
        assert shard_bytes(run(slide, **options, workers=3)) == shard_bytes(reference)
        for block in (512, 1024):
            assert_same_labels(run(slide, **options, block=block), reference)
        plain = run(slide, model=unet, overlap=48, window=window)
        assert (labels_of(plain)[0] != labels_of(reference)[0]).mean() > 0.005

    def test_worker_processes(self, run: Runs, slide: Path, unet: str) -> None:
        options: dict[str, Any] = {**ALL_STEPS, "model": unet, "overlap": 48, "window": "cosine"}
        reference = shard_bytes(run(slide, **options))
        with worker_processes(2) as scheduler:
            assert shard_bytes(run(slide, **options, scheduler=scheduler)) == reference

    def test_a_margin_wider_than_a_block(self, run: Runs, slide: Path, unet: str) -> None:
        """A tile is then needed by blocks that do not touch it, nor each other."""
        options: dict[str, Any] = {"model": unet, "overlap": 48, "min_object": {"": 300.0}, "fill_holes": {"": 200.0}}
        narrow = run.report(slide, **options)
        assert any("much is done twice" in note for note in narrow.notes)
        assert_same_labels(open_result(narrow.out), run(slide, **options, block=2048))

    @pytest.mark.parametrize("workers", [1, 3])
    def test_no_tile_is_predicted_twice(self, run: Runs, slide: Path, unet: str, workers: int) -> None:
        options: dict[str, Any] = {**ALL_STEPS, "model": unet, "overlap": 48, "window": "cosine", "workers": workers}
        prepared = prepare(slide, RunOptions(**{"tile": 128, "block": 256, "skip_background": False, **options}))
        prepared.predictor.close()
        assert prepared.plan.post.margin == 6 + 24 + 2 * 31
        report = run.report(slide, **options)
        assert report.summary.performance is not None
        assert report.summary.performance.n_predicted == prepared.plan.selection.n_predicted

    def test_each_tile_has_its_status_from_one_block(self, tmp_path: Path, slide: Path, unet: str) -> None:
        counted: list[int] = []

        def listen(event: Event) -> None:
            if isinstance(event, TaskDone):
                counted.append(len(event.receipt.statuses))

        options = RunOptions(model=unet, tile=128, block=256, skip_background=False, **ALL_STEPS)
        run_slide(slide, options, out=tmp_path / "x.seg.zarr", listener=listen)
        assert sum(counted) == open_result(tmp_path / "x.seg.zarr").read_tiles().size

    def test_without_the_edge_cache(self, run: Runs, slide: Path, unet: str, monkeypatch: pytest.MonkeyPatch) -> None:
        options: dict[str, Any] = {**ALL_STEPS, "model": unet, "overlap": 48, "window": "cosine"}
        reference = shard_bytes(run(slide, **options))
        monkeypatch.setattr("wsi_seg.engine.planning.batch_is_independent", lambda *_: False)
        report = run.report(slide, **options)
        assert shard_bytes(open_result(report.out)) == reference
        assert any("may differ at borders of blocks" in note for note in report.notes)

    def test_a_margin_too_small_is_seen(
        self, run: Runs, slide: Path, unet: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options: dict[str, Any] = {"min_object": ALL_STEPS["min_object"], "model": unet, "overlap": 48}
        reference = run(slide, **options)
        monkeypatch.setattr(RemoveObjects, "reach", property(lambda step: max(step.windows) // 4))
        with pytest.raises(AssertionError):
            assert_same_labels(run(slide, **options), reference)


class TestStoredProbabilities:
    def test_are_those_of_the_model(self, run: Runs, slide: Path, unet: str) -> None:
        options: dict[str, Any] = {"model": unet, "overlap": 48, "window": "cosine", "probabilities": True}
        plain, post = run(slide, **options), run(slide, **options, **ALL_STEPS)
        np.testing.assert_array_equal(np.asarray(post.probabilities(0)[:]), np.asarray(plain.probabilities(0)[:]))
        assert (labels_of(plain)[0] != labels_of(post)[0]).any()


class TestOneChannel:
    @pytest.mark.parametrize("threshold", [0.5, 0.7])
    def test_the_threshold_is_where_the_odds_are_even(self, run: Runs, tmp_path: Path, threshold: float) -> None:
        """Almost without weight, the CRF gives the labels of the threshold; with weight it smooths them."""
        card = card_of(2, activation="sigmoid", threshold=threshold, mean=(0.3,) * 3)
        model = small_model(tmp_path / "one.onnx", card, np.array([[4.0, -3.0, 1.0]], np.float32))
        pixels = np.random.default_rng(0).integers(60, 220, (300, 330, 3), dtype=np.uint8)
        slide = ArraySlide(pixels, mpp=0.5)
        plain = labels_of(run(slide, model=model, overlap=32))[0]
        assert 0.05 < plain.mean() < 0.95
        weightless = labels_of(run(slide, model=model, overlap=32, crf={"weight": 1e-6}))[0]
        assert (weightless != plain).mean() < 1e-4
        crf = {"weight": 4.0, "colour": 200.0}
        smooth = run(slide, model=model, overlap=32, crf=crf)
        edges = [(np.diff(labels.astype(int), axis=1) != 0).mean() for labels in (plain, labels_of(smooth)[0])]
        assert edges[1] < 0.7 * edges[0]
        assert_same_labels(run(slide, model=model, overlap=32, crf=crf, block=512), smooth)


class TestNoneOfThem:
    @pytest.mark.parametrize(("threshold", "wrapped"), [(0.5, {}), (0.7, {"tta": "flips"})], ids=["plain", "turned"])
    def test_a_second_class_that_is_nowhere_changes_nothing(
        self, run: Runs, tmp_path: Path, threshold: float, wrapped: dict[str, Any]
    ) -> None:
        """Of the same probabilities the CRF makes the same labels, told by one channel or by two after none of them."""
        weight, told = [4.0, -3.0, -1.0], {"activation": "sigmoid", "threshold": threshold, "mean": (0.3,) * 3}
        one = small_model(tmp_path / "one.onnx", card_of(2, **told), np.array([weight], np.float32))
        two = small_model(tmp_path / "two.onnx", card_of(3, **told), np.array([weight, [-80.0] * 3], np.float32))
        rng = np.random.default_rng(0)
        coarse = rng.integers(80, 200, (9, 10, 3)).repeat(24, 0).repeat(24, 1)
        slide = ArraySlide((coarse + rng.integers(0, 40, coarse.shape)).astype(np.uint8), mpp=0.5)
        for crf in ({"weight": 1e-6}, {"weight": 4.0, "colour": 60.0}):
            alone, beside = (
                labels_of(run(slide, model=model, overlap=32, crf=crf, **wrapped))[0] for model in (one, two)
            )
            assert 0.1 < alone.mean() < 0.9
            assert (alone != beside).mean() < 1e-3


@pytest.mark.parametrize("careful", [False, True])
def test_beside_damage_colours_come_from_every_tile_with_labels(unet: str, careful: bool) -> None:
    pixels = np.random.default_rng(3).integers(0, 255, (300, 340, 3), dtype=np.uint8)
    slide = HoledSlide(pixels, mpp=0.5)
    prepared = prepare(slide, RunOptions(model=unet, tile=128, overlap=48, skip_background=False, workers=1))
    prepared.predictor.close()
    plan, grid = prepared.plan, prepared.plan.grid
    slide.holes = (Box(130, 130, 140, 135),)
    statuses = {
        (row, column): (TileStatus.DONE, TileStatus.REDONE_FP32)[(row + column) % 2]
        if slide.holes[0].intersect(grid.tile_box(row, column)).is_empty
        else TileStatus.UNREADABLE
        for row in range(grid.shape[0])
        for column in range(grid.shape[1])
    }
    assert set(statuses.values()) == {TileStatus.DONE, TileStatus.REDONE_FP32, TileStatus.UNREADABLE}
    session: Any = SimpleNamespace(slide=slide, job=SimpleNamespace(plan=plan), is_careful=lambda _box: careful)
    surface: Any = None
    seen = _RowPixels(GrownBlock(session, surface, statuses, StageClock()), grid.extent).of(grid.extent)
    for key, status in statuses.items():
        part = grid.cell(*key).slices()
        assert (seen[part] == (pixels[part] if status != TileStatus.UNREADABLE else plan.card.background)).all()


class TestIdentity:
    def test_every_option_makes_another_run(self, slide: Path, unet: str) -> None:
        base = RunOptions(model=unet, tile=128, skip_background=False, workers=1)
        prepared = prepare(slide, base)
        prepared.predictor.close()
        assert "postprocessing" not in prepared.plan.identity_fields()
        ids = {prepared.plan.run_id}
        choices: list[dict[str, Any]] = [
            {"min_object": {"": 6.0}},
            {"min_object": {"": 7.0}},
            {"min_object": {"class 1": 6.0}},
            {"fill_holes": {"": 6.0}},
            {"crf": {}},
            {"crf": {"radius_um": 1.0}},
            {"crf": {"iterations": 2}},
            {"crf": {"colour": 9.0}},
            {"crf": {"weight": 1.0}},
        ]
        for choice in choices:
            prepared = prepare(slide, replace(base, **choice))
            prepared.predictor.close()
            ids.add(prepared.plan.run_id)
        assert len(ids) == len(choices) + 1

    def test_a_half_done_run_is_not_resumed_with_other_steps(self, slide: Path, tmp_path: Path, unet: str) -> None:
        stop, out = threading.Event(), tmp_path / "x.seg.zarr"
        options = RunOptions(model=unet, tile=128, block=256, workers=1, skip_background=False, **ALL_STEPS)

        def listen(event: Event) -> None:
            if isinstance(event, TaskDone):
                stop.set()

        with pytest.raises(RunStopped):
            run_slide(slide, options, out=out, stop=stop, listener=listen)
        with pytest.raises(RunMismatchError, match="postprocessing"):
            run_slide(slide, replace(options, fill_holes={}), out=out)


def test_what_was_done_is_told(run: Runs, slide: Path, unet: str) -> None:
    report = run.report(slide, model=unet, **ALL_STEPS)
    steps = json.loads((report.out / "summary.json").read_bytes())["postprocessing"]
    assert [step["step"] for step in steps] == ["crf", "fill_holes", "min_object"]
    assert steps[2]["limits"] == [0, 24, 60]
    assert "post-processed: crf, fill_holes, min_object" in report.describe()
    provenance = json.loads((report.out / "provenance.json").read_bytes())
    assert provenance["identity"]["postprocessing"] == steps
    plain = run.report(slide, model=unet)
    assert "post-processed" not in plain.describe()
