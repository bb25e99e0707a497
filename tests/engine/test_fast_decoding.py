"""Whole runs with `--decode fast`: the same canvas, nearly the same labels, another run where pixels are others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.engine.runs import Runs, labels_of, pixels_of, shard_bytes, worker_processes
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.prepare import prepare
from wsi_seg.engine.steps import identity_of
from wsi_seg.errors import UsageError
from wsi_seg.plan import differing_fields
from wsi_seg.sample import write_synthetic
from wsi_seg.slide import ArraySlide

NOTHING = "--decode fast changes nothing here: "


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic tissue at 0.25 um/px without a pyramid, in JPEG tiles; sides that end within a px of the canvas."""
    folder = tmp_path_factory.mktemp("fast")
    write_synthetic(folder / "pyramid.tif", (1100, 1300), mpp=0.25, seed=5, tissue_fraction=0.7)
    pixels = pixels_of(folder / "pyramid.tif")[:1099, :1297]
    options = {"tile": (256, 256), "compression": "jpeg", "compressionargs": {"level": 90}, "subsampling": (2, 2)}
    per_cm = (40_000, 40_000)
    tifffile.imwrite(
        folder / "s.tif", pixels, photometric="rgb", resolution=per_cm, resolutionunit=3, metadata=None, **options
    )
    return folder / "s.tif"


def test_labels_are_those_of_exact_decoding_but_for_single_px(slide: Path, run: Runs) -> None:
    """0.04 % differ; a shift of the canvas by one px would change 2 %."""
    options = {"model": "nuclei", "skip_background": True}
    exact, fast = run(slide, **options), run(slide, **options, decode="fast")
    assert exact.spec.layout == fast.spec.layout
    for ours, theirs in zip(labels_of(fast), labels_of(exact), strict=True):
        np.testing.assert_array_equal(ours == 255, theirs == 255)
        assert (ours != theirs).mean() < 0.002
    assert (labels_of(fast)[0] == 1).mean() > 0.05


def test_workers_in_other_processes_decode_alike(slide: Path, run: Runs) -> None:
    here = run(slide, decode="fast")
    with worker_processes(1) as scheduler:
        there = run(slide, decode="fast", scheduler=scheduler)
    assert shard_bytes(there) == shard_bytes(here)
    assert shard_bytes(here) != shard_bytes(run(slide))


def test_the_plan_says_how_it_decodes_and_is_that_of_another_run(slide: Path) -> None:
    fast, exact = (prepare(slide, RunOptions(model="he-stain", decode=decode)).plan for decode in ("fast", "exact"))
    rows = {label: text for _, rows in fast.describe() for label, text in rows}
    assert rows["level read"] == "0, decoded at 1/2"
    assert rows["file"].endswith("(generic-tiff, 1 level)")
    assert not any("decode" in note for note in (*fast.notes, *exact.notes))
    assert fast.scale.canvas_size == exact.scale.canvas_size == (550, 648)
    assert fast.selection.sha256 == exact.selection.sha256
    told = differing_fields(identity_of(exact).fields, identity_of(fast).fields)
    assert "scale.reduction: absent, now 2" in told


def test_where_it_changes_nothing_the_run_says_so_and_is_the_same(slide: Path, tmp_path: Path) -> None:
    array = ArraySlide(np.full((300, 300, 3), 200, np.uint8), mpp=0.25)
    deflate = tmp_path / "deflate.tif"
    tifffile.imwrite(deflate, np.full((512, 512, 3), 200, np.uint8), tile=(256, 256), compression="zlib")
    for source, options, why in (
        (slide, {"slide_mpp": 0.5}, "1 x 1 px of level 0 make a px of the canvas, and that is not a multiple of 2"),
        (slide, {"reader": "openslide"}, "only our TIFF reader can, and this slide is read by openslide"),
        (array, {}, "only our TIFF reader can, and this slide is read by array"),
        (deflate, {"slide_mpp": 0.25}, "level 0 is not stored as JPEG tiles that can be halved with their colours"),
    ):
        asked = {"model": "he-stain", **options}
        fast, exact = (prepare(source, RunOptions(**asked, decode=decode)).plan for decode in ("fast", "exact"))
        (note,) = set(fast.notes) - set(exact.notes)
        assert note.startswith(NOTHING + why)
        assert fast.run_id == exact.run_id


def test_an_unknown_way_is_refused(slide: Path) -> None:
    with pytest.raises(UsageError, match="--decode quick"):
        prepare(slide, RunOptions(decode="quick"))
