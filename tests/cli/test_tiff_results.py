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


@pytest.fixture
def whole(wsi_seg: Any, small_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The TIFF of an undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "x.ome.tif"
    assert wsi_seg("run", small_slide, "--out", out, *OPTIONS).code == 0
    return out.read_bytes()


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
    whole = tiff_writer.tiles_of

    def tiles(result: Any, compression: str, step: Any) -> Any:
        def counted() -> None:
            rows.append(1)
            if len(rows) > at:
                stop.set()
            step()

        return whole(result, compression, counted)

    with monkeypatch.context() as patch:
        patch.setattr(tiff_writer, "tiles_of", tiles)
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


@pytest.mark.parametrize("block", [256, 512])
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_and_blocks_change_no_byte(
    wsi_seg: Any, small_slide: Path, tmp_path: Path, whole: bytes, workers: int, block: int
) -> None:
    out = tmp_path / "x.ome.tif"
    options = ("--tile", 256, "--block", block, "--workers", workers, *OPTIONS[4:])
    assert wsi_seg("run", small_slide, "--out", out, *options).code == 0
    assert out.read_bytes() == whole


@pytest.mark.parametrize("n_done", [1, 2, "all, and the copy is written"])
def test_killed_runs_are_resumed_to_the_same_bytes(
    wsi_seg: Any, small_slide: Path, tmp_path: Path, whole: bytes, n_done: int | str
) -> None:
    import os

    from wsi_seg.output import tiff_writer
    from wsi_seg.output.run_directory import Markers

    out, write, written = tmp_path / "x.ome.tif", Markers.write, []
    child = os.fork()
    if child == 0:

        def killed(self: Any, receipt: Any) -> None:
            write(self, receipt)
            written.append(receipt)
            if len(written) == n_done:
                os.kill(os.getpid(), 9)

        Markers.write = killed  # type: ignore[method-assign]
        tiff_writer.sync_file = lambda _: os.kill(os.getpid(), 9)
        run_slide(small_slide, LIBRARY_OPTIONS, out=out)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == 9
    assert names(tmp_path) == {"x.ome.tif.seg.zarr.partial"}
    assert wsi_seg("run", small_slide, "--out", out, *OPTIONS).code == 0
    assert out.read_bytes() == whole


@pytest.mark.parametrize(("first", "then"), [("x.ome.tif.seg.zarr", "x.ome.tif"), ("x.ome.tif", "x.ome.tif.seg.zarr")])
def test_a_half_done_result_of_the_other_kind_is_never_gone_on_with(
    wsi_seg: Any, small_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, then: str
) -> None:
    """They share a folder, a run id and nothing else: chunks are compressed in two ways."""
    import tifffile

    from wsi_seg.engine.target import Target

    def cut(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Target, "commit", cut)
        assert wsi_seg("run", small_slide, "--out", tmp_path / first, *OPTIONS).code == 1
    assert names(tmp_path) == {"x.ome.tif.seg.zarr.partial"}
    left = wsi_seg("run", small_slide, "--out", tmp_path / then, *OPTIONS)
    assert left.code == 1
    assert "layout.codec: " in left.err
    assert "--restart" in left.err
    assert wsi_seg("run", small_slide, "--out", tmp_path / first, *OPTIONS).code == 0
    labels = (
        tifffile.imread(tmp_path / "x.ome.tif") if first == "x.ome.tif" else open_result(tmp_path / first).labels(0)
    )
    assert (np.asarray(labels[:]) < 3).all()


def test_a_damaged_chunk_is_named_and_its_block_done_again(
    wsi_seg: Any, small_slide: Path, tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsi_seg.engine.target import Target

    out, commit = tmp_path / "x.ome.tif", Target._commit_tiff

    def damaged(self: Any, run: Any, *rest: Any) -> None:
        shard = run.path / "labels/segmentation/0/c/0/0"
        content = bytearray(shard.read_bytes())
        content[100] ^= 1
        shard.write_bytes(content)
        commit(self, run, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Target, "_commit_tiff", damaged)
        left = wsi_seg("run", small_slide, "--out", out, *OPTIONS)
    assert left.code == 1
    assert "chunk 0, 0 of " in left.err
    assert "labels/segmentation/0/c/0/0" in left.err
    assert not out.exists()
    assert wsi_seg("run", small_slide, "--out", out, *OPTIONS).code == 0
    assert out.read_bytes() == whole


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
