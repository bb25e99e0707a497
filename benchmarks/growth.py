"""How cost grows: `python -m benchmarks.growth [area] [classes] [overlap] [workers] [tiling]`; tables, also in LOG.md.

* area: 5k, 10k, 20k and 40k px squared, a model that returns its input.
* classes: 2 to 20, a 1 x 1 convolution: the network's own share grows with its outputs.
* overlap: 0 to 50 % of a tile, blended: what it costs more is more tiles, and little more for each.
* workers: 1 and 2.
* tiling: U-Net of 16 channels in bf16 (--precision), slide Mpx/s by tile and overlap, exact and not, and what the plan
  chooses by itself.

Every figure is of whole processes, medians of --repeats; memory is the peak of the process.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import networks
from benchmarks.engine import run, synthetic
from benchmarks.measure import INPUTS, LOG, Cost, median, table

_HEADER = ("wall s", "working s", "CPU s", "CPU ms per predicted tile", "slide Mpx/s, whole process", "peak MB")


def areas(sides: Sequence[int], repeats: int) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """Cost against the slide's area."""
    rows = [(f"{side:,}²", *_measured(side, repeats, "--model", "identity")) for side in sides]
    return "cost against area, identity model", ("slide", *_HEADER), rows


def classes(counts: Sequence[int], side: int, repeats: int) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """Cost against the number of classes."""
    rows = []
    for count in counts:
        model = networks.null(INPUTS / f"null-{count}.onnx", n_classes=count)
        rows.append((str(count), *_measured(side, repeats, "--model", model)))
    return f"cost against classes, 1 x 1 convolution, {side:,}²", ("classes", *_HEADER), rows


def overlaps(values: Sequence[int], side: int, repeats: int) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """Cost against the overlap, tiles of 512 px, cosine window."""
    rows = []
    for value in values:
        options = ("--model", "identity", "--tile", 512, "--overlap", value, "--window", "cosine")
        rows.append((f"{value} ({100 * value / 512:.0f} %)", *_measured(side, repeats, *options)))
    return f"cost against overlap, identity model, {side:,}², tile 512", ("overlap, px", *_HEADER), rows


def workers(counts: Sequence[int], side: int, repeats: int) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """Cost against the number of worker threads."""
    rows = [(str(n), *_measured(side, repeats, "--model", "identity", "--workers", n)) for n in counts]
    return f"cost against workers, identity model, {side:,}²", ("workers", *_HEADER), rows


def tilings(precision: str, side: int, repeats: int) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """Slide Mpx/s of a U-Net by tile and overlap."""
    shape = networks.UnetShape(base_channels=16, depth=4, tile_size=512)
    model = networks.unet(INPUTS / "unet16.onnx", shape)
    exact = 2 * -(-networks.unet_halo(4) // 16) * 16
    rows = []
    for tile, overlap in ((512, 64), (512, exact), (1024, 64), (1024, exact), (2048, 64), (2048, exact), (None, None)):
        options: tuple[object, ...] = ("--model", model, "--precision", precision)
        if tile is not None:
            options += ("--tile", tile, "--overlap", overlap)
        name = "chosen by the plan" if tile is None else f"{tile}, {overlap}"
        exactness = "yes" if overlap in (exact, None) else "no"
        rows.append((name, exactness, *_measured(side, repeats, *options)))
    return f"U-Net of 16 channels, {precision}, {side:,}²", ("tile, overlap", "exact", *_HEADER), rows


def _measured(side: int, repeats: int, *options: object) -> tuple[str, ...]:
    slide = synthetic(side)
    results: list[tuple[Cost, dict[str, Any]]] = [run(slide, "--no-skip", *options) for _ in range(repeats)]
    costs = [cost for cost, _ in results]
    wall_s, cpu_s = median([cost.wall_s for cost in costs]), median([cost.cpu_s for cost in costs])
    working_s = median([summary["performance"]["seconds_working"] for _, summary in results])
    n_tiles = results[0][1]["performance"]["n_predicted"]
    return (
        f"{wall_s:.2f}",
        f"{working_s:.2f}",
        f"{cpu_s:.2f}",
        f"{1e3 * cpu_s / n_tiles:.2f}",
        f"{side * side / 1e6 / wall_s:.1f}",
        f"{max(cost.peak_mb for cost in costs):.0f}",
    )


def main() -> None:
    """Run the benchmarks asked for; all of them by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", type=int, default=20_480, help="of the slide, px, where it is not what grows")
    parser.add_argument("--sides", type=int, nargs="+", default=[5_120, 10_240, 20_480, 40_960])
    parser.add_argument("--precision", default="bf16", help="of the U-Net")
    parser.add_argument("--log", type=Path, default=LOG)
    asked = parser.parse_args()
    known: dict[str, Callable[[], tuple[str, tuple[str, ...], list[tuple[str, ...]]]]] = {
        "area": lambda: areas(asked.sides, asked.repeats),
        "classes": lambda: classes((2, 3, 5, 10, 20), asked.side, asked.repeats),
        "overlap": lambda: overlaps((0, 64, 128, 192, 256), asked.side, asked.repeats),
        "workers": lambda: workers((1, 2), asked.side, asked.repeats),
        "tiling": lambda: tilings(asked.precision, min(asked.side, 10_240), asked.repeats),
    }
    if unknown := set(asked.which) - known.keys():
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(known)}")
    for name in asked.which or known:
        print(table(*known[name](), asked.log))


if __name__ == "__main__":
    main()
