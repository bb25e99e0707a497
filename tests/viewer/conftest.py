"""A slide, results of it, and servers of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
import uvicorn

from tests.viewer.making import write_slide, write_squares
from wsi_seg.output.label_store import Result
from wsi_seg.viewer.gallery import Gallery, Wishes
from wsi_seg.viewer.serving import Address, bound, guarded_app


@pytest.fixture(scope="session")
def squares_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("squares") / "squares.tif")


@pytest.fixture(scope="session")
def squares(squares_slide: Path) -> Result:
    """The result beside its slide."""
    return write_squares(squares_slide.with_name("squares.seg.zarr"))


@contextmanager
def served(gallery: Gallery, **address: Any) -> Iterator[str]:
    """The address, with its token, of a server in a thread; where its socket and guard are those of the command."""
    wanted = Address(**{"port": 0, **address})
    listener = bound(wanted)
    app, where = guarded_app(gallery, wanted, listener.getsockname()[1])
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", server_header=False, lifespan="off"))
    thread = Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    end = monotonic() + 30
    while not server.started and monotonic() < end:
        sleep(0.01)
    try:
        yield where
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    return served


@pytest.fixture(scope="module")
def gallery(squares: Result) -> Gallery:
    return Gallery.open(Wishes([str(squares.path)]))


@pytest.fixture(scope="module")
def client(gallery: Gallery) -> Iterator[httpx.Client]:
    with served(gallery) as where, httpx.Client(base_url=where) as client:
        yield client
