"""`wsi_seg.run`: the run of the command line, from Python."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest

import wsi_seg
from tests.engine.runs import SMALL, answer_nan_where
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.run import run_slide
from wsi_seg.errors import MemoryBudgetError, OutputExistsError, RunMismatchError, RunStopped, UsageError
from wsi_seg.geometry import Box
from wsi_seg.slide import open_slide


def small(**options):
    return {**{"skip" if name == "skip_background" else name: value for name, value in SMALL.items()}, **options}


def test_the_run_of_the_engine_under_the_same_identity(small_slide: Path, tmp_path: Path) -> None:
    result = wsi_seg.run(small_slide, out=tmp_path / "a.seg.zarr", **small())
    report = run_slide(small_slide, RunOptions(**SMALL), out=str(tmp_path / "b.seg.zarr"))
    assert result.summary.run_id == report.summary.run_id
    assert {name: area.mm2 for name, area in result.areas().items()} == {a.name: a.mm2 for a in report.summary.classes}
    assert result.path == tmp_path / "a.seg.zarr"


def test_the_name_of_the_slide_in_the_current_folder(
    small_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert wsi_seg.run(str(small_slide), **small()).path == Path("small.seg.zarr")
    assert (tmp_path / "small.seg.zarr").is_dir()


def test_an_opened_slide(small_slide: Path, tmp_path: Path) -> None:
    with open_slide(small_slide) as slide:
        assert wsi_seg.run(slide, out=tmp_path / "a.seg.zarr", **small()).shape == (1100, 1500)
        assert slide.read_region(Box(0, 0, 4, 4), 0).shape == (4, 4, 3)


def test_a_finished_result_is_refused_and_replaced_when_asked(small_slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.seg.zarr"
    first = wsi_seg.run(small_slide, out=out, **small())
    with pytest.raises(OutputExistsError, match="overwrite=True, or another out"):
        wsi_seg.run(small_slide, out=out, **small())
    assert wsi_seg.run(small_slide, out=out, overwrite=True, **small()).summary.run_id == first.summary.run_id


def test_wrong_options_are_refused_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown option 'overwrit'.*overwrite"):
        wsi_seg.run(tmp_path / "absent.svs", overwrit=True)
    with pytest.raises(UsageError, match=re.escape("write_tiff")):
        wsi_seg.run(tmp_path / "absent.svs", out=tmp_path / "a.ome.tif")


def test_an_interrupt_keeps_what_is_done_and_the_same_call_goes_on(small_slide: Path, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    before = signal.getsignal(signal.SIGINT)

    def interrupt(done: int, total: int) -> None:
        heard.append((done, total))
        if len(heard) == 20:
            os.kill(os.getpid(), signal.SIGINT)

    wishes = small(workers=1)
    with pytest.raises(RunStopped):
        wsi_seg.run(small_slide, out=tmp_path / "a.seg.zarr", progress=interrupt, **wishes)
    assert signal.getsignal(signal.SIGINT) is before
    n_before, total = heard[-1]
    assert n_before < total
    with pytest.raises(RunMismatchError, match="restart=True"):
        wsi_seg.run(small_slide, out=tmp_path / "a.seg.zarr", **{**wishes, "window": "linear", "overlap": 32})
    heard.clear()
    result = wsi_seg.run(small_slide, out=tmp_path / "a.seg.zarr", progress=lambda *n: heard.append(n), **wishes)
    assert heard[0][0] > 0, "the blocks that were done are not done again"
    assert heard[-1] == (total, total)
    whole = wsi_seg.run(small_slide, out=tmp_path / "b.seg.zarr", **wishes)
    np.testing.assert_array_equal(result.labels(0)[:], whole.labels(0)[:])


def test_progress_on_standard_error(small_slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wsi_seg.run(small_slide, out=tmp_path / "a.seg.zarr", progress=True, **small())
    said = capsys.readouterr()
    assert re.search(r"\rwsi-seg: (\d+) of \1 tiles, 100 %\n$", said.err)
    assert said.out == ""
    wsi_seg.run(small_slide, out=tmp_path / "b.seg.zarr", **small())
    assert capsys.readouterr() == ("", "")


def test_failed_tiles_are_told(small_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_slide(small_slide) as slide:
        colour = tuple(int(value) for value in slide.read_region(Box(0, 0, 1, 1), 0)[0, 0])
    answer_nan_where(colour, monkeypatch)
    with pytest.warns(UserWarning, match=r"tiles could not be read or predicted.*summary\.problems"):
        result = wsi_seg.run(small_slide, out=tmp_path / "a.seg.zarr", **small())
    assert result.summary.problems
    assert result.areas().not_analysed_mm2 > 0


class TestOpenMask:
    def test_has_the_labels_of_a_run_where_it_is_looked_at(self, small_slide: Path, tmp_path: Path) -> None:
        result = wsi_seg.run(small_slide, out=tmp_path / "a.seg.zarr", **small())
        with wsi_seg.open_mask(str(small_slide), cache_bytes=1 << 24, **small()) as mask:
            assert mask.shape == result.shape
            np.testing.assert_array_equal(mask[300:420, 500:777], result.labels(0)[300:420, 500:777])
            lazy = mask.to_dask(1)[100:140, 200:260].compute(scheduler="sync")
            np.testing.assert_array_equal(lazy, result.labels(1)[100:140, 200:260])

    def test_wrong_options_are_told_in_python_words(self, small_slide: Path) -> None:
        with pytest.raises(UsageError, match=r"unknown option 'probability'; .*did you mean probabilities"):
            wsi_seg.open_mask(small_slide, probability=True)
        with pytest.raises(MemoryBudgetError, match=r"memory='[\d.]+GB'"):
            wsi_seg.open_mask(small_slide, memory="10M", **small())
