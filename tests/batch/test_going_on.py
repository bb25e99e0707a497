"""The same command goes on; a result is kept only for what was asked of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.batch.conftest import Batches
from wsi_seg.batch import BatchSlide, batch_status
from wsi_seg.batch.folder import BatchFolder
from wsi_seg.errors import BatchError, ClusterError, ModelLoadError, WriteError


def _square(path: Path, side: float) -> Path:
    ring = [[0, 0], [side, 0], [side, side], [0, side], [0, 0]]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    return path


def test_a_second_call_does_nothing_and_says_the_same(batch: Batches, tiny_slide: Path, tmp_path: Path) -> None:
    slides = [BatchSlide(tiny_slide, "a")]
    first, heard = batch(slides, tmp_path / "out"), []
    again = batch(slides, tmp_path / "out", watcher=lambda *event: heard.append(event))
    assert (first.n_new, again.n_new, heard) == (1, 0, [])
    assert again.records == first.records
    assert first.exit_code == 0


@pytest.mark.parametrize("what", ["mpp", "roi", "the region's file", "model", "the model's file"])
def test_a_row_that_says_something_else_now_is_refused_until_it_says_the_same(
    batch: Batches, tiny_slide: Path, null_model: str, tmp_path: Path, what: str
) -> None:
    roi = _square(tmp_path / "roi.json", 200)
    model = tmp_path / "own.onnx"
    model.write_bytes(Path(null_model).read_bytes())
    before: dict[str, Any] = {"roi": roi, "model": str(model)}
    now = {**before, **{"mpp": {"mpp": 0.25}, "roi": {"roi": None}, "model": {"model": "he-stain"}}.get(what, {})}
    options = {"model": "he-stain", "overlap": 32}
    first = batch([BatchSlide(tiny_slide, "a", **before)], tmp_path / "out", **options)
    assert first.exit_code == 0, first.describe()
    if what == "the region's file":
        kept, other = roi, roi.read_bytes().replace(b"200", b"100")
    else:
        kept, other = model, model.read_bytes() + b"\x9a\x06\x01x"  # a field that ONNX readers skip
    content = kept.read_bytes()
    if what.endswith("file"):
        kept.write_bytes(other)
    for _ in range(2):  # what it refused once it does not take the next time
        refused = batch([BatchSlide(tiny_slide, "a", **now)], tmp_path / "out", **options)
        assert refused.exit_code == 1
        [record] = refused.records
        assert record.error == "BatchError"
        field = {"mpp": "slide_mpp", "the region's file": "roi", "the model's file": "programs"}.get(what, what)
        assert f"{field}: " in record.what
        assert "--overwrite" in record.remedy
    kept.write_bytes(content)
    back = batch([BatchSlide(tiny_slide, "a", **before)], tmp_path / "out", **options)
    assert back.exit_code == 0
    assert back.records[0].run_id == first.records[0].run_id


def test_overwriting_makes_the_changed_row_again(batch: Batches, tiny_slide: Path, tmp_path: Path) -> None:
    first = batch([BatchSlide(tiny_slide, "a")], tmp_path / "out")
    other = [BatchSlide(tiny_slide, "a", mpp=0.25)]
    made = batch(other, tmp_path / "out", overwrite=True)
    assert (made.exit_code, made.n_new) == (0, 1)
    assert made.records[0].run_id != first.records[0].run_id
    assert batch(other, tmp_path / "out").n_new == 0


def test_overwriting_that_was_stopped_leaves_no_old_result_for_a_new_one(
    batch: Batches, tiny_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is claimed for the new options, and then nothing is made."""
    slides = [BatchSlide(tiny_slide, "a")]
    batch(slides, tmp_path / "out", overlap=32)
    with monkeypatch.context() as patch:
        patch.setattr("wsi_seg.batch.batch._Batch.work_on", _lost)
        with pytest.raises(ClusterError):
            batch(slides, tmp_path / "out", overlap=48, overwrite=True)
    after = batch(slides, tmp_path / "out", overlap=48)
    assert after.exit_code == 1
    assert "overlap: 32, now 48" in after.records[0].what


def _lost(*_: Any) -> None:
    raise ClusterError("the cluster is lost")


def test_a_failed_attempt_to_overwrite_does_not_launder_the_old_result(
    batch: Batches, tiny_slide: Path, tmp_path: Path
) -> None:
    slide = tmp_path / "s.tif"
    content = tiny_slide.read_bytes()
    slide.write_bytes(content)
    batch([BatchSlide(slide, "a")], tmp_path / "out", overlap=32)
    slide.write_bytes(b"nothing")
    assert batch([BatchSlide(slide, "a")], tmp_path / "out", overlap=48, overwrite=True).exit_code == 1
    slide.write_bytes(content)
    after = batch([BatchSlide(slide, "a")], tmp_path / "out", overlap=48)
    assert "overlap: 32, now 48" in after.records[0].what


def test_rows_may_be_added_with_models_of_their_own(
    batch: Batches, tiny_slide: Path, null_model: str, tmp_path: Path
) -> None:
    rows = [BatchSlide(tiny_slide, "a")]
    batch(rows, tmp_path / "out", overlap=32)
    more = batch([*rows, BatchSlide(tiny_slide, "b", model=null_model)], tmp_path / "out", overlap=32)
    assert (more.exit_code, more.n_new) == (0, 1)
    assert len({record.run_id for record in more.records}) == 2


