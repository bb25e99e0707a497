"""A lazy mask is what a run would write, px for px, and predicts no more than what is looked at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices
from numpy.typing import NDArray

from tests.engine.runs import SMALL, Runs, answer_nan_where, labels_of
from wsi_seg.engine import block_source
from wsi_seg.engine.block import PredictedBlock, predict_block
from wsi_seg.engine.lazy_mask import LazyMask, open_mask
from wsi_seg.engine.options import RunOptions, Scheduler
from wsi_seg.engine.prepare import prepare
from wsi_seg.engine.session import Session
from wsi_seg.errors import MemoryBudgetError, SlideOpenError, UsageError
from wsi_seg.geometry import Box
from wsi_seg.infer.predictor import ProgramPredictor
from wsi_seg.slide import ArraySlide, Slide

Block = tuple[int, int]
REGION = '{"type": "Polygon", "coordinates": [[[120, 90], [1300, 60], [900, 1000], [333, 801], [120, 90]]]}'
STEPS: dict[str, Any] = {"min_object": {"": 6.0}, "fill_holes": {"": 4.0}, "crf": {"radius_um": 1.0, "iterations": 2}}
KINDS: dict[str, dict[str, Any]] = {
    "exact": {},
    "blended": {"overlap": 48, "window": "cosine"},
    "skipping": {"overlap": 48, "window": "linear", "skip_background": True},
    "a region": {"roi": REGION, "skip_background": True},
    "post-processed": {**STEPS, "overlap": 48, "window": "cosine", "skip_background": True},
    "resampled": {"slide_mpp": 0.31},
    "one worker": {"workers": 1, "block": 512},
}
"""Options that make runs differ."""


def lazy(slide: Path | Slide, cache_bytes: int = 256 << 20, **options: Any) -> LazyMask:
    return open_mask(slide, RunOptions(**{**SMALL, **options}), cache_bytes=cache_bytes)


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[Block]:
    """The blocks predicted so far."""
    blocks: list[Block] = []

    def remembered(session: Session, row: int, column: int) -> PredictedBlock:
        blocks.append((row, column))
        return predict_block(session, row, column)

    monkeypatch.setattr(block_source, "predict_block", remembered)
    return blocks


@pytest.fixture(scope="module")
def both(
    small_slide: Path, unet: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LazyMask, list[NDArray[Any]]]]:
    """A mask that cannot keep all, and every level of the run."""
    options = {"model": unet, **KINDS["skipping"]}
    expected = labels_of(Runs(tmp_path_factory.mktemp("both"))(small_slide, **options))
    with lazy(small_slide, 400_000, **options) as mask:
        yield mask, expected


class TestTheLabelsOfARun:
    """Windows of every level, in any order, from a cache that cannot hold them all."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_whole_levels(self, run: Runs, tmp_path: Path, small_slide: Path, unet: str, kind: str) -> None:
        options = {"model": unet, **KINDS[kind]}
        if "roi" in options:
            options["roi"] = tmp_path / "region.json"
            options["roi"].write_text(REGION)
        result = run(small_slide, **options)
        expected = labels_of(result)
        assert len(np.unique(expected[0])) > (2 if options.get("skip_background") else 1)
        with lazy(small_slide, 200_000, **options) as mask:
            assert mask.spec == result.spec
            for level in reversed(range(mask.n_levels)):
                np.testing.assert_array_equal(np.asarray(mask.level(level)), expected[level], err_msg=f"level {level}")
            assert mask.used_bytes <= 200_000
            assert mask.problems == ()

    @given(st.data())
    @settings(max_examples=60)
    def test_any_index_of_any_level(self, both: tuple[LazyMask, list[NDArray[Any]]], data: st.DataObject) -> None:
        mask, expected = both
        level = data.draw(st.integers(0, mask.n_levels - 1))
        key = data.draw(basic_indices(expected[level].shape, max_dims=2))
        np.testing.assert_array_equal(mask.level(level)[key], expected[level][key])

    def test_however_its_blocks_are_cut(
        self, run: Runs, small_slide: Path, unet: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The run takes larger tiles where that pays, and its own blocks; a lazy mask the smallest tiles."""
        monkeypatch.setattr("wsi_seg.engine.planning.ENLARGED_FROM_TILES", 1)
        monkeypatch.setattr("wsi_seg.plan.plan.WORTH_ENLARGING", (0, 0))
        monkeypatch.setattr("wsi_seg.plan.memory_limit", lambda: 16 * 10**9)
        options = {"model": unet, "tile": None, "block": None}
        result = run(small_slide, **options)
        tile = prepare(small_slide, RunOptions(**{**SMALL, **options})).plan.grid.tile
        with lazy(small_slide, **options) as mask:
            assert mask.plan.grid.tile < tile
            assert (mask.block, result.spec.layout.block) == (1024, 512)
            np.testing.assert_array_equal(mask[:], labels_of(result)[0])

    def test_where_a_prediction_depends_on_its_batch_blocks_are_those_of_the_run(
        self, run: Runs, small_slide: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("wsi_seg.engine.planning.batch_is_independent", lambda *_: False)
        result = run(small_slide, block=None)
        with lazy(small_slide, block=None) as mask:
            assert mask.block == result.spec.layout.block == 512
            assert mask.plan.run_id == result.run_id
            np.testing.assert_array_equal(mask[:], labels_of(result)[0])

    def test_blocks_of_less_than_a_px(self, small_slide: Path, unet: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """As on canvases of 131,072 px and more in blocks of 256."""
        monkeypatch.setattr("wsi_seg.geometry.TOP_LEVEL_SIDE", 1)
        with lazy(small_slide, model=unet) as mask, lazy(small_slide, model=unet, block=2048) as other:
            assert mask.n_levels == 12
            assert mask.level(11).shape == (1, 1)
            for level in range(7, 12):
                labels = other.level(level)[:]
                np.testing.assert_array_equal(mask.level(level)[:], labels)
                np.testing.assert_array_equal(mask.level(level)[-1:, ::3], labels[-1:, ::3])
                box = Box(0, 0, *labels.shape)
                np.testing.assert_array_equal(mask.read_available(level, box)[0], labels)

    def test_runtimes_are_not_measured_while_somebody_waits(
        self, small_slide: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("wsi_seg.infer.rough_throughput", lambda *_, **__: 1e-9)
        monkeypatch.setattr("wsi_seg.infer.choose_program", lambda *_: pytest.fail("it takes a quarter of a minute"))
        with lazy(small_slide, runtime="auto", precision="auto") as mask:
            assert mask.plan.program.runtime == "openvino"

    def test_a_real_slide(self, run: Runs, shared: Path) -> None:
        slide = shared / "slides/cmu-1-small-region/cmu-1-small-region.svs"
        options = {"model": "nuclei", "tile": None, "block": None, "skip_background": True}
        expected = labels_of(run(slide, **options))
        with lazy(slide, **options) as mask:
            np.testing.assert_array_equal(mask[900:1400, 700:1500], expected[0][900:1400, 700:1500])
            np.testing.assert_array_equal(mask.level(3)[:], expected[3])

    def test_tiles_that_fail(self, run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
        pixels = np.random.default_rng(2).integers(0, 200, (700, 700, 3), dtype=np.uint8)
        pixels[300, 258:261] = 255
        answer_nan_where((255, 255, 255), monkeypatch)
        options: dict[str, Any] = {"model": "identity", "overlap": 48, "window": "linear"}
        expected = labels_of(run(ArraySlide(pixels, mpp=0.5), **options))[0]
        assert (expected[300, 258:261] == 255).all()
        with lazy(ArraySlide(pixels, mpp=0.5), **options) as mask:
            assert mask[600, 600] != 255
            clean = mask.problems
            np.testing.assert_array_equal(mask[:], expected)
            assert len(mask.problems) > len(clean)
            assert all("is not a probability" in words for words in mask.problems)
            told = mask.problems
            mask._cache.clear()
            mask[:]
            assert mask.problems == told, "each is told once"


class TestOnlyWhatIsLookedAt:
    """Blocks under a window, once, and none where nothing is analysed."""

    def test_blocks_under_the_window(self, small_slide: Path, predicted: list[Block]) -> None:
        with lazy(small_slide) as mask:
            assert mask.shape == (1100, 1500)
            mask[300:310, 700:800:3]
            assert sorted(predicted) == [(1, 2), (1, 3)]
            mask[256:600, 512:768]
            assert sorted(predicted) == [(1, 2), (1, 3), (2, 2)]
            mask.level(2)[64:65, 128]
            mask[5:5], mask[:, 3:3]
            assert len(predicted) == 3

    def test_every_512th_row_is_not_every_row(self, small_slide: Path, predicted: list[Block]) -> None:
        with lazy(small_slide) as mask:
            mask[::512, -1]
        assert sorted(predicted) == [(0, 5), (2, 5), (4, 5)]

    def test_glass_is_not_predicted(self, predicted: list[Block]) -> None:
        pixels = np.full((600, 700, 3), 245, np.uint8)
        pixels[300:590, 20:240] = (190, 110, 170)
        with lazy(ArraySlide(pixels, mpp=0.5), skip_background=True) as mask:
            right = Box(0, 512, 600, 700)
            labels, complete = mask.read_available(0, right)
            assert complete
            assert (labels == 255).all()
            assert (mask[:, 512:] == 255).all()
            assert predicted == []
            assert mask.missing(0, Box(0, 0, 600, 700)) == [(1, 0), (0, 0), (2, 0)], (
                "what is analysed grows by a margin"
            )
            assert mask[400, 100] != 255
            assert predicted == [(1, 0)]

    def test_threads_that_look_at_the_same(self, small_slide: Path, predicted: list[Block]) -> None:
        with lazy(small_slide) as mask, ThreadPoolExecutor(4) as pool:
            barrier = threading.Barrier(4)

            def look(_: int) -> NDArray[Any]:
                barrier.wait(60)
                labels: NDArray[Any] = mask[10:20, 10:20]
                return labels

            first, *others = pool.map(look, range(4))
            assert all((first == other).all() for other in others)
        assert predicted == [(0, 0)]

    def test_dask_threads(self, small_slide: Path, predicted: list[Block], run: Runs) -> None:
        expected = labels_of(run(small_slide))
        with lazy(small_slide) as mask:
            arrays = [mask.to_dask(level) for level in range(mask.n_levels)]
            assert predicted == []
            assert arrays[0].chunks == ((256,) * 4 + (76,), (256,) * 5 + (220,))
            for array, labels in zip(arrays, expected, strict=True):
                np.testing.assert_array_equal(array.compute(scheduler="threads", num_workers=4), labels)
        assert len(predicted) == len(set(predicted)) == 30

    def test_nothing_is_written(self, small_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        before = sorted(small_slide.parent.iterdir())
        with lazy(small_slide) as mask:
            mask.level(2)[:]
        assert list(tmp_path.iterdir()) == []
        assert sorted(small_slide.parent.iterdir()) == before


class TestWhatIsThere:
    """Without predicting: what is here already, and what is missing."""

    def test_a_view_fills_in(self, small_slide: Path, predicted: list[Block]) -> None:
        with lazy(small_slide) as mask:
            box = Box(200, 0, 300, 300)
            labels, complete = mask.read_available(0, box)
            assert (labels == 255).all()
            assert not complete
            assert mask.cached(box) is None
            assert mask.missing(0, box) == [(0, 0), (1, 0), (0, 1), (1, 1)]
            mask.predict((0, 1))
            labels, complete = mask.read_available(0, box)
            assert not complete
            assert (labels[:56, 256:] != 255).all()
            assert (labels[56:] == 255).all()
            assert (labels[:, :256] == 255).all()
            for block in mask.missing(0, box):
                mask.predict(block)
            known = mask.cached(box)
            assert known is not None
            n_predicted = len(predicted)
            np.testing.assert_array_equal(known, mask[200:300, 0:300])
            np.testing.assert_array_equal(mask.read_available(2, Box(0, 0, 128, 128))[0], mask.level(2)[:128, :128])
            assert len(predicted) == n_predicted == 4

    def test_low_levels_stay_when_blocks_go(self, small_slide: Path, predicted: list[Block]) -> None:
        with lazy(small_slide, cache_bytes=600_000) as mask:
            whole = mask[:]
            assert mask.cached(Box(0, 0, *mask.shape)) is None
            n_predicted = len(predicted)
            coarse, complete = mask.read_available(2, Box(0, 0, *mask.level(2).shape))
            assert complete
            np.testing.assert_array_equal(coarse, mask.level(2)[:])
            assert len(predicted) == n_predicted
            np.testing.assert_array_equal(mask[:], whole)
            assert mask.used_bytes <= 600_000

    def test_the_centre_first(self, small_slide: Path) -> None:
        with lazy(small_slide) as mask:
            blocks = mask.blocks(1, Box(0, 0, 384, 384))
            assert blocks[0] == (1, 1)
            assert len(blocks) == 9
            assert set(blocks[5:]) == {(0, 0), (0, 2), (2, 0), (2, 2)}
            assert mask.blocks(0, Box(5, 5, 5, 9)) == []
            assert mask.block_box((4, 5)) == Box(1024, 1280, 1100, 1500)

    @pytest.mark.parametrize("box", [Box(0, 0, 1101, 5), Box(-1, 0, 4, 4)])
    def test_boxes_must_lie_inside(self, small_slide: Path, box: Box) -> None:
        with lazy(small_slide) as mask:
            for ask in (mask.read_available, mask.read_labels, mask.blocks, mask.missing):
                with pytest.raises(ValueError, match="leaves level 0"):
                    ask(0, box)
                with pytest.raises(ValueError, match="level 3; the pyramid has levels 0 to 2"):
                    ask(3, Box(0, 0, 1, 1))
            with pytest.raises(ValueError, match="there are 5 rows and 6 columns"):
                mask.predict((5, 0))
            with pytest.raises(ValueError, match="level -1"):
                mask.level(-1)


class TestTheEnd:
    """Closing ends what is under way and frees the model; nothing works afterwards."""

    @pytest.fixture
    def closed(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What was closed."""
        names: list[str] = []
        close = ProgramPredictor.close

        def remembered(self: ProgramPredictor) -> None:
            names.append("predictor")
            close(self)

        monkeypatch.setattr(ProgramPredictor, "close", remembered)
        return names

    def test_closed(self, small_slide: Path, closed: list[str]) -> None:
        with lazy(small_slide) as mask:
            mask[0, 0]
            assert closed == []
        mask.close()
        assert closed == ["predictor"]
        asks: list[Callable[[], Any]] = [
            lambda: mask[0, 0],
            lambda: mask[:],
            lambda: mask.level(1)[0],
            lambda: mask.predict((1, 1)),
            lambda: np.asarray(mask),
        ]
        for ask in asks:
            with pytest.raises(UsageError, match="the lazy mask is closed"):
                ask()
        assert mask.used_bytes == 0

    def test_a_slide_that_was_given_stays_open(self, small_slide: Path) -> None:
        from wsi_seg.slide import open_slide

        slide = open_slide(small_slide)
        with lazy(slide) as mask:
            mask[0, 0]
        assert slide.read_region(Box(0, 0, 2, 2), 0).shape == (2, 2, 3)
        slide.close()

    @pytest.mark.parametrize("workers", [1, 2])
    def test_while_others_wait_for_their_blocks(
        self, small_slide: Path, closed: list[str], monkeypatch: pytest.MonkeyPatch, workers: int
    ) -> None:
        predict, begun, go_on = ProgramPredictor.predict, threading.Event(), threading.Event()
        mask = lazy(small_slide, workers=workers)

        def slowly(self: ProgramPredictor, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            begun.set()
            go_on.wait(60)
            assert closed == [], "it is still used"
            return predict(self, batch)

        monkeypatch.setattr(ProgramPredictor, "predict", slowly)
        wide: list[Any] = [(slice(None), slice(x, x + 300)) for x in range(300, 1500, 300)]
        with ThreadPoolExecutor(7) as pool:
            looks = [pool.submit(mask.__getitem__, (0, 0))]  # in its own thread: the others' wait in those of the mask
            begun.wait(60)
            looks += [pool.submit(mask.__getitem__, key) for key in wide]
            ended = pool.submit(mask.close)
            with pytest.raises(TimeoutError):
                ended.result(0.5)
            assert closed == []
            go_on.set()
            ended.result(60)
            for look in looks:
                with pytest.raises(UsageError, match="the lazy mask is closed"):
                    look.result(60)
        assert closed == ["predictor"]


class TestWhatIsSaid:
    """Refusals before the work, the promise of memory, and what it is called."""

    def test_the_promise_holds_what_is_kept(self, small_slide: Path) -> None:
        with lazy(small_slide, 77_000_000) as mask, lazy(small_slide, 1000) as other:
            terms = {term.name: term.n_bytes for term in mask.plan.memory.terms}
            assert terms["labels that are kept"] == 77_000_000
            assert mask.plan.memory.block == other.plan.memory.block == 256

    def test_more_than_there_is(self, small_slide: Path) -> None:
        with pytest.raises(MemoryBudgetError, match=r"largest part: labels that are kept.* a smaller cache_bytes"):
            lazy(small_slide, 1 << 40)

    def test_what_makes_no_sense(self, small_slide: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="a lazy mask on a scheduler"):
            lazy(small_slide, scheduler=Scheduler("tcp://127.0.0.1:1"))
        with pytest.raises(UsageError, match="cache_bytes -1"):
            lazy(small_slide, -1)
        with pytest.raises(SlideOpenError):
            lazy(tmp_path / "none.svs")

    def test_options_of_stored_results_count_for_nothing(self, small_slide: Path) -> None:
        with lazy(small_slide, probabilities=True, full_hash=True, restart=True) as mask, lazy(small_slide) as other:
            assert not mask.spec.probabilities
            assert mask.plan.run_id == other.plan.run_id

    def test_its_words(self, small_slide: Path) -> None:
        with lazy(small_slide) as mask:
            assert repr(mask) == (
                "<LazyMask of small.tif by he-stain: 1100 x 1500 px (height x width) at 0.5 um/px, "
                f"{len(mask.spec.classes)} classes, 3 levels, blocks of 256 px>"
            )
            assert repr(mask.level(1)).startswith("<level 1, 550 x 750 px, of <LazyMask of small.tif")
            assert [level.shape for level in mask.levels()] == [(1100, 1500), (550, 750), (275, 375)]
            assert (mask.ndim, mask.dtype, mask.size, mask.chunks) == (2, np.uint8, 1_650_000, (256, 256))
            assert mask.notes == mask.plan.notes
