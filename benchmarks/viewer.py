"""Tiles of the viewer: `python -m benchmarks.viewer [--side 100000]`; milliseconds from the request to the last byte.

A synthetic slide is segmented by a model that returns its input (labels with ragged shapes), and `wsi-seg view` serves
slide and result from a process of its own. Each row asks for random tiles of one layer at one zoom, one after the
other over one connection; no tile twice, so that nothing is kept.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import product
from pathlib import Path
from time import perf_counter

from benchmarks.engine import run, synthetic
from benchmarks.measure import INPUTS, LOG, median, table, wsi_seg
from wsi_seg.geometry import ceil_div
from wsi_seg.viewer.grid import TILE

HEADER = ("layer", "slide px per px", "tiles", "median ms", "90 % ms", "worst ms", "kB")


@contextmanager
def viewer(result: Path, slide: Path) -> Iterator[HTTPConnection]:
    """A connection to `wsi-seg view`."""
    command = wsi_seg("view", result, "--slide", slide, "--port", 0)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = re.search(r":(\d+)/", server.stdout.readline())
        assert found, "the viewer did not start"
        connection = HTTPConnection("127.0.0.1", int(found[1]))
        try:
            yield connection
        finally:
            connection.close()
            server.terminate()


def asked(connection: HTTPConnection, address: str) -> bytes:
    """What the server answers."""
    connection.request("GET", address)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{address}: {answer.status}")
    return content


def timed(connection: HTTPConnection, layer: str, downsample: int, n_tiles: int) -> tuple[str, ...]:
    """A row of the table."""
    shown = json.loads(asked(connection, "/api"))[0]
    rows, columns = (ceil_div(ceil_div(side, downsample), TILE) for side in shown["size"])
    places = list(product(range(rows), range(columns)))
    chosen = random.Random(downsample).sample(places, min(n_tiles, len(places)))
    level, ms, n_bytes = shown["max_level"] - (downsample - 1).bit_length(), [], 0
    for row, column in chosen:
        began = perf_counter()
        n_bytes += len(asked(connection, f"/tile/{shown['id']}/{layer}/{level}/{row}/{column}"))
        ms.append(1e3 * (perf_counter() - began))
    ms.sort()
    figures = median(ms), ms[int(len(ms) * 0.9)], ms[-1]
    return (
        layer,
        str(downsample),
        str(len(ms)),
        *(f"{value:.1f}" for value in figures),
        f"{n_bytes / len(ms) / 1e3:.0f}",
    )


def measured(side: int, n_tiles: int) -> list[tuple[str, ...]]:
    """Rows for the slide and the labels, from the finest zoom to the whole slide."""
    slide = synthetic(side)
    run(slide, "--model", "identity", "--no-skip")
    zooms = [1]
    while side / zooms[-1] > TILE:
        zooms.append(zooms[-1] * 2)
    with viewer(INPUTS / "result.seg.zarr", slide) as connection:
        timed(connection, "labels", 1, 3)  # the first answers load libraries
        return [timed(connection, layer, zoom, n_tiles) for layer in ("slide", "labels") for zoom in zooms]


def main() -> None:
    """Measure and log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=100_000, help="of the slide, px")
    parser.add_argument("--tiles", type=int, default=60, help="asked for in each row")
    parser.add_argument("--log", type=Path, default=LOG)
    wanted = parser.parse_args()
    rows = measured(wanted.side, wanted.tiles)
    print(table(f"tiles of the viewer, {wanted.side:,}²", HEADER, rows, wanted.log))


if __name__ == "__main__":
    main()
