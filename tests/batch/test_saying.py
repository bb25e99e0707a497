"""What a batch says while it runs and when it ends, in pipes and of any file name."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.batch.conftest import Batches, Program
from wsi_seg.batch import BatchSlide, Tally
from wsi_seg.cli import batch_progress
from wsi_seg.cli.verify import verify
from wsi_seg.engine.cluster.events import Connected, Phase, SlideBegan, SlideChanged, TaskEnded, WorkersChanged
from wsi_seg.engine.cluster.messages import TaskReceipt
from wsi_seg.engine.events import RunStarted
from wsi_seg.engine.job import TaskKey
from wsi_seg.errors import ModelLoadError, SlideOpenError, UsageError

STRANGE = os.fsdecode(b"n\xff\x1b[31m")


def test_without_a_terminal_a_line_comes_now_and_then_though_nothing_happens(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_progress, "_PLAIN_EVERY_S", 0.05)
    with batch_progress.batch_table(quiet=False, notes=["[b]x"]) as watcher:
        time.sleep(0.12)
        watcher(Tally([("a", 1), (STRANGE, 1)]), None)
        time.sleep(0.12)
    said = capsys.readouterr()
    assert "note: [b]x" in said.err
    assert "starting workers" in said.err
    assert "2 slides: 0 done, 0 failed, 0 running, 2 waiting" in said.err
    assert "\x1b" not in said.err
    assert said.out == ""


def test_quiet_says_nothing_until_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally([(STRANGE, 1)])
    failed = SlideChanged(0, Phase.FAILED, error=SlideOpenError(f"{STRANGE} is empty"))
    for quiet in (True, False):
        with batch_progress.batch_table(quiet=quiet, notes=["x"]) as watcher:
            watcher(tally, failed)
        assert (capsys.readouterr().err == "") == quiet


@pytest.mark.parametrize("tiff", [False, True])
def test_names_that_are_not_utf_8_are_made_and_told(
    batch: Batches, tiny_slide: Path, tmp_path: Path, wsi_seg: Program, tiff: bool
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / f"{STRANGE}.tif").write_bytes(tiny_slide.read_bytes())
    (folder / f"{STRANGE}2.tif").write_bytes(b"II*\0")
    slides = [BatchSlide(path, path.stem) for path in sorted(folder.iterdir())]
    report = batch(slides, tmp_path / "out", tiff=tiff)
    assert [record.state for record in report.records] == ["done", "failed"], report.describe()
    assert batch(slides, tmp_path / "out", tiff=tiff).records[0] == report.records[0]
    told = wsi_seg("status", tmp_path / "out")
    assert "n\\udcff\\x1b[31m2: SlideOpenError" in told.out
    assert json.loads(wsi_seg("status", tmp_path / "out", "--json").out)["slides"][0]["name"] == STRANGE
    page = (tmp_path / "out" / "report.html").read_bytes()
    assert b"n%FF%1B%5B31m" in page
    assert page.decode()


def test_time_left_goes_by_the_bytes_of_what_is_done() -> None:
    now = [0.0]
    tally = Tally([("a", 100), ("b", 300)], clock=lambda: now[0])
    assert tally.seconds_left is None
    tally.hear(WorkersChanged({"w": 2}))
    tally.hear(SlideChanged(0, Phase.WORKING))
    now[0] = 10.0
    tally.hear(SlideChanged(0, Phase.DONE))
    assert tally.seconds_left == pytest.approx(30.0)
    assert tally.count() == {Phase.DONE: 1, Phase.WAITING: 1}
    tally.hear(WorkersChanged({}))
    assert not tally.workers


def test_what_was_done_before_says_nothing_of_the_speed() -> None:
    now = [0.0]
    tally = Tally([("a", 100)], clock=lambda: now[0])
    tally.hear(SlideBegan(0, RunStarted(10, 8, 100, 80, 30_000_000, 1.0)))
    now[0] = 10.0
    assert tally.seconds_left is None
    receipt = TaskReceipt(n_predicted=4, n_failed=1, pixels=3_000_000, seconds=5.0, worker="w")
    tally.hear(WorkersChanged({"w": 2}))
    tally.hear(TaskEnded(0, TaskKey(0, 0, 0), receipt))
    assert tally.seconds_left == pytest.approx(10.0)  # a tenth in 10 s, a tenth is left
    assert tally.mpx_per_s == pytest.approx(0.3)
    assert tally.slides[0].n_failed_tiles == 1
    now[0] = 20.0
    assert tally.workers["w"].utilisation(20.0) == pytest.approx(0.25)


def test_the_address_of_dasks_pages_is_told_where_there_are_any() -> None:
    tally = Tally([("a", 1)])
    tally.hear(Connected(""))
    assert tally.notes == []
    tally.hear(Connected("http://127.0.0.1:1/status"))
    assert tally.notes == ["Dask's pages: http://127.0.0.1:1/status"]


def test_a_model_of_a_row_that_is_none_is_told_with_its_slide(batch: Batches, tiny_slide: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=rf"{tiny_slide.name}: model 'nuclie'"):
        batch([BatchSlide(tiny_slide, "a", model="nuclie")], tmp_path / "out")


def test_verify_sends_the_folder_of_a_batch_to_its_results(batch: Batches, tiny_slide: Path, tmp_path: Path) -> None:
    batch([BatchSlide(tiny_slide, "a")], tmp_path / "out")
    with pytest.raises(UsageError, match=r"is the folder of a batch.*NAME\.seg\.zarr.*wsi-seg status"):
        verify(str(tmp_path / "out"))
    verify(str(tmp_path / "out" / "a.seg.zarr"))
