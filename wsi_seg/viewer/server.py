"""The server: which addresses there are, and what each answers.

Owns HTTP. Every address is made of fixed words, an opaque id and numbers; nothing in it is ever a path. What goes
wrong is told to the log on this machine; the browser gets a number and no words that could hold a name or a path.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from wsi_seg.errors import WsiSegError
from wsi_seg.viewer.gallery import Gallery
from wsi_seg.viewer.grid import ViewBox
from wsi_seg.viewer.regions import MAX_BYTES
from wsi_seg.viewer.shown import Picked, Shown

_log = logging.getLogger(__name__)

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".png": "image/png", ".txt": "text/plain"}
_MAX_DIGITS = 9
_KEPT = {"Cache-Control": "private, max-age=86400, immutable"}
"""For addresses that name the version of what was read: ids are new with every server, so nothing old can be shown."""


class _Json(JSONResponse):
    """JSON in ASCII: names of files may hold bytes that are no UTF-8, and those no UTF-8 can say."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


Handler = Callable[[Request], Response]


def make_app(gallery: Gallery) -> Starlette:
    """The application that shows a gallery; `guard.Guard` goes around it."""
    pages = _Pages(gallery)
    routes = [
        Route("/", pages.front),
        Route("/view/{id}", pages.view),
        Route("/static/{name}", pages.static),
        Route("/api", pages.all),
        Route("/api/{id}", pages.one),
        Route("/api/{id}/state", pages.state),
        Route("/api/{id}/at/{y}/{x}", pages.at),
        Route("/api/{id}/look/{y0}/{x0}/{y1}/{x1}", pages.look),
        Route("/api/{id}/agreement/{other}", pages.agreement),
        Route("/api/{id}/regions", pages.regions),
        Route("/api/{id}/regions", pages.save_regions, methods=["PUT"]),
        Route("/thumbnail/{id}", pages.thumbnail),
        Route("/tile/{id}/{layer}/{level}/{row}/{column}", pages.tile),
        Route("/difference/{id}/{other}/{level}/{row}/{column}", pages.difference),
    ]
    handlers: dict[Any, Any] = {KeyError: _not_found, WsiSegError: _failed, Exception: _failed, HTTPException: _refused}
    return Starlette(routes=routes, exception_handlers=handlers)


