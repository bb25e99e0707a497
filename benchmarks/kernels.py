"""Speed of every kernel on one thread, C = 3, tiles of 512: `python -m benchmarks.kernels [--log FILE]` prints tables.

Accumulating is bound by memory: its share of the rate at which memory is copied is told, with bytes as they must move:
a tile's values read, the canvas read and written.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.measure import LOG, median, table

C, TILE, OVERLAP, BLOCK = 3, 512, 128, 2048
Case = tuple[str, int, Callable[[], object]]
"""Name, pixels (of the input, all channels together) and what to time."""


def blend_cases(rng: np.random.Generator) -> Iterator[Case]:
    import wsi_kernels as k

    probabilities = rng.random((C, TILE, TILE), np.float32)
    tile = np.empty(probabilities.shape, np.uint16)
    canvas = np.zeros((C, BLOCK, BLOCK), np.uint32)
    yield "quantise", TILE**2, lambda: k.quantise(probabilities, tile)
    places = [
        (y, x) for y in range(0, BLOCK - TILE + 1, TILE - OVERLAP) for x in range(0, BLOCK - TILE + 1, TILE - OVERLAP)
    ]
    for kind, overlap in (("cosine", OVERLAP), ("crop", 2 * OVERLAP)):
        window = k.axis_window(TILE, overlap, kind, first=False, last=False)

        def tiles(window: np.ndarray = window) -> None:
            canvas[:, 0, 0] = 0
            for y, x in places:
                k.accumulate(canvas, tile, window, window, y, x)

        def fused(window: np.ndarray = window) -> None:
            canvas[:, 0, 0] = 0
            for y, x in places:
                k.accumulate_probabilities(canvas, probabilities, window, window, y, x)

        yield f"accumulate, {kind} {overlap}", TILE**2 * len(places), tiles
        yield f"accumulate_probabilities, {kind} {overlap}", TILE**2 * len(places), fused


def label_cases(rng: np.random.Generator) -> Iterator[Case]:
    import wsi_kernels as k

    canvas = rng.integers(0, 65535 * 65536, (C, BLOCK, BLOCK), dtype=np.uint32)
    labels, probabilities = np.zeros((BLOCK, BLOCK), np.uint8), np.empty((C, BLOCK, BLOCK), np.uint8)
    mixed = rng.integers(0, C, labels.shape, dtype=np.uint8)
    pixels = BLOCK**2
    yield "label_argmax", pixels, lambda: k.label_argmax(canvas, labels)
    tile = rng.random((C, TILE, TILE), np.float32)
    yield "label_probabilities", TILE**2, lambda: k.label_probabilities(tile, 0.5, labels[:TILE, :TILE])
    yield "label_threshold, C = 1", pixels, lambda: k.label_threshold(canvas[:1], 0.5, labels)
    yield "probabilities_uint8", pixels, lambda: k.probabilities_uint8(canvas, probabilities)
    yield "count_labels, mixed", pixels, lambda: k.count_labels(mixed, C)
    yield "halve_majority, mixed", pixels, lambda: k.halve_majority(mixed, 255, C)
    yield "halve_mean", pixels, lambda: k.halve_mean(probabilities, mixed, 255)


def pixel_cases(rng: np.random.Generator) -> Iterator[Case]:
    import wsi_kernels as k

    source = rng.integers(0, 256, (BLOCK, BLOCK, 3), dtype=np.uint8)
    for factor in (2.0, 4.0, 1.9992, 1.002):
        side = int((BLOCK - 1) / factor)
        box = (0, 0, side, side)
        _, _, height, width = k.area_source_box(box, (factor, factor))
        yield (
            f"area_resample, {factor:g}",
            height * width,
            lambda f=factor, b=box: k.area_resample(source, (0, 0), (f, f), b),
        )
    batch = source.reshape(-1, TILE, TILE, 3)
    ones, planar = np.ones(3, np.float32), np.empty((len(batch), 3, TILE, TILE), np.float32)
    pixels = batch.size // 3
    yield "pack_nchw", pixels, lambda: k.pack_nchw(batch, ones, ones, False, planar)
    yield "pack_nhwc", pixels, lambda: k.pack_nhwc(batch, ones, ones, False, planar.reshape(batch.shape))
    yield "tissue_mask", pixels, lambda: k.tissue_mask(source)
    angle = np.linspace(0, 2 * np.pi, 400)
    ring = BLOCK / 2 + np.stack([np.sin(angle), np.cos(angle)], 1) * 0.45 * BLOCK
    yield "fill_polygons", BLOCK**2, lambda: k.fill_polygons([ring], (0, 0, BLOCK, BLOCK))


def best_s(run: Callable[[], object], repeats: int = 5) -> float:
    """Shortest of some runs after a warm-up, s."""
    run()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return min(times)


def roofline(rng: np.random.Generator, rounds: int = 7) -> list[tuple[str, ...]]:
    """Rows (kernel, GB/s, GB/s of a copy of the canvas, share): copy and kernel in turns, medians of the rounds."""
    cases = {name: run for name, _, run in blend_cases(rng) if name.endswith(f"cosine {OVERLAP}")}
    n_values = C * TILE**2 * len(range(0, BLOCK - TILE + 1, TILE - OVERLAP)) ** 2
    moved = {"accumulate": n_values * (2 + 8), "accumulate_probabilities": n_values * (4 + 8)}
    source, target = np.ones((C, BLOCK, BLOCK), np.uint32), np.zeros((C, BLOCK, BLOCK), np.uint32)
    rows = []
    for name, run in cases.items():
        rates, copies = [], []
        for _ in range(rounds):
            copies.append(2 * source.nbytes / best_s(lambda: np.copyto(target, source), 3) / 1e9)
            rates.append(moved[name.split(",")[0]] / best_s(run, 3) / 1e9)
        shares = [rate / copy for rate, copy in zip(rates, copies, strict=True)]
        rows.append((name, f"{median(rates):.1f}", f"{median(copies):.1f}", f"{100 * median(shares):.0f} %"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, default=LOG)
    log = parser.parse_args().log
    rng = np.random.default_rng(0)
    rows = []
    for cases in (blend_cases, label_cases, pixel_cases):
        for name, pixels, run in cases(rng):
            seconds = best_s(run)
            rows.append((name, f"{pixels / seconds / 1e6:.0f}", f"{seconds * 1e3:.2f}"))
    print(table("kernels, one thread, C = 3, tiles of 512", ("kernel", "Mpx/s", "ms"), rows, log))
    header = ("kernel", "GB/s", "GB/s of copying the canvas", "share")
    print(table("accumulating against memory, one thread", header, roofline(rng), log))


if __name__ == "__main__":
    main()
