"""What the server answers, and what it never does."""

from __future__ import annotations

import io
import json
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.viewer.making import CLASSES, L0_SIZE, SIDE, SQUARES, begin_squares, slide_pixels, write_squares
from wsi_seg.output.label_store import Result
from wsi_seg.viewer.gallery import Gallery, Wishes
from wsi_seg.viewer.grid import ViewGrid

N_FUZZED = 10_000
CANARY = "CANARY-Jane-Doe-1970"
TOP = ViewGrid(L0_SIZE).max_level


def the_id(client: httpx.Client) -> str:
    return str(client.get("/api").json()[0]["id"])


def rgba(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))


def test_the_front_leads_to_the_one_result(client: httpx.Client) -> None:
    answer = client.get("/")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"view/{the_id(client)}"
    page = client.get(f"/view/{the_id(client)}")
    assert page.status_code == 200
    for name in ("style.css", "openseadragon.min.js", "view.js", "layers.js", "regions.js", "plain.js"):
        assert client.get(f"/static/{name}").status_code == 200


def test_pages_name_only_files_that_are_served(client: httpx.Client) -> None:
    import re

    for page in ("view.html", "gallery.html", "view.js", "gallery.js"):
        text = client.get(f"/static/{page}").text
        for name in re.findall(r"""(?:static/|from "\./)([\w.]+)""", text):
            assert client.get(f"/static/{name}").status_code == 200, name
        assert "http://" not in text
        assert "https://" not in text


def test_the_page_is_told_frames_classes_and_areas(client: httpx.Client) -> None:
    told = client.get(f"/api/{the_id(client)}").json()
    assert told["size"] == list(L0_SIZE)
    assert told["mpp"] == [0.25, 0.25]
    assert [entry["name"] for entry in told["classes"]] == [entry.name for entry in CLASSES]
    squares = told["state"]["areas"]["classes"][1]
    assert squares["mm2"] == pytest.approx(len(SQUARES) * (SIDE * 0.25e-3) ** 2)
    assert told["has_slide"]
    assert told["others"] == []


def test_tiles_of_both_layers_lie_on_each_other(client: httpx.Client) -> None:
    shown = the_id(client)
    slide = rgba(client.get(f"/tile/{shown}/slide/{TOP}/0/0"))[..., 0]
    labels = rgba(client.get(f"/tile/{shown}/labels/{TOP}/0/0?hide=0"))
    assert slide.shape == (513, 513)  # one px in common with each neighbour
    assert ((slide < 128) == (labels[..., 3] > 0)).mean() > 0.9995  # JPEG, at edges
    y, x = SQUARES[0]
    assert labels[y, x].tolist() == [255, 0, 0, 255]
    assert labels[y, x - 1, 3] == labels[y - 1, x, 3] == labels[y + SIDE, x, 3] == 0


def test_hidden_classes_are_transparent_and_what_was_not_analysed_is_hatched(
    tmp_path: Path, serve: Callable[..., Any]
) -> None:
    result = write_squares(tmp_path / "a.seg.zarr", l0_offset=(256.0, 0.0))
    with serve(Gallery.open(Wishes([str(result.path)]))) as where, httpx.Client(base_url=where) as client:
        shown = the_id(client)
        tile = f"/tile/{shown}/labels/{TOP}/0/0"
        above = rgba(client.get(tile))[:256]
        hatched = above[..., 3] > 0
        assert 0.1 < hatched.mean() < 0.25
        assert (rgba(client.get(f"{tile}?hide=3"))[:256, :, 3] == 0).all()
        assert (rgba(client.get(f"{tile}?hide=0.1.2"))[256:, :, 3] == 0).all()


def test_the_class_under_a_px(client: httpx.Client) -> None:
    y, x = SQUARES[1]
    assert client.get(f"/api/{the_id(client)}/at/{y}/{x}").json()["class"] == 1
    assert client.get(f"/api/{the_id(client)}/at/{y - 1}/{x}").json()["class"] == 0
    assert client.get(f"/api/{the_id(client)}/at/{L0_SIZE[0]}/0").status_code == 404


