"""`--decode fast` against exact: `python -m benchmarks.decoding [SLIDE ...]`; prints tables and appends them to LOG.md.

* pixels: level 0 brought to 1/2, 1/4 and 1/8, one thread, in turns within each round, medians of the rounds; the same
  canvas by the area average of whole tiles and by reduced decoding, and how far the two are apart.
* labels: whole runs of the default model at 0.5 um/px over slides taken as 0.25 um/px, decoded in both ways.

Without files, a synthetic slide without a pyramid is made: where a level is stored, none is made by decoding. CPU
seconds of the thread are counted: waiting is nobody's merit.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import thread_time

import numpy as np
from numpy.typing import NDArray

from benchmarks import engine
from benchmarks.measure import LOG, median, table
from wsi_seg.errors import WsiSegError
from wsi_seg.geometry import Box, Mpp
from wsi_seg.output.label_store import open_result
from wsi_seg.plan import Scale, choose_scale
from wsi_seg.slide import Slide, open_slide
from wsi_seg.slide.canvas import read_canvas

UM = 0.25
"""Resolution that level 0 of every slide is taken to have, um/px."""
WHITE = (255, 255, 255)
PIXELS = ("slide", "part", "exact, Mpx/s", "fast, Mpx/s", "fast / exact", "PSNR, dB", "largest difference")
LABELS = ("slide", "labels that differ", "Dice of class 1", "exact, CPU s", "fast, CPU s")


def without_pyramid(side: int) -> Path:
    """A synthetic slide of side x side px with one level of JPEG tiles, 4:2:0, made once."""
    import tifffile

    path = engine.INPUTS / f"one-level-{side}.tif"
    if not path.exists():
        slide = open_slide(engine.synthetic(side))
        pixels = slide.read_region(Box(0, 0, *slide.levels[0].size), 0)
        options = {"compression": "jpeg", "compressionargs": {"level": 85}, "subsampling": (2, 2), "photometric": "rgb"}
        tifffile.imwrite(path, pixels, tile=(256, 256), metadata=None, **options)
    return path


def _canvas(path: Path, reduction: int, decode: str) -> tuple[Slide, Scale]:
    slide = open_slide(path, mpp=UM, decode=decode)
    return slide, choose_scale(slide.levels, Mpp(UM, UM), slide.bounds, UM * reduction)


def boxes(slide: Slide, scale: Scale, reduction: int, most_px: float) -> list[Box]:
    """Canvas boxes of about 2,048 px of level 0, whole tiles each, `most_px` of level 0 altogether, spread over it."""
    tile = slide.levels[0].tile or (256, 256)
    height, width = (max(1, 2048 // side) * side // reduction for side in tile)
    whole = Box(0, 0, *scale.canvas_size)
    found = [
        Box.at(y, x, height, width).intersect(whole)
        for y in range(0, whole.height, height)
        for x in range(0, whole.width, width)
    ]
    return found[:: max(1, round(len(found) * height * width * reduction**2 / most_px))]


def measured(path: Path, reduction: int, rounds: int, most_px: float = 30e6) -> tuple[str, ...]:
    """A row of the table of pixels; dashes where the slide offers no such reduction."""
    exact, fast = (_canvas(path, reduction, decode) for decode in ("exact", "fast"))
    if fast[1].reduction != reduction:
        return (path.name, f"1/{reduction}", *("-",) * 5)
    found = boxes(*exact, reduction, most_px)
    n_px = sum(box.height * box.width for box in found) * reduction**2 / 1e6
    ways: dict[str, Callable[[], list[NDArray[np.uint8]]]] = {
        "exact": lambda: [read_canvas(*exact, box, WHITE) for box in found],
        "fast": lambda: [read_canvas(*fast, box, WHITE) for box in found],
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    pixels: dict[str, list[NDArray[np.uint8]]] = {}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = thread_time()
            pixels[name] = way()
            if number:  # the first round opens files and loads libraries
                rates[name].append(n_px / max(1e-9, thread_time() - began))
    pairs = zip(pixels["exact"], pixels["fast"], strict=True)
    apart = np.concatenate([np.abs(one.astype(np.int16) - other).ravel() for one, other in pairs])
    noise = float(np.square(apart, dtype=np.float64).mean())
    return (
        path.name,
        f"1/{reduction}",
        f"{median(rates['exact']):.0f}",
        f"{median(rates['fast']):.0f}",
        f"{median([ours / other for ours, other in zip(rates['fast'], rates['exact'], strict=True)]):.2f}",
        f"{10 * np.log10(255**2 / max(noise, 1e-9)):.1f}",
        f"{apart.max()}",
    )


def labels(path: Path) -> tuple[str, ...]:
    """A row of the table of labels: two whole runs, start to finished result."""
    found, seconds = [], []
    for decode in ("exact", "fast"):
        seconds.append(engine.run(path, "--mpp", UM, "--decode", decode)[0].cpu_s)
        found.append(np.asarray(open_result(engine.INPUTS / "result.seg.zarr").labels(0)[:]))
    analysed = found[0] != 255
    one, other = (labels_[analysed] for labels_ in found)
    n_both, n_each = ((one == 1) & (other == 1)).sum(), (one == 1).sum() + (other == 1).sum()
    dice = 2 * n_both / n_each if n_each else 1.0
    return path.name, f"{100 * (one != other).mean():.3f} %", f"{dice:.4f}", *(f"{each:.1f}" for each in seconds)


def main() -> None:
    """Measure the files given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=8192, help="of the synthetic slide, px")
    parser.add_argument("--log", type=Path, default=LOG)
    asked = parser.parse_args()
    pixels, of_labels = [], []
    for path in asked.slides or [without_pyramid(asked.side)]:
        try:
            pixels += [measured(path, reduction, asked.rounds) for reduction in (2, 4, 8)]
            of_labels.append(labels(path))
        except WsiSegError as error:
            print(f"{path.name}: {error.what}")
    print(table("fast decoding, one thread, Mpx of level 0 per CPU second", PIXELS, pixels, log=asked.log))
    print(table(f"labels of the default model, slides taken as {UM} um/px", LABELS, of_labels, log=asked.log))


if __name__ == "__main__":
    main()
