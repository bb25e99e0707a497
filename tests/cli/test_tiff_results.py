"""`--out x.ome.tif`: read back by others, with its companions, whatever happens on the way."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.run import run_slide
from wsi_seg.errors import RunStopped
from wsi_seg.output.label_store import open_result

OPTIONS = ("--tile", 256, "--block", 256, "--no-skip", "--quiet", "--model", "identity")
LIBRARY_OPTIONS = RunOptions(tile=256, block=256, skip_background=False, model="identity")


@pytest.fixture
def expected(wsi_seg: Any, small_slide: Path, tmp_path: Path) -> list[NDArray[np.uint8]]:
    """Labels of all levels, from the Zarr result."""
    out = tmp_path / "reference.seg.zarr"
    assert wsi_seg("run", small_slide, "--out", out, *OPTIONS).code == 0
    result = open_result(out)
    return [np.asarray(result.labels(level)[:]) for level in range(result.n_levels)]


def names(folder: Path, but: str = "reference.seg.zarr") -> set[str]:
    return {path.name for path in folder.iterdir()} - {but}


COMPANIONS = {"x.overview.png", "x.summary.json", "x.summary.csv"}


def test_ome_tiff(wsi_seg: Any, small_slide: Path, tmp_path: Path, expected: list[NDArray[np.uint8]]) -> None:
    import tifffile

    assert wsi_seg("run", small_slide, "--out", tmp_path / "x.ome.tif", *OPTIONS).code == 0
    assert names(tmp_path) == {"x.ome.tif"} | COMPANIONS
    with tifffile.TiffFile(tmp_path / "x.ome.tif") as file:
        assert file.is_ome
        (series,) = file.series
        for level, labels in zip(series.levels, expected, strict=True):
            np.testing.assert_array_equal(level.asarray(), labels)
        assert 'PhysicalSizeX="0.5"' in (file.ome_metadata or "")
    assert (tmp_path / "x.overview.png").read_bytes().startswith(b"\x89PNG")


def test_flat_tiff(wsi_seg: Any, small_slide: Path, tmp_path: Path, expected: list[NDArray[np.uint8]]) -> None:
    import openslide

    assert wsi_seg("run", small_slide, "--out", tmp_path / "x.tif", "--tiff", "flat", *OPTIONS).code == 0
    assert names(tmp_path) == {"x.tif"} | COMPANIONS
    with openslide.OpenSlide(tmp_path / "x.tif") as slide:
        assert [size[::-1] for size in slide.level_dimensions] == [labels.shape for labels in expected]
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        for level, labels in enumerate(expected):
            region = np.asarray(slide.read_region((0, 0), level, labels.shape[::-1]))
            np.testing.assert_array_equal(region[..., 0], labels)


@pytest.mark.parametrize("at", [0, 4, 9])
def test_stopped_while_the_copy_is_made(
    wsi_seg: Any,
    small_slide: Path,
    tmp_path: Path,
    expected: list[NDArray[np.uint8]],
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    import tifffile

    from wsi_seg.output import tiff_writer

    out, stop, rows = tmp_path / "x.ome.tif", threading.Event(), []
    whole = tiff_writer._tiles

    def tiles(result: Any, level: int, step: Any) -> Any:
        def counted() -> None:
            rows.append(level)
            if len(rows) > at:
                stop.set()
            step()

        return whole(result, level, counted)

    with monkeypatch.context() as patch:
        patch.setattr(tiff_writer, "_tiles", tiles)
        with pytest.raises(RunStopped, match="run the same command again"):
            run_slide(small_slide, LIBRARY_OPTIONS, out=out, stop=stop)
    assert not out.exists()
    assert names(tmp_path) == {"x.ome.tif.seg.zarr.partial"}
    left = wsi_seg("run", small_slide, "--out", out, *OPTIONS)
    assert left.code == 0
    assert names(tmp_path) == {"x.ome.tif"} | COMPANIONS
    np.testing.assert_array_equal(tifffile.imread(out), expected[0])


def test_a_stop_before_the_name_leaves_a_result_that_can_be_finished(
    wsi_seg: Any, small_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.ome.tif"

    def cut(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("wsi_seg.output.durable.publish", cut)
        assert wsi_seg("run", small_slide, "--out", out, *OPTIONS).code == 1
    assert not out.exists()
    assert wsi_seg("run", small_slide, "--out", out, *OPTIONS).code == 0
    assert names(tmp_path) == {"x.ome.tif"} | COMPANIONS


def test_finished_is_kept_without_overwrite(wsi_seg: Any, small_slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.ome.tif"
    assert wsi_seg("run", small_slide, "--out", out, *OPTIONS).code == 0
    before = out.read_bytes()
    left = wsi_seg("run", small_slide, "--out", out, *OPTIONS)
    assert left.code == 1
    assert "--overwrite" in left.err
    assert out.read_bytes() == before
    assert wsi_seg("run", small_slide, "--out", out, *OPTIONS[:-1], "constant:1/3", "--overwrite").code == 0
    assert out.read_bytes() != before


def test_a_slide_is_never_overwritten(wsi_seg: Any, tmp_path: Path) -> None:
    slide = tmp_path / "slide.tif"
    assert wsi_seg("sample", "--synthetic", "300x200", slide).code == 0
    before = slide.read_bytes()
    left = wsi_seg("run", slide, "--out", slide, *OPTIONS, "--overwrite")
    assert left.code == 1
    assert "is no result of wsi-seg" in left.err
    assert slide.read_bytes() == before
    assert names(tmp_path) == {"slide.tif"}
