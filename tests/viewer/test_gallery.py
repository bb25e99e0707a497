"""What a server shows: results, folders, and the slides that belong to them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import numpy as np
import pytest

from tests.viewer.making import begin_squares, write_squares
from wsi_seg.cli.main import main
from wsi_seg.errors import CorruptOutputError, SlideOpenError, UsageError
from wsi_seg.output.label_store import Result
from wsi_seg.viewer.gallery import Gallery, Wishes
from wsi_seg.viewer.regions import RegionFile
from wsi_seg.viewer.sampling import SlidePicture, SmallPicture


def only(gallery: Gallery):  # type: ignore[no-untyped-def]
    (shown,) = gallery
    return shown


def test_the_slide_beside_a_result_is_found(squares: Result) -> None:
    shown = only(Gallery.open(Wishes([str(squares.path)])))
    assert isinstance(shown.picture, SlidePicture)
    assert shown.notes == []


def test_without_its_slide_a_result_shows_its_small_picture(tmp_path: Path) -> None:
    shown = only(Gallery.open(Wishes([str(write_squares(tmp_path / "a" / "b" / "c.seg.zarr").path)])))
    assert isinstance(shown.picture, SmallPicture)
    assert "--slide" in shown.notes[0]


@pytest.mark.parametrize("given", ["file", "folder"])
def test_slides_are_taken_from_where_they_are_said_to_be(given: str, squares_slide: Path, tmp_path: Path) -> None:
    result = write_squares(tmp_path / "a" / "b" / "c.seg.zarr")
    slides = [squares_slide if given == "file" else squares_slide.parent]
    assert isinstance(only(Gallery.open(Wishes([str(result.path)], slides))).picture, SlidePicture)


@pytest.mark.parametrize("flat", [False, True])
def test_a_tiff_result_is_shown_like_any_other(
    squares: Result, squares_slide: Path, tmp_path: Path, flat: bool
) -> None:
    from wsi_seg.geometry import Box
    from wsi_seg.output.tiff_writer import write_ome_tiff

    write_ome_tiff(squares, tmp_path / "squares.ome.tif", flat=flat)
    shown = only(Gallery.open(Wishes([str(tmp_path)], [squares_slide])))
    assert isinstance(shown.picture, SlidePicture)
    assert [entry["name"] for entry in shown.describe()["classes"]] == [c.name for c in squares.spec.classes]
    assert shown.labels is not None
    assert shown.labels.n_levels == squares.n_levels
    for level in range(squares.n_levels):
        box = Box(0, 0, *squares.spec.layout.level_size(level))
        assert (shown.labels.read(level, box) == squares.read_labels(level, box)).all()


def test_a_slide_of_another_size_is_refused(small_slide: Path, tmp_path: Path) -> None:
    result = write_squares(tmp_path / "a" / "b" / "c.seg.zarr")
    with pytest.raises(UsageError, match="1600 x 2048"):
        Gallery.open(Wishes([str(result.path)], [small_slide]))


def test_a_slide_that_is_missing_is_named(squares: Result, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nosuch does not exist"):
        Gallery.open(Wishes([str(squares.path)], [tmp_path / "nosuch"]))


def test_a_slide_of_other_content_is_told(squares_slide: Path, tmp_path: Path) -> None:
    from tests.engine.runs import Runs

    shutil.copy(squares_slide, tmp_path / "squares.tif")
    result = Runs(tmp_path)(tmp_path / "squares.tif", model="he-stain")
    assert only(Gallery.open(Wishes([str(result.path)]))).notes == []
    import tifffile

    other, tags = np.full((1600, 2048, 3), 99, np.uint8), {"resolution": (4e4, 4e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "squares.tif", other, tile=(256, 256), photometric="rgb", **tags)
    assert "not the one" in only(Gallery.open(Wishes([str(result.path)]))).notes[0]


def test_a_folder_shows_its_results_as_they_come(tmp_path: Path) -> None:
    write_squares(tmp_path / "a.seg.zarr", name="a")
    begin_squares(tmp_path / "b.seg.zarr", name="b")
    (tmp_path / "c.seg.zarr").mkdir()  # just begun
    gallery = Gallery.open(Wishes([str(tmp_path)]))
    assert [shown.name for shown in gallery] == ["a", "b"]
    before = [shown.id for shown in gallery]
    (tmp_path / "c.seg.zarr").rmdir()
    write_squares(tmp_path / "c.seg.zarr", name="c")
    gallery.refresh()
    assert [shown.name for shown in gallery] == ["a", "b", "c"]
    assert [shown.id for shown in gallery][:2] == before


def test_several_threads_take_a_new_result_in_once(tmp_path: Path) -> None:
    write_squares(tmp_path / "a.seg.zarr", name="a")
    gallery = Gallery.open(Wishes([str(tmp_path)]))
    write_squares(tmp_path / "b.seg.zarr", name="b")
    threads = [Thread(target=gallery.refresh) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [shown.name for shown in gallery] == ["a", "b"]


@pytest.mark.parametrize(
    "change",
    [
        lambda root: root.update(attributes=None), lambda root: root.update(attributes=[]),
        lambda root: root["attributes"]["wsi_seg"]["spec"].update(name=5),
        lambda root: root["attributes"]["wsi_seg"]["spec"].update(name="x" * 5000),
        lambda root: root["attributes"]["wsi_seg"]["spec"].update(name="\udcff.svs"),
        lambda root: root["attributes"]["wsi_seg"]["spec"].update(l0_offset=["a", "b"]),
        lambda root: root["attributes"]["wsi_seg"]["spec"].update(l0_offset=[float("nan"), 0]),
        lambda root: root["attributes"]["wsi_seg"]["spec"].update(l0_size=[0, -1]),
        lambda root: root["attributes"]["wsi_seg"]["spec"].update(n_channels="x"),
        lambda root: root["attributes"]["wsi_seg"].update(summary=5),
        lambda root: root["attributes"]["wsi_seg"].update(thumbnail_mpp=5),
    ],
)  # fmt: skip
def test_a_damaged_result_hides_no_other(change: Any, tmp_path: Path, serve: Callable[..., Any]) -> None:
    for name in "ab":
        write_squares(tmp_path / f"{name}.seg.zarr", name=name)
    root = tmp_path / "b.seg.zarr" / "zarr.json"
    content = json.loads(root.read_text())
    change(content)
    root.write_text(json.dumps(content))
    with serve(Gallery.open(Wishes([str(tmp_path)]))) as where:
        told = httpx.get(f"{where}api")
    assert told.status_code == 200
    assert "a" in [entry["name"] for entry in told.json()]


def test_a_result_that_was_removed_hides_no_other(tmp_path: Path, serve: Callable[..., Any]) -> None:
    for name in "ab":
        write_squares(tmp_path / f"{name}.seg.zarr", name=name)
    with serve(Gallery.open(Wishes([str(tmp_path)]))) as where:
        shutil.rmtree(tmp_path / "b.seg.zarr")
        assert [entry["name"] for entry in httpx.get(f"{where}api").json()] == ["a"]


def test_a_name_that_leads_out_of_the_folder_is_no_slide(squares_slide: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    shutil.copy(squares_slide, tmp_path / "secret" / "slide.tif")
    for name in ("../../secret/slide.tif", str(tmp_path / "secret/slide.tif")):
        result = write_squares(tmp_path / "a/b" / f"{len(name)}.seg.zarr", name=name)
        assert isinstance(only(Gallery.open(Wishes([str(result.path)]))).picture, SmallPicture)


def test_of_several_slides_each_result_gets_its_own(squares_slide: Path, tmp_path: Path) -> None:
    slides = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for slide in slides:
        shutil.copy(squares_slide, slide)
        write_squares(tmp_path / "x/y/z" / f"{slide.stem}.seg.zarr", name=slide.name)
    for shown in Gallery.open(Wishes([str(tmp_path / "x/y/z")], slides)):
        assert isinstance(shown.picture, SlidePicture)
        assert shown.picture.slide.path is not None
        assert shown.picture.slide.path.name == shown.name


def test_one_slide_for_a_folder_leaves_the_other_results_in(squares_slide: Path, tmp_path: Path) -> None:
    write_squares(tmp_path / "x/y/a.seg.zarr")
    write_squares(tmp_path / "x/y/b.seg.zarr", name="b", l0_size=(1600, 2050))
    assert [shown.name for shown in Gallery.open(Wishes([str(tmp_path / "x/y")], [squares_slide]))] == [
        "squares.tif", "b",
    ]  # fmt: skip


def test_a_name_of_bytes_that_are_no_utf8(squares_slide: Path, tmp_path: Path, serve: Callable[..., Any]) -> None:
    slide = tmp_path / os.fsdecode(b"\xff.tif")
    shutil.copy(squares_slide, slide)
    with serve(Gallery.open(Wishes([str(slide)]))) as where:
        assert len(httpx.get(f"{where}api").json()) == 1


def test_regions_of_one_slide_are_not_shown_on_another(tmp_path: Path) -> None:
    for name, size in (("a", (1600, 2048)), ("b", (1600, 2050)), ("c", (1600, 2048))):
        write_squares(tmp_path / f"{name}.seg.zarr", name=name, l0_size=size)
    a, b, c = Gallery.open(Wishes([str(tmp_path)], annotations=tmp_path / "r.geojson"))
    assert a.regions is c.regions is not None
    assert b.regions is None
    assert "regions of a" in b.notes[-1]


def test_a_file_of_regions_that_is_none_is_told_for_a_folder_too(tmp_path: Path) -> None:
    write_squares(tmp_path / "a.seg.zarr")
    (tmp_path / "r.geojson").write_text("{")
    with pytest.raises(UsageError, match=r"r\.geojson"):
        Gallery.open(Wishes([str(tmp_path)], annotations=tmp_path / "r.geojson"))


def test_places_that_cannot_be_shown_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no result in"):
        Gallery.open(Wishes([str(tmp_path)]))
    with pytest.raises(CorruptOutputError):
        Gallery.open(Wishes([str(tmp_path / "missing.seg.zarr")]))
    with pytest.raises(SlideOpenError):
        Gallery.open(Wishes([str(tmp_path / "missing.svs")]))


def test_a_slide_alone_can_be_looked_at(squares_slide: Path) -> None:
    shown = only(Gallery.open(Wishes([str(squares_slide)])))
    assert shown.labels is None
    assert shown.describe()["classes"] == []


def test_regions_are_checked_before_they_replace_a_file(tmp_path: Path) -> None:
    kept = RegionFile(tmp_path / "r.geojson")
    assert kept.load()["features"] == []
    ring = [[0, 0], [4, 0], [4, 4], [0, 0]]
    sound = {"type": "FeatureCollection", "features": [{"type": "Polygon", "coordinates": [ring]}]}
    assert kept.save(json.dumps(sound).encode()) == 1
    before = kept.path.read_bytes()
    point = {**sound, "features": [{"type": "Point", "coordinates": [0, 0]}]}
    for bad in (b"{", b"[]", b'{"type": "FeatureCollection"}', b"[" * 10**5, json.dumps(point).encode()):
        with pytest.raises(UsageError):
            kept.save(bad)
        assert kept.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["r.geojson"]
    with pytest.raises(UsageError, match="geojson"):
        RegionFile(tmp_path / "slide.svs")


def test_the_command_serves_until_it_is_interrupted(squares: Result, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wsi_seg.cli", "view", str(squares.path), "--port", "0", "--token"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout is not None
        where = process.stdout.readline().strip()
        base, _, token = where.partition("?token=")
        with httpx.Client(headers={"Authorization": f"Bearer {token}"}) as client:
            assert client.get(f"{base}api").json()[0]["name"] == "squares.tif"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode in (0, 130)


def test_a_port_that_is_taken_is_said(squares: Result, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit) as ended:
            main(["view", str(squares.path), "--port", str(taken.getsockname()[1])])
    assert ended.value.code == 2
    assert "in use" in capsys.readouterr().err