def test_colours_can_be_others_than_the_models(client: httpx.Client) -> None:
    tile, (y, x) = f"/tile/{the_id(client)}/labels/{TOP}/0/0", SQUARES[0]
    assert rgba(client.get(f"{tile}?colours=1-01aBff"))[y, x].tolist() == [1, 171, 255, 255]
    assert rgba(client.get(f"{tile}?colours=7-000000"))[y, x].tolist() == [255, 0, 0, 255]
    for bad in ("1-01abf", "1", "x-000000", "1-00000g", "-1-000000"):
        assert client.get(f"{tile}?colours={bad}").status_code == 404


def test_a_tile_is_kept_only_under_the_version_it_is_of(
    squares: Result, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    made = begin_squares(tmp_path / "a.seg.zarr", name="a")
    with (
        serve(Gallery.open(Wishes([str(squares.path), str(made.run.out)]))) as where,
        httpx.Client(base_url=where) as client,
    ):
        one, other = client.get("/api").json()
        version, changing = one["state"]["version"], other["state"]["version"]
        kept = {
            address: "immutable" in client.get(address).headers["cache-control"]
            for address in (
                f"/tile/{one['id']}/labels/{TOP}/0/0?v={version}", f"/tile/{one['id']}/labels/{TOP}/0/0",
                f"/tile/{one['id']}/labels/{TOP}/0/0?v=0", f"/tile/{other['id']}/labels/{TOP}/0/0?v=0",
                f"/tile/{other['id']}/labels/{TOP}/0/0?v={changing}",
                f"/difference/{one['id']}/{other['id']}/{TOP}/0/0?v={version}",
                f"/difference/{one['id']}/{other['id']}/{TOP}/0/0?v={version}&w={changing}",
            )
        }  # fmt: skip
    assert list(kept.values()) == [True, False, False, False, True, False, True]


def test_a_front_of_one_becomes_a_gallery_when_more_come(tmp_path: Path, serve: Callable[..., Any]) -> None:
    write_squares(tmp_path / "a.seg.zarr")
    with serve(Gallery.open(Wishes([str(tmp_path)]))) as where:
        assert httpx.get(where).status_code == 303
        write_squares(tmp_path / "b.seg.zarr")
        assert httpx.get(where).status_code == 200


def test_what_the_summary_of_a_tiff_says_of_files_is_not_served(
    squares: Result, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    from wsi_seg.output.tiff_writer import write_ome_tiff

    write_ome_tiff(squares, tmp_path / "a.ome.tif")
    summary = {**json.loads((Path(str(squares.path)) / "summary.json").read_text()), "problems": [f"/home/{CANARY}"]}
    (tmp_path / "a.summary.json").write_text(json.dumps(summary))
    with serve(Gallery.open(Wishes([str(tmp_path / "a.ome.tif")]))) as where:
        told = httpx.get(f"{where}api")
    assert CANARY not in told.text
    assert told.json()[0]["state"]["areas"]["analysed_mm2"] > 0


def test_addresses_of_nothing_are_not_found(client: httpx.Client) -> None:
    shown = the_id(client)
    for address in (
        f"/tile/{shown}/labels/{TOP + 1}/0/0", f"/tile/{shown}/labels/{TOP}/4/0", f"/tile/{shown}/labels/{TOP}/-1/0",
        f"/tile/{shown}/macro/{TOP}/0/0", f"/tile/{shown}/label/{TOP}/0/0", f"/tile/{shown}/probability-0/{TOP}/0/0",
        f"/tile/{shown}/labels/{TOP}/٣/0", f"/tile/{shown}/labels/{'9' * 5000}/0/0", f"/tile/{shown}/labels/1e1/0/0",
        f"/tile/{'0' * 16}/labels/{TOP}/0/0", "/view/nothing", "/static/view.html/..", "/static/../server.py",
        f"/api/{shown}/look/0/0/9/9", f"/api/{shown}/regions", f"/difference/{shown}/{'0' * 16}/{TOP}/0/0",
    ):  # fmt: skip
        assert client.get(address).status_code == 404, address


def test_every_answer_carries_the_headers(client: httpx.Client) -> None:
    for address in ("/", f"/view/{the_id(client)}", "/static/view.js", "/api", "/nothing"):
        headers = client.get(address).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "'unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers


def test_only_known_hosts_and_methods(client: httpx.Client) -> None:
    assert client.get("/api", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/api", headers={"Host": "localhost:1"}).status_code == 200
    assert client.post("/api").status_code == 405
    assert client.put(f"/api/{the_id(client)}/regions", content=b"{}").status_code == 404


def test_a_token_is_needed_where_one_is_set(gallery: Gallery, serve: Callable[..., Any]) -> None:
    with serve(gallery, token=True) as where, httpx.Client() as client:
        base, _, token = where.partition("?token=")
        assert len(token) >= 32
        for address in ("", "api", "static/view.js", f"tile/{next(iter(gallery)).id}/labels/{TOP}/0/0"):
            assert client.get(base + address).status_code == 403
        assert client.get(f"{base}api?token={token[:-1]}x").status_code == 403
        assert client.get(f"{base}api", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        assert client.get(f"{base}https:evil.example?token={token}").headers["location"] == "./https:evil.example"
        client.cookies.clear()
        answer = client.get(f"{base}?token={token}")
        assert answer.status_code == 303
        assert token not in answer.headers["location"]
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert client.get(f"{base}api").status_code == 200


def test_away_from_this_machine_there_is_always_a_token(gallery: Gallery) -> None:
    from wsi_seg.viewer.serving import Address, guarded_app

    for host in ("0.0.0.0", "::", "192.0.2.7", "slides.example"):
        assert "?token=" in guarded_app(gallery, Address(host=host), 80)[1]
    assert "token" not in guarded_app(gallery, Address(), 80)[1]


@pytest.fixture(scope="module")
def treasure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a slide that names its patient in every place it can, a result beside it, and other files."""
    folder = tmp_path_factory.mktemp(CANARY)
    label = np.full((64, 64, 3), 7, np.uint8)
    with tifffile.TiffWriter(folder / "squares.tif") as tif:
        tif.write(
            slide_pixels(), tile=(256, 256), compression="zlib", photometric="rgb", resolutionunit="CENTIMETER",
            resolution=(40_000, 40_000), description=f"Aperio |Patient = {CANARY}", metadata=None, software=CANARY,
            extratags=[(315, "s", 0, CANARY, True)],
        )  # fmt: skip
        tif.write(label, description=f"label {CANARY}", subfiletype=1, metadata=None)
        tif.write(label, description=f"macro {CANARY}", subfiletype=9, metadata=None)
    (folder / "patients.csv").write_text(CANARY)
    (folder / "squares.seg.zarr.txt").write_text(CANARY)
    write_squares(folder / "squares.seg.zarr")
    (folder / "squares.seg.zarr" / "notes.txt").write_text(CANARY)
    return folder


def fuzzed(shown: str, rng: random.Random) -> Iterator[bytes]:
    """Targets of requests: addresses that exist, bent; ways out of folders; noise."""
    sound = [
        f"/tile/{shown}/slide/{TOP}/1/1", f"/tile/{shown}/labels/{TOP - 2}/0/0?hide=0.3", "/static/view.js", "/",
        f"/view/{shown}", f"/api/{shown}/at/64/64", f"/api/{shown}/state", f"/thumbnail/{shown}", "/api",
        f"/api/{shown}/regions", f"/api/{shown}/agreement/0", f"/difference/{shown}/{shown}/{TOP}/0/0",
    ]  # fmt: skip
    ways = [
        "../", "..%2f", "%2e%2e/", "..\\", "%5c..%5c", "....//", "%00", "/etc/passwd", "patients.csv", "file://", "//",
        "squares.seg.zarr/notes.txt", "squares.tif", "label", "macro", "%c0%ae%c0%ae/", "~", "C:\\", "?", "#", "%", ";",
        "%25", "notes.txt", "provenance.json", "zarr.json", "*", "\u202e", "é", "'", '"', "<script>", "${x}", "9" * 40,
    ]  # fmt: skip
    while True:
        text = rng.choice(sound)
        for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 3, 4))):
            at = rng.randrange(len(text) + 1)
            kind = rng.random()
            if kind < 0.5:
                text = text[:at] + rng.choice(ways) + text[at + rng.randrange(4) :]
            elif kind < 0.8:
                parts = text.split("/")
                parts[rng.randrange(len(parts))] = rng.choice(ways + parts)
                text = "/".join(parts)
            else:
                text = text[:at] + chr(rng.randrange(33, 127)) + text[at + 1 :]
        yield text.replace(" ", "%20").encode() or b"/"


class Line:
    """One connection, opened anew where the server has closed it; requests go out as they are."""

    def __init__(self, where: str) -> None:
        self._place = httpx.URL(where)
        self._socket: socket.socket | None = None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self, target: bytes) -> bytes:
        for _ in range(2):
            if self._socket is None:
                self._socket = socket.create_connection((self._place.host, self._place.port), timeout=30)
            try:
                self._socket.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return self._answer(self._socket)
            except OSError:
                self.close()
        raise AssertionError("the server does not answer")

    def _answer(self, connection: socket.socket) -> bytes:
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._some(connection)
        head, _, body = received.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        while len(body) < int(fields.get(b"content-length", b"0")):
            body += self._some(connection)
        if fields.get(b"connection") == b"close":
            self.close()
        return head + body

    def _some(self, connection: socket.socket) -> bytes:
        part = connection.recv(1 << 16)
        if not part:
            raise OSError("closed")
        return part


def test_ten_thousand_bent_addresses_give_nothing_away(treasure: Path, serve: Callable[..., Any]) -> None:
    gallery = Gallery.open(Wishes([str(treasure / "squares.seg.zarr")]))
    rng = random.Random(11)
    statuses: dict[bytes, int] = {}
    with serve(gallery) as where, closing(Line(where)) as line:
        targets = fuzzed(next(iter(gallery)).id, rng)
        for _ in range(N_FUZZED):
            target = next(targets)
            answer = line.ask(target)
            status = answer[9:12]
            statuses[status] = statuses.get(status, 0) + 1
            assert CANARY.encode() not in answer, target
            assert b"root:" not in answer, target
            assert status != b"500", target
    assert sum(statuses.values()) == N_FUZZED
    assert statuses[b"404"] > N_FUZZED / 3
    assert statuses[b"200"] > N_FUZZED / 20


def test_no_label_or_macro_and_no_metadata_in_anything_that_is_served(
    treasure: Path, serve: Callable[..., Any]
) -> None:
    gallery = Gallery.open(Wishes([str(treasure / "squares.seg.zarr"), str(treasure / "squares.tif")]))
    with serve(gallery) as where, httpx.Client(base_url=where) as client:
        for shown in client.get("/api").json():
            texts = [client.get(f"/api/{shown['id']}").content, client.get("/api").content]
            assert not any(CANARY.encode() in text for text in texts)
            for level in range(TOP + 1):
                tile = rgba(client.get(f"/tile/{shown['id']}/slide/{level}/0/0"))
                assert not (np.abs(tile[..., :3].astype(int) - 7).max(-1) < 3).any()  # the label's colour


def test_what_goes_wrong_is_told_without_names(squares: Result, tmp_path: Path, serve: Callable[..., Any]) -> None:
    result = write_squares(tmp_path / "secret-name.seg.zarr")
    for shard in (tmp_path / "secret-name.seg.zarr/labels/segmentation/0/c").rglob("*"):
        if shard.is_file():
            shard.write_bytes(b"damaged" * 100)
    with serve(Gallery.open(Wishes([str(result.path)]))) as where, httpx.Client(base_url=where) as client:
        answer = client.get(f"/tile/{the_id(client)}/labels/{TOP}/0/0")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert str(tmp_path) not in answer.text