def test_other_options_for_all_are_refused_at_once_by_name(
    batch: Batches, tiny_slide: Path, null_model: str, tmp_path: Path
) -> None:
    slides = [BatchSlide(tiny_slide, "a")]
    batch(slides, tmp_path / "out", overlap=32)
    with pytest.raises(BatchError, match="overlap: 32, now 48"):
        batch(slides, tmp_path / "out", overlap=48)
    with pytest.raises(BatchError, match="programs: "):
        batch(slides, tmp_path / "out", overlap=32, model=null_model)
    with pytest.raises(BatchError, match="tiff: False, now True"):
        batch(slides, tmp_path / "out", overlap=32, tiff=True)


def test_what_changes_no_label_may_change(batch: Batches, tiny_slide: Path, tmp_path: Path) -> None:
    slides = [BatchSlide(tiny_slide, "a")]
    batch(slides, tmp_path / "out")
    assert batch(slides, tmp_path / "out", workers=1, memory_bytes=2 * 1024**3).exit_code == 0


def test_a_model_that_is_missing_is_said_before_anything_is_begun(
    batch: Batches, tiny_slide: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError):
        batch([BatchSlide(tiny_slide, "a", model="no-such.onnx")], tmp_path / "out")
    assert not BatchFolder(tmp_path / "out").exists


def test_a_slide_that_was_replaced_is_refused_by_name(batch: Batches, tiny_slide: Path, tmp_path: Path) -> None:
    from wsi_seg.sample import write_synthetic

    slide = tmp_path / "s.tif"
    slide.write_bytes(tiny_slide.read_bytes())
    batch([BatchSlide(slide, "a")], tmp_path / "out")
    slide.unlink()
    write_synthetic(slide, (260, 300), mpp=0.5, seed=5)
    refused = batch([BatchSlide(slide, "a")], tmp_path / "out")
    assert refused.exit_code == 1
    assert "was made from another file than" in refused.records[0].what
    slide.write_bytes(tiny_slide.read_bytes())  # another time of change, the same bytes
    assert batch([BatchSlide(slide, "a")], tmp_path / "out").exit_code == 0


def test_a_result_without_its_record_is_taken_over(batch: Batches, tiny_slide: Path, tmp_path: Path) -> None:
    """As if killed between the two."""
    first = batch([BatchSlide(tiny_slide, "a")], tmp_path / "out")
    (record,) = (tmp_path / "out" / ".wsi-seg-batch" / "slides").iterdir()
    for damaged in (b"", b"{}", b"\xff", None):
        record.unlink() if damaged is None else record.write_bytes(damaged)
        again = batch([BatchSlide(tiny_slide, "a")], tmp_path / "out")
        assert again.records == first.records
        assert record.read_bytes()


def test_results_that_were_there_before_are_not_touched(batch: Batches, tiny_slide: Path, tmp_path: Path) -> None:
    """Not of this batch: neither counted as done nor replaced."""
    batch([BatchSlide(tiny_slide, "a")], tmp_path / "other")
    (tmp_path / "out").mkdir()
    (tmp_path / "other" / "a.seg.zarr").rename(tmp_path / "out" / "a.seg.zarr")
    refused = batch([BatchSlide(tiny_slide, "a")], tmp_path / "out")
    assert refused.exit_code == 1
    assert refused.records[0].error == "OutputExistsError"


def test_reports_that_cannot_be_written_hide_no_other_error(
    batch: Batches, tiny_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise WriteError("the disk is full")

    monkeypatch.setattr("wsi_seg.batch.batch.write_reports", full)
    monkeypatch.setattr("wsi_seg.batch.batch._Batch.work_on", _lost)
    with pytest.raises(ClusterError, match="is lost"):
        batch([BatchSlide(tiny_slide, "a")], tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr("wsi_seg.batch.batch.write_reports", full)
    with pytest.raises(WriteError):
        batch([BatchSlide(tiny_slide, "a")], tmp_path / "out")


def test_a_batch_that_is_lost_reports_what_is_known(
    batch: Batches, tiny_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_seg.batch.batch._Batch.work_on", _lost)
    with pytest.raises(ClusterError):
        batch([BatchSlide(tiny_slide, "a")], tmp_path / "out")
    assert "a,,missing,1" in (tmp_path / "out" / "report.csv").read_text()


def test_status_tells_what_a_folder_holds(batch: Batches, tiny_slide: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0")
    batch([BatchSlide(tiny_slide, "x/a"), BatchSlide(broken, "b")], tmp_path / "out")
    told = batch_status(tmp_path / "out")
    assert (told.count["done"], told.count["failed"], told.owner, told.unfinished) == (1, 1, "", ())
    assert "1 done, 1 failed, 0 begun" in told.describe()
    assert "  b: SlideOpenError: " in told.describe()
    assert "asked" not in told.to_mapping()["slides"][0]
    with pytest.raises(BatchError, match="no folder of a batch"):
        batch_status(tmp_path)
