"""Reading against its limit: `python -m benchmarks.reader [SLIDE ...]`; prints a table and appends it to LOG.md.

Level 0, one thread, regions on the file's own tile grid, in turns within each round, medians of the rounds:

* decode: the stored tiles, already in memory, through the file's codec into one buffer. The limit.
* ours: `Slide.read_region` into one array.
* OpenSlide: `read_region` and the removal of its alpha channel, where it opens the file; opened anew in every round, or
  its cache would answer.

Without files, a synthetic slide is made. CPU seconds of the thread are counted: waiting is nobody's merit.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from time import thread_time

import numpy as np
import simplejpeg

from benchmarks.engine import synthetic
from benchmarks.measure import LOG, median, table
from wsi_seg.errors import WsiSegError
from wsi_seg.geometry import Box
from wsi_seg.slide import Slide, open_slide
from wsi_seg.slide.tiff_layout import read_layout
from wsi_seg.slide.tile_codec import JPEG

Way = Callable[[], object]


def boxes(slide: Slide, side: int, most_px: float) -> list[Box]:
    """Regions of about `side` px, whole tiles each, of a slide's level 0, `most_px` altogether, spread over it."""
    tile = slide.levels[0].tile or (side, side)
    height, width = (max(1, side // edge) * edge for edge in tile)
    rows, columns = (max(1, extent // step) for extent, step in zip(slide.levels[0].size, (height, width), strict=True))
    found = [
        Box.at(row * height, column * width, height, width).intersect(Box(0, 0, *slide.levels[0].size))
        for row in range(rows)
        for column in range(columns)
    ]
    return found[:: max(1, round(len(found) * height * width / most_px))]


def ways(path: Path, side: int, most_px: float) -> tuple[int, dict[str, Way]]:
    """Pixels of a round and what is to be timed, by name. Raises WsiSegError where it is no TIFF of plain tiles."""
    slide = open_slide(path, mpp=None, reader="tiff")
    regions = boxes(slide, side, most_px)
    n_px = sum(region.height * region.width for region in regions)
    found: dict[str, Way] = {"decode": _decoding(path, regions)}
    outs = {region.size: np.empty((*region.size, 3), np.uint8) for region in regions}

    def ours() -> None:
        for region in regions:
            slide.read_region(region, 0, outs[region.size])

    found["ours"] = ours
    try:
        import openslide

        openslide.OpenSlide(path)
    except Exception:  # whatever OpenSlide has against the file
        return n_px, found

    def openslides() -> None:
        other = openslide.OpenSlide(path)
        for region in regions:
            image = other.read_region((region.x0, region.y0), 0, (region.width, region.height))
            outs[region.size][...] = np.asarray(image)[..., :3]

    return n_px, found | {"OpenSlide": openslides}


def _decoding(path: Path, regions: list[Box]) -> Way:
    table_ = read_layout(path).tables[0]
    height, width = table_.tile

    def stored() -> Iterator[tuple[bytes, tuple[int, int]]]:
        with path.open("rb") as file:
            for region in regions:
                for row in range(region.y0 // height, -(-region.y1 // height)):
                    for column in range(region.x0 // width, -(-region.x1 // width)):
                        file.seek(int(table_.offsets[0, row, column]))
                        yield file.read(int(table_.counts[0, row, column])), table_.tile_size(row)

    payloads = list(stored())
    if table_.codec.compression != JPEG:
        return lambda: [table_.codec.decode(payload, size) for payload, size in payloads]
    whole = [table_.codec.jpeg_prefix + payload[2:] for payload, _ in payloads]
    buffer = np.empty((height, width, 3), np.uint8)
    return lambda: [simplejpeg.decode_jpeg(payload, "RGB", buffer=buffer) for payload in whole]


def measured(path: Path, side: int, rounds: int, most_px: float = 60e6) -> tuple[str, ...]:
    """A row of the table."""
    n_px, compared = ways(path, side, most_px)
    rates: dict[str, list[float]] = {name: [] for name in compared}
    for number in range(rounds + 1):
        for name, way in compared.items():
            began = thread_time()
            way()
            if number:  # the first round opens files and fills caches
                rates[name].append(n_px / 1e6 / max(1e-9, thread_time() - began))
    paired = [ours / limit for ours, limit in zip(rates["ours"], rates["decode"], strict=True)]
    slower = [ours / other for ours, other in zip(rates["ours"], rates.get("OpenSlide", []), strict=False)]
    return (
        path.name,
        f"{side}",
        f"{median(rates['decode']):.0f}",
        f"{median(rates['ours']):.0f}",
        f"{median(rates['OpenSlide']):.0f}" if slower else "-",
        f"{100 * median(paired):.0f} %",
        f"{median(slower):.1f}" if slower else "-",
    )


HEADER = ("slide", "region, px", "decode, Mpx/s", "ours", "OpenSlide", "ours / decode", "ours / OpenSlide")


def main() -> None:
    """Measure the files given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--side", type=int, action="append", help="of the regions, px; may be repeated")
    parser.add_argument("--log", type=Path, default=LOG)
    asked = parser.parse_args()
    rows = []
    for path in asked.slides or [synthetic(20_480)]:
        try:
            rows += [measured(path, side, asked.rounds) for side in asked.side or (1024, 2048)]
        except WsiSegError as error:
            print(f"{path.name}: {error.what}")
    print(table("reading level 0, one thread, Mpx per CPU second", HEADER, rows, log=asked.log))


if __name__ == "__main__":
    main()
