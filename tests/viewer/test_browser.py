"""The page in a real browser: alignment to the pixel, toggles, opacity, previews of runs, regions, comparison."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import pytest

from tests.viewer.browser import Page, keep, opened_browser
from tests.viewer.making import L0_SIZE, SIDE, SQUARES, begin_squares, write_squares
from wsi_seg.geometry import Box
from wsi_seg.output.label_store import Result
from wsi_seg.plan import read_roi
from wsi_seg.viewer.gallery import Gallery, Wishes
from wsi_seg.viewer.shown import Shown

RED = np.array([255, 0, 0])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(gallery: Gallery, serve: Callable[..., Any]) -> Iterator[str]:
    with serve(gallery) as where:
        yield where


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Page]:
    page = Page(browser, address)
    yield page
    page.close()


def expected(shape: tuple[int, int], x: float, y: float, zoom: float) -> np.ndarray:
    """Where the squares are on a screen (h, w) whose middle shows the level-0 point (y, x)."""
    rows = (np.arange(shape[0]) + 0.5 - shape[0] / 2) / zoom + y
    columns = (np.arange(shape[1]) + 0.5 - shape[1] / 2) / zoom + x
    found = np.zeros(shape, bool)
    for top, left in SQUARES:
        inside_y, inside_x = (rows >= top) & (rows < top + SIDE), (columns >= left) & (columns < left + SIDE)
        found |= inside_y[:, None] & inside_x[None, :]
    return found


@pytest.mark.parametrize(("zoom", "x", "y"), [(0.25, 1024, 800), (1, 900, 700), (4, 996, 740)])
def test_labels_lie_on_the_slide_to_the_pixel(page: Page, zoom: float, x: int, y: int) -> None:
    place = f"x={x}&y={y}&zoom={zoom}&hide=0&opacity=100"
    page.go(f"#{place}&slide=1&labels=0")
    slide = page.canvas()
    page.go(f"#{place}&slide=0&labels=1")
    labels = page.canvas()
    page.go(f"#{place}&slide=1&labels=1")
    page.keep(f"aligned-at-{zoom}")
    dark = slide[..., 0] < 130
    red = np.abs(labels.astype(int) - RED).max(-1) < 128
    here = expected(dark.shape, x, y, zoom)
    assert here.sum() > 200
    assert (dark == here).all(), f"slide: {np.argwhere(dark != here)[:5]}"
    assert (red == here).all(), f"labels: {np.argwhere(red != here)[:5]}"


def test_classes_opacity_and_layers_can_be_switched(page: Page) -> None:
    page.go("#x=992&y=736&zoom=2&slide=1&labels=1&opacity=100&hide=0")
    middle = page.canvas().shape[0] // 2, page.canvas().shape[1] // 2
    assert np.abs(page.canvas()[middle] - RED).max() < 8
    page.page.locator("#classes input[type=color]").nth(1).fill("#00c8ff")
    page.settled()
    assert np.abs(page.canvas()[middle] - [0, 200, 255]).max() < 8
    assert "colours=1-00c8ff" in page.page.url
    page.page.locator("#classes input[type=color]").nth(1).fill("#ff0000")
    page.page.locator("#classes input[type=checkbox]").nth(1).uncheck()
    page.settled()
    assert page.canvas()[middle].max() < 60  # the slide's dark square
    page.page.keyboard.press("2")
    page.settled()
    assert np.abs(page.canvas()[middle] - RED).max() < 8
    page.page.locator("#opacity").fill("50")
    page.settled()
    half = page.canvas()[middle].astype(int)
    assert abs(half[0] - (255 + 20) // 2) < 12
    page.page.keyboard.press("m")
    page.page.keyboard.press("s")
    page.settled()
    assert (page.canvas()[middle] == 255).all()
    assert "slide=0" in page.page.url
    assert "labels=0" in page.page.url


def test_a_permalink_shows_the_same_again(page: Page, browser: Any) -> None:
    page.go("#x=300.5&y=1200.25&zoom=1.5&slide=1&labels=1&opacity=80&hide=0.2")
    again = Page(browser, page.page.url)
    assert (again.canvas() == page.canvas()).all()
    assert again.page.url.split("#")[1] == page.page.url.split("#")[1]
    again.close()


def test_class_and_micrometres_under_the_cursor_and_the_scale_bar(page: Page) -> None:
    page.go("#x=992&y=736&zoom=1&slide=1&labels=1&opacity=50&hide=")
    box = page.page.locator("#left").bounding_box()
    page.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.page.wait_for_function("() => document.getElementById('cursor').textContent.includes('square')")
    said = page.page.locator("#cursor").text_content()
    assert "x 248.0 µm   y 184.0 µm" in said
    length, unit = page.page.locator("#scale-text").text_content().split()
    bar = page.page.locator("#scale-bar").bounding_box()["width"]
    assert unit == "µm"
    assert bar == pytest.approx(float(length) / 0.25, abs=1)


def test_names_are_text_and_areas_stand_beside_them(page: Page) -> None:
    rows = page.page.locator("#classes .class").all_text_contents()
    assert rows[2].startswith("<b>bold</b>")
    assert "0.00128 mm²" in rows[1]
    page.keep("page")


def test_a_region_is_drawn_and_saved_in_the_slides_px(page: Page, tmp_path: Path) -> None:
    page.go("#x=1000&y=700&zoom=0.5&slide=1&labels=1&opacity=50&hide=0")
    box = page.page.locator("#left").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.page.locator("#region-class").select_option("square")
    page.page.locator("#draw").click()
    for dx, dy in ((-100, -100), (100, -100), (100, 100), (-100, 100)):
        page.page.mouse.click(middle[0] + dx, middle[1] + dy)
        page.page.wait_for_timeout(400)  # quicker is a double click
    page.page.keyboard.press("Enter")
    with page.page.expect_download() as download:
        page.page.locator("#download").click()
    download.value.save_as(tmp_path / "roi.geojson")
    feature = json.loads((tmp_path / "roi.geojson").read_text())["features"][0]
    ring = np.array(feature["geometry"]["coordinates"][0])
    assert np.abs(ring[:-1] - [[800, 500], [1200, 500], [1200, 900], [800, 900]]).max() <= 2
    assert feature["properties"]["classification"] == {"name": "square", "color": [255, 0, 0]}
    roi = read_roi(tmp_path / "roi.geojson", Box(0, 0, *L0_SIZE))
    assert roi.l0_area == pytest.approx(400 * 400, rel=0.02)
    page.keep("region")


def test_regions_are_kept_in_the_users_file(
    squares: Result, tmp_path: Path, browser: Any, serve: Callable[..., Any]
) -> None:
    kept = tmp_path / "regions.geojson"
    ring = [[100, 100], [300, 100], [300, 300], [100, 100]]
    kept.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    with serve(Gallery.open(Wishes([str(squares.path)], annotations=kept))) as where:
        page = Page(browser, where)
        page.page.wait_for_function("() => document.querySelectorAll('#regions li').length === 1")
        page.page.locator("#keep").click()
        page.page.wait_for_function("() => document.getElementById('regions-said').textContent.includes('file: 1')")
        assert json.loads(kept.read_text())["features"][0]["geometry"]["coordinates"] == [ring]
        page.page.locator("#regions button").click()  # changes are saved without being asked
        page.page.wait_for_function("() => document.getElementById('regions-said').textContent.includes('file: 0')")
        page.close()
    assert json.loads(kept.read_text())["features"] == []


def test_the_preview_follows_a_run_until_it_ends(
    squares_slide: Path, tmp_path: Path, browser: Any, serve: Callable[..., Any]
) -> None:
    made = begin_squares(tmp_path / "squares.seg.zarr")
    layout = made.spec.layout
    wishes = Wishes([str(tmp_path / "squares.seg.zarr")], slides=[squares_slide])
    with serve(Gallery.open(wishes)) as where:
        page = Page(browser, where)
        page.go("#x=1024&y=800&zoom=0.4&slide=0&labels=1&opacity=100&hide=0.3")
        assert not (page.canvas() == RED).all(-1).any()
        y, x = SQUARES[0]
        made.write_task(0, y // 2 // layout.block, x // 2 // layout.block)
        page.page.wait_for_function(
            "() => document.getElementById('progress').textContent.includes('1 of')", timeout=20_000
        )
        page.settled()
        first = (np.abs(page.canvas().astype(int) - RED).max(-1) < 40).sum()
        assert first == pytest.approx((SIDE * 0.4) ** 2, rel=0.2)
        page.keep("preview")
        made.write_all()
        made.finish()
        page.page.wait_for_function("() => document.getElementById('progress').hidden", timeout=20_000)
        page.settled()
        last = (np.abs(page.canvas().astype(int) - RED).max(-1) < 40).sum()
        assert last == pytest.approx(len(SQUARES) * (SIDE * 0.4) ** 2, rel=0.2)
        page.close()


def test_two_results_side_by_side_and_their_difference(
    squares_slide: Path, squares: Result, tmp_path: Path, browser: Any, serve: Callable[..., Any]
) -> None:
    moved = write_squares(tmp_path / "moved.seg.zarr", l0_offset=(0.0, 32.0), name="moved")
    wishes = Wishes([str(squares.path), str(moved.path)], slides=[squares_slide])
    with serve(Gallery.open(wishes)) as where:
        shown = httpx.get(where + "api").json()
        page = Page(browser, f"{where}view/{shown[0]['id']}")
        page.page.locator("#other").select_option(shown[1]["id"])
        page.page.wait_for_function("() => document.querySelectorAll('#agreement .class').length === 5")
        page.go("#x=976&y=736&zoom=2&slide=0&labels=1&opacity=100&hide=0&other=" + shown[1]["id"])
        drawn = page.canvas().astype(int)
        blue = (np.abs(drawn - [0, 114, 178]).max(-1) < 30).sum()
        orange = (np.abs(drawn - [213, 94, 0]).max(-1) < 30).sum()
        assert blue == orange == SIDE * 32 * 4  # the moved square's two edges
        page.keep("difference")
        page.page.locator("#mode").select_option("beside")
        page.page.wait_for_timeout(2500)
        page.keep("side-by-side")
        assert page.page.locator("#right").is_visible()
        page.close()


def test_a_folder_is_a_gallery(squares: Result, tmp_path: Path, browser: Any, serve: Callable[..., Any]) -> None:
    for name in ("a", "b", "c"):
        write_squares(tmp_path / f"{name}.seg.zarr", name=f"{name}.tif")
    begin_squares(tmp_path / "d.seg.zarr", name="d.tif")
    (tmp_path / "other").mkdir()
    with serve(Gallery.open(Wishes([str(tmp_path)]))) as where:
        context = browser.new_context(viewport={"height": 700, "width": 1100})
        page = context.new_page()
        page.goto(where)
        page.wait_for_function("() => document.querySelectorAll('.card').length === 4")
        assert page.locator(".card h2").all_text_contents() == ["a.tif", "b.tif", "c.tif", "d.tif"]
        assert "being made" in page.locator(".card").nth(3).text_content()
        page.locator("#filter").fill("b.")
        assert page.locator(".card").count() == 1
        page.locator("#filter").fill("")
        page.wait_for_function("() => [...document.images].every(i => i.complete && i.naturalWidth)")
        keep(page, "gallery")
        page.locator(".card").first.click()
        page.wait_for_url("**/view/*")
        context.close()


def test_layers_that_come_out_of_order_leave_none_behind(
    squares: Result, browser: Any, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = Shown.layer_tile

    def slow(self: Shown, layer: str, view: Any, hidden: Any = (), *more: Any) -> Any:
        if layer == "labels" and 1 in hidden:
            Event().wait(1.5)
        return quick(self, layer, view, hidden, *more)

    monkeypatch.setattr(Shown, "layer_tile", slow)
    with serve(Gallery.open(Wishes([str(squares.path)]))) as where:
        page = Page(browser, where)
        page.go("#x=992&y=736&zoom=2&slide=0&labels=1&opacity=100&hide=0")
        page.page.keyboard.press("2")  # its tiles are slow,
        page.page.wait_for_timeout(400)
        page.page.keyboard.press("2")  # and these are here already
        page.page.wait_for_timeout(6000)  # longer than a layer is waited for
        page.page.keyboard.press("m")
        # What is left behind stays; what a busy machine has not drawn yet goes.
        assert any(not (page.canvas() == RED).all(-1).any() for _ in page.looks(20))
        page.close()


def test_keys_are_the_pages_and_not_those_of_its_library(page: Page) -> None:
    box = page.page.locator("#left").bounding_box()
    page.page.mouse.click(box["x"] + 300, box["y"] + 300)  # it has the focus now
    for key in ("f", "r"):
        page.page.keyboard.press(key)
    viewport = "window.wsiSeg.osd.viewport"
    assert page.page.evaluate(f"[{viewport}.getFlip(), {viewport}.getRotation()]") == [False, 0]
    page.page.locator("#help").focus()
    page.page.keyboard.press("Enter")
    assert page.page.evaluate("document.getElementById('keys').open")
    page.page.keyboard.press("Escape")


def test_the_class_of_a_px_does_not_stand_beside_another(page: Page) -> None:
    page.go("#x=992&y=736&zoom=1&slide=1&labels=1&opacity=50&hide=")
    box = page.page.locator("#left").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.page.mouse.move(*middle)
    page.page.wait_for_function("() => document.getElementById('cursor').textContent.includes('square')")
    page.page.route("**/at/**", lambda _: None)  # never answered
    page.page.mouse.move(middle[0] + 150, middle[1])
    page.page.wait_for_function("() => document.getElementById('cursor').textContent.includes('x 1142 px')")
    assert "square" not in page.page.locator("#cursor").text_content()


def test_moving_the_slide_while_drawing_sets_no_point(page: Page) -> None:
    page.go("#x=1000&y=700&zoom=0.5")
    box = page.page.locator("#left").bounding_box()
    page.page.locator("#draw").click()
    page.page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 300, box["y"] + 300, steps=10)
    page.page.mouse.up()
    page.page.wait_for_timeout(400)
    assert page.page.evaluate("window.wsiSeg.regions.open.rings[0].length") == 0
    page.page.keyboard.press("Escape")


def test_of_a_file_of_regions_all_is_taken_or_nothing(page: Page) -> None:
    ring = [[0, 0], [9, 0], [9, 9], [0, 9]]
    polygon = {"type": "Polygon", "coordinates": [ring]}
    point = {"type": "Point", "coordinates": [0, 0]}
    add = (
        "content => { const r = window.wsiSeg.regions; try { r.addGeoJson(content, [0, 0]); } catch {} return r.list; }"
    )
    assert page.page.evaluate(add, [polygon, point]) == []
    (region,) = page.page.evaluate(add, {"type": "GeometryCollection", "geometries": [polygon]})
    assert region["rings"] == [ring]  # no point of one that does not close is lost
    page.page.evaluate("window.wsiSeg.regions.list = []")


def test_what_others_wrote_of_a_region_is_kept(
    squares: Result, tmp_path: Path, browser: Any, serve: Callable[..., Any]
) -> None:
    kept = tmp_path / "regions.geojson"
    feature = {
        "type": "Feature",
        "id": "u1",
        "geometry": {"type": "Polygon", "coordinates": [[[100, 100], [300, 100], [300, 300], [100, 100]]]},
        "properties": {"objectType": "annotation", "name": "core", "classification": {"name": "a", "color": [1, 2, 3]}},
    }
    kept.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    with serve(Gallery.open(Wishes([str(squares.path)], annotations=kept))) as where:
        page = Page(browser, where)
        page.page.wait_for_function("() => document.querySelectorAll('#regions li').length === 1")
        page.page.locator("#keep").click()
        page.page.wait_for_function("() => document.getElementById('regions-said').textContent.includes('file: 1')")
        page.close()
        assert json.loads(kept.read_text())["features"] == [feature]
        kept.write_text("{")
        page = Page(browser, where)
        page.page.locator("#keep").click()
        page.page.wait_for_function("() => document.getElementById('regions-said').textContent.includes('nothing is')")
        page.context.close()
    assert kept.read_text() == "{"


def test_a_comparison_with_a_run_follows_it(
    squares_slide: Path, squares: Result, tmp_path: Path, browser: Any, serve: Callable[..., Any]
) -> None:
    made = begin_squares(tmp_path / "b.seg.zarr", name="b")
    wishes = Wishes([str(squares.path), str(tmp_path / "b.seg.zarr")], slides=[squares_slide])
    with serve(Gallery.open(wishes)) as where:
        one, other = httpx.get(where + "api").json()
        place = "x=96&y=96&zoom=2&slide=0&labels=1&opacity=100&hide=0.3"
        page = Page(browser, f"{where}view/{one['id']}#{place}&other={other['id']}&mode=difference")
        grey = page.canvas()
        made.write_all()
        made.finish()
        page.page.wait_for_timeout(12_000)
        page.settled()
        assert (grey != page.canvas()).any()
        assert (page.canvas() == 255).all()  # they are the same now
        page.close()


def test_a_link_to_two_panes_shows_the_same_again(
    squares: Result, tmp_path: Path, browser: Any, serve: Callable[..., Any]
) -> None:
    other = write_squares(tmp_path / "b.seg.zarr", name="b")
    with serve(Gallery.open(Wishes([str(squares.path), str(other.path)]))) as where:
        shown = httpx.get(where + "api").json()
        page = Page(browser, f"{where}view/{shown[0]['id']}#x=1024&y=800&zoom=0.4&mode=beside&other={shown[1]['id']}")
        for _ in range(2):
            page.page.wait_for_timeout(1500)
            assert "zoom=0.4000000" in page.page.url
            page.page.reload()
            page.settled()
        page.close()