class _Pages:
    """What each address answers; plain functions, which Starlette runs in threads."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery, self._static = gallery, _static_files()

    def front(self, _: Request) -> Response:
        """The gallery; where there is one thing to see, that."""
        self._gallery.refresh()
        shown = list(self._gallery)
        if len(shown) == 1:
            return RedirectResponse(f"view/{shown[0].id}", 303)
        return self._file("gallery.html")

    def view(self, request: Request) -> Response:
        """The page of one thing."""
        _ = self._shown(request)
        return self._file("view.html")

    def static(self, request: Request) -> Response:
        """A file of the page: one of those that were read at the start."""
        return self._file(request.path_params["name"])

    def all(self, _: Request) -> Response:
        """Everything there is to see."""
        self._gallery.refresh()
        found = []
        for shown in self._gallery:
            with suppress(WsiSegError):  # removed or damaged since; the others are there still
                found.append(shown.describe())
        return _Json(found)

    def one(self, request: Request) -> Response:
        """Everything about one thing, and what it can be compared with."""
        shown = self._shown(request)
        others = [
            {"id": other.id, "name": other.name, "result": other.result}
            for other in self._gallery
            if other is not shown and other.labels is not None and other.l0_size == shown.l0_size
        ]
        return _Json({**shown.describe(), "others": others, "n_shown": len(list(self._gallery))})

    def state(self, request: Request) -> Response:
        """How far it is."""
        return _Json(self._shown(request).state())

    def at(self, request: Request) -> Response:
        """Class at a level-0 px."""
        shown, (y, x) = self._shown(request), _numbers(request, "y", "x")
        if y >= shown.l0_size[0] or x >= shown.l0_size[1]:
            raise KeyError((y, x))
        return _Json(shown.at(y, x))

    def look(self, request: Request) -> Response:
        """Tell what is in sight, level-0 px, so that it is predicted."""
        predict = self._shown(request).predict_in
        if predict is None:
            raise KeyError("live")
        y0, x0, y1, x1 = _numbers(request, "y0", "x0", "y1", "x1")
        page = str(_number(request.query_params.get("page", "0")))
        return _Json({"to_come": predict((y0, x0, y1, x1), page)})

    def agreement(self, request: Request) -> Response:
        """How far two label maps agree."""
        return _Json(self._shown(request).agreement(self._gallery[request.path_params["other"]]))

    def regions(self, request: Request) -> Response:
        """The regions in the user's file."""
        kept = self._shown(request).regions
        if kept is None:
            raise KeyError("regions")
        return _Json(kept.load())

    async def save_regions(self, request: Request) -> Response:
        """Replace the regions in the user's file; only for pages of this server."""
        from starlette.concurrency import run_in_threadpool

        kept = self._shown(request).regions
        if kept is None or request.headers.get("content-type", "") != "application/geo+json":
            raise KeyError("regions")  # the type is none that a form elsewhere could send
        if int(request.headers.get("content-length", MAX_BYTES + 1)) > MAX_BYTES:
            raise HTTPException(413)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BYTES:
                raise HTTPException(413)
        return _Json({"n": await run_in_threadpool(kept.save, bytes(body))})

    def thumbnail(self, request: Request) -> Response:
        """All of it, small."""
        return _answer(self._shown(request).thumbnail(), keep=False)

    def tile(self, request: Request) -> Response:
        """A tile of a layer."""
        shown, layer = self._shown(request), request.path_params["layer"]
        picked = shown.layer_tile(layer, _view(shown, request), _hidden(request), _colours(request))
        return _answer(picked, keep=layer == "slide" or shown.is_of(request.query_params.get("v", "")))

    def difference(self, request: Request) -> Response:
        """A tile of what differs between two label maps."""
        shown, other = self._shown(request), self._gallery[request.path_params["other"]]
        picked = shown.difference_tile(other, _view(shown, request))
        versions = (request.query_params.get(name, "") for name in ("v", "w"))
        return _answer(picked, keep=all(map(Shown.is_of, (shown, other), versions)))

    def _shown(self, request: Request) -> Shown:
        return self._gallery[request.path_params["id"]]

    def _file(self, name: str) -> Response:
        content, media_type = self._static[name]
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})


def _static_files() -> dict[str, tuple[bytes, str]]:
    """All files of the page, by name."""
    found = {}
    for file in files("wsi_seg.viewer").joinpath("static").iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in _TYPES:
            found[file.name] = (file.read_bytes(), _TYPES[suffix])
    return found


def _view(shown: Shown, request: Request) -> ViewBox:
    return shown.grid.tile(*_numbers(request, "level", "row", "column"))


def _hidden(request: Request) -> set[int]:
    """Classes that are not to be seen: `?hide=1.4`."""
    return {_number(part) for part in request.query_params.get("hide", "").split(".") if part}


def _colours(request: Request) -> dict[int, str]:
    """Colours that the page wants for classes: `?colours=1-ff0000.2-00aa88`."""
    found = {}
    for part in filter(None, request.query_params.get("colours", "").split(".")):
        index, _, colour = part.partition("-")
        if not re.fullmatch(r"[0-9a-fA-F]{6}", colour, re.ASCII):
            raise KeyError(part)
        found[_number(index)] = f"#{colour}"
    return found


def _numbers(request: Request, *names: str) -> list[int]:
    return [_number(request.path_params[name]) for name in names]


def _number(text: str) -> int:
    """A whole number from 0 in ASCII digits, few of them. Raises KeyError."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise KeyError(text)
    return int(text)


def _answer(picked: Picked, *, keep: bool) -> Response:
    return Response(picked.content, media_type=picked.media_type, headers=_KEPT if keep else None)


def _not_found(_: Request, __: Exception) -> Response:
    return PlainTextResponse("there is no such thing here", 404)


def _refused(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 400
    return PlainTextResponse("no", status)


def _failed(request: Request, error: Exception) -> Response:
    _log.warning("%s %s: %s", request.method, request.url.path, error)
    return PlainTextResponse("it failed; the terminal of `wsi-seg view` says why", 500)
