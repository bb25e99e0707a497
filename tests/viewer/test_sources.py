"""Results are followed while they are made: nothing torn, nothing stale, and their end is noticed."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread

import httpx
import numpy as np
import pytest

from tests.output.making import finished, make_spec
from tests.viewer.making import CLASSES, begin_squares, square_labels, write_squares
from wsi_seg.engine.options import RunOptions
from wsi_seg.errors import CorruptOutputError
from wsi_seg.geometry import Box
from wsi_seg.viewer.sources import StoredLabels, areas_of


def test_a_run_is_followed_block_by_block_to_its_end(tmp_path: Path) -> None:
    out = tmp_path / "a.seg.zarr"
    made = begin_squares(out)
    labels = StoredLabels(out)
    whole = Box(0, 0, *made.spec.layout.size)
    assert (labels.read(0, whole) == 255).all()
    state = labels.state()
    assert (state.finished, state.n_done, state.counts) == (False, 0, None)
    assert labels.n_levels == made.spec.layout.tier_levels(0).stop
    made.write_task(0, 0, 0)
    after = labels.state()
    assert after.version != state.version
    assert after.n_done == 1
    assert sum(after.counts or ()) == made.spec.layout.block**2
    block = made.spec.layout.task_box(0, 0, 0)
    assert (labels.read(0, block) == square_labels(2)[block.slices()]).all()
    made.write_all()
    made.finish()
    # Nobody has asked for its state yet: the folder it read from has another name by now.
    assert (labels.read(0, whole) == square_labels(2)).all()
    assert labels.state().finished
    assert labels.n_levels == made.spec.layout.n_levels


def test_what_is_seen_of_a_run_is_never_torn(tmp_path: Path) -> None:
    """R27: each px is either what the run writes or not analysed, and never goes back."""
    made = begin_squares(tmp_path / "a.seg.zarr")
    labels, truth, ended = StoredLabels(tmp_path / "a.seg.zarr"), square_labels(2), Event()

    def write() -> None:
        made.write_all()
        made.finish()
        ended.set()

    writer = Thread(target=write)
    writer.start()
    seen = np.zeros(truth.shape, bool)
    n = 0
    while not ended.is_set() or n < 20:
        found = labels.read(0, Box(0, 0, *truth.shape))
        here = found != 255
        assert (found[here] == truth[here]).all()
        assert not (seen & ~here).any()
        seen, n = here, n + 1
        labels.state()
    writer.join()
    assert labels.state().finished
    assert (labels.read(0, Box(0, 0, *truth.shape)) == truth).all()


def test_the_name_of_either_opens_the_run(tmp_path: Path) -> None:
    begin_squares(tmp_path / "a.seg.zarr")
    for name in ("a.seg.zarr", "a.seg.zarr.partial"):
        assert not StoredLabels(str(tmp_path / name)).state().finished


def test_a_result_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "a.seg.zarr"
    write_squares(out)
    labels = StoredLabels(out)
    shutil.rmtree(out)
    write_squares(out, factor=4)
    assert labels.state().finished
    assert labels.spec.layout.size == square_labels(4).shape


def test_as_many_tasks_of_another_attempt_are_another_version(tmp_path: Path) -> None:
    """A browser keeps tiles by version: after --restart none of the old ones may be shown."""
    made = begin_squares(tmp_path / "a.seg.zarr")
    labels = StoredLabels(tmp_path / "a.seg.zarr")
    made.write_task(0, 0, 0)
    before = labels.state()
    made.run.markers.forget(0, 0, 0)
    made.write_task(0, 1, 1)
    after = labels.state()
    assert before.n_done == after.n_done == 1
    assert before.version != after.version
    assert after.version.startswith(labels.run)


def test_the_areas_of_a_run_are_there_when_it_has_ended(tmp_path: Path) -> None:
    made = begin_squares(tmp_path / "a.seg.zarr")
    labels = StoredLabels(tmp_path / "a.seg.zarr")
    assert labels.state().areas is None
    made.write_all()
    made.finish()
    areas = labels.state().areas
    assert areas is not None
    assert areas["analysed_mm2"] == pytest.approx(1600 * 2048 * 0.25**2 * 1e-6)
    assert set(areas) == {"classes", "analysed_mm2", "not_analysed_mm2"}
    assert set(areas["classes"][1]) == {"mm2", "percent"}


@pytest.mark.parametrize("summary", [None, 5, {}, {"classes": []}, {"classes": [{"mm2": 1}], "analysed_mm2": 0}])
def test_a_summary_that_is_damaged_says_nothing(summary: object) -> None:
    assert areas_of(summary) is None
    nan = {"classes": [], "analysed_mm2": float("nan"), "not_analysed_mm2": 0}
    assert areas_of(nan) is None


def test_px_of_a_result_are_not_read_from_another_that_took_its_place(tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "a.seg.zarr"
    write_squares(out)
    labels = StoredLabels(out)
    shutil.rmtree(out)
    write_squares(out, classes=CLASSES[:2], name="another")
    with pytest.raises(CorruptOutputError, match="replaced"):
        labels.read(0, Box(0, 0, 8, 8))
    assert labels.spec.name == "another"
    assert (labels.read(0, Box(0, 0, 8, 8)) == 0).all()


def test_damaged_probabilities_are_told_as_such(tmp_path: Path) -> None:
    result, _ = finished(tmp_path / "a.seg.zarr", make_spec(probabilities=True))
    for shard in (tmp_path / "a.seg.zarr/probabilities/0/c").rglob("*"):
        if shard.is_file():
            shard.write_bytes(b"damaged" * 100)
    with pytest.raises(CorruptOutputError):
        StoredLabels(result.path).read_probability(0, Box(600, 900, 608, 908), 1)


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptOutputError, match="no result of wsi-seg"):
        StoredLabels(tmp_path / "nothing.seg.zarr")


def test_blocks_in_sight_are_predicted_and_are_those_of_a_run(small_slide: Path, tmp_path: Path, serve) -> None:  # type: ignore[no-untyped-def]
    from tests.engine.runs import SMALL, Runs
    from wsi_seg.viewer.gallery import Gallery, Wishes
    from wsi_seg.viewer.live import MAX_IN_SIGHT

    gallery = Gallery.open(Wishes([str(small_slide)], live=RunOptions(**SMALL)))
    shown = next(iter(gallery))
    expected = Runs(tmp_path)(small_slide)
    height, width = shown.l0_size
    with serve(gallery) as where, httpx.Client(base_url=where) as client:
        told = client.get(f"/api/{shown.id}").json()
        assert told["is_live"]
        assert client.get(f"/api/{shown.id}/at/10/10").json()["class"] is None
        for _ in range(600):
            answer = client.get(f"/api/{shown.id}/look/0/0/{height}/{width}?page=7").json()
            if not answer["to_come"]:
                break
            assert answer["to_come"] <= MAX_IN_SIGHT
            Event().wait(0.1)
        assert client.get(f"/api/{shown.id}/state").json()["version"] != told["state"]["version"]
    assert shown.labels is not None
    box = Box(0, 0, *expected.spec.layout.size)
    assert (shown.labels.read(0, box) == expected.read_labels(0, box)).all()
    assert shown.predict_in is not None
    assert shown.predict_in((height + 5.0, width + 5.0, height + 9.0, width + 9.0), "1") == 0
