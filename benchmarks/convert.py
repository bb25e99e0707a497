"""Conversions of one large result: `python -m benchmarks.convert [--side 20480]`; time, peak memory, exactness.

The result is written straight into a label store, without slide or model: two classes of tissue with ragged borders and
holes, and nuclei strewn over them, some across the borders of blocks. Each conversion is a process of its own. What is
said of the polygons is measured on the GeoJSON file itself, read line by line: their number, how many are not valid,
and the area of each class against the mask's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from wsi_kernels import count_labels, halve_majority

from benchmarks.measure import LOG, cost_of, table, wsi_seg
from wsi_seg.card import named_classes
from wsi_seg.geometry import Box, Mpp, PyramidLayout, ceil_div
from wsi_seg.output.commit import commit_run
from wsi_seg.output.label_store import Result, create_result, open_result
from wsi_seg.output.result_spec import ResultSpec, Thumbnail
from wsi_seg.output.run_directory import RunIdentity, open_run
from wsi_seg.output.shard_writer import ResultWriter
from wsi_seg.output.status import TileStatus
from wsi_seg.output.summary import make_summary

CLASSES = ("background", "stroma", "tumour", "nuclei")
BLOCK = 1024
_NUCLEUS, _MARGIN = 12, 32
"""Mean radius of a nucleus, and more than its largest, px."""
_PX_PER_NUCLEUS = 1600


def labels_of(box: Box, seed: int = 0) -> NDArray[np.uint8]:
    """Labels of a box; a function of the place alone, so that blocks fit each other."""
    y, x = np.mgrid[box.y0 : box.y1, box.x0 : box.x1].astype(np.float32)
    ragged = _waves(y, x, seed) + 0.25 * _waves(7 * y, 7 * x, seed + 1) + 0.08 * _waves(60 * y, 60 * x, seed + 2)
    labels = np.where(ragged > 0.55, 2, np.where(ragged > -0.35, 1, 0)).astype(np.uint8)
    labels[_waves(5 * y, 5 * x, seed + 3) > 1.35] = 255
    tissue = (labels == 1) | (labels == 2)
    labels[_nuclei(box, seed) & tissue] = 3
    return labels


def _waves(y: NDArray[np.float32], x: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    total = np.zeros(y.shape, np.float32)
    for turn, length, phase in rng.uniform((0, 1500, 0), (np.pi, 5000, 2 * np.pi), (5, 3)):
        total += np.sin((y * np.sin(turn) + x * np.cos(turn)) * np.float32(2 * np.pi / length) + np.float32(phase)) / 2
    return total


def _nuclei(box: Box, seed: int) -> NDArray[np.bool_]:
    """Ellipses strewn cell by cell of a grid, so that the neighbours of a box are known."""
    cell = 256
    found = np.zeros(box.size, np.bool_)
    for row in range((box.y0 - _MARGIN) // cell, (box.y1 + _MARGIN) // cell + 1):
        for column in range((box.x0 - _MARGIN) // cell, (box.x1 + _MARGIN) // cell + 1):
            rng = np.random.default_rng((seed, row + 4, column + 4))
            for cy, cx, turn, ratio, size in rng.random((cell * cell // _PX_PER_NUCLEUS, 5)):
                centre = (row + cy) * cell - box.y0, (column + cx) * cell - box.x0
                _draw(found, centre, np.pi * turn, (_NUCLEUS * (0.6 + 0.8 * size), 0.5 + 0.5 * ratio))
    return found


def _draw(found: NDArray[np.bool_], centre: tuple[float, float], turn: float, shape: tuple[float, float]) -> None:
    radius, ratio = shape
    low = [max(0, int(c - radius)) for c in centre]
    high = [min(size, int(c + radius) + 2) for c, size in zip(centre, found.shape, strict=True)]
    if low[0] >= high[0] or low[1] >= high[1]:
        return
    y, x = np.mgrid[low[0] : high[0], low[1] : high[1]]
    dy, dx = y - centre[0], x - centre[1]
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    found[low[0] : high[0], low[1] : high[1]] |= along**2 + (across / ratio) ** 2 < radius**2


def make_result(out: Path, side: int) -> Result:
    """Write a finished result of `side` px."""
    spec = ResultSpec(
        PyramidLayout((side, side), BLOCK), Mpp(0.5, 0.5), Mpp(0.25, 0.25), (64.0, 128.0), (2 * side + 200,) * 2,
        (64, 128), named_classes(list(CLASSES)), 255, False, len(CLASSES), "made.svs", (ceil_div(side, BLOCK),) * 2,
    )  # fmt: skip
    run = open_run(out, RunIdentity("c" * 64, {"made": side}), lambda *_: [])
    create_result(run.path, spec)
    writer, layout, counts = ResultWriter(run.path, spec), spec.layout, np.zeros(256, np.int64)
    for tier in range(layout.n_tiers):
        below = open_result(run.path, partial=True)
        rows, columns = layout.grid(tier)
        for row, column in np.ndindex(rows, columns):
            box = layout.task_box(tier, row, column)
            labels = labels_of(box) if tier == 0 else below.read_labels(tier * layout.depth, box)
            counted = count_labels(labels, 256)
            counts += counted if tier == 0 else 0
            shards = {}
            for level in range(tier * layout.depth, layout.tier_levels(tier).stop):
                if level in layout.tier_levels(tier):
                    key, record = writer.write_labels(level, box, labels)
                    shards[key] = record
                labels = halve_majority(labels, 255, len(CLASSES))
                box = Box(box.y0 // 2, box.x0 // 2, ceil_div(box.y1, 2), ceil_div(box.x1, 2))
            receipt = {"tier": tier, "row": row, "column": column, "shards": shards, "seconds": 0.0}
            if tier == 0:
                receipt["counts"] = [int(counted[value]) for value in (0, 1, 2, 3, 255)]
                receipt["statuses"] = [[row, column, int(TileStatus.DONE)]]
            run.markers.write(receipt)
    found = [int(counts[value]) for value in (0, 1, 2, 3, 255)]
    tiles = np.full(spec.tile_grid, TileStatus.DONE, np.uint8)
    summary = make_summary(spec, run.run_id, found, tiles)
    run.attach("summary.json", summary.to_json())
    small = Thumbnail(
        np.full((64, 64, 3), 200, np.uint8), spec.l0_mpp.scaled(spec.l0_size[0] / 64, spec.l0_size[1] / 64)
    )
    return open_result(commit_run(run, spec, tiles=tiles, thumbnail=small, facts=summary.facts()))


def shapes_in(path: Path) -> Iterator[tuple[str, shapely.Geometry]]:
    """Class and shape of each feature, read line by line."""
    with path.open(encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            if line.startswith("{"):
                feature = json.loads(line.rstrip().rstrip(","))
                rings = feature["geometry"]["coordinates"]
                parts = [rings] if feature["geometry"]["type"] == "Polygon" else rings
                shape = shapely.multipolygons([shapely.Polygon(part[0], part[1:]) for part in parts])
                yield feature["properties"]["classification"]["name"], shape


def check(path: Path, counts: list[int], l0_px: float) -> tuple[str, ...]:
    """Polygons, holes, how many are not valid, and the worst difference of a class' area from the mask's."""
    area, n, n_holes, n_invalid = dict.fromkeys(CLASSES, 0.0), 0, 0, 0
    for name, shape in shapes_in(path):
        n, n_invalid = n + 1, n_invalid + (not shape.is_valid)
        n_holes += sum(len(part.interiors) for part in getattr(shape, "geoms", [shape]))
        area[name] += shape.area / l0_px
    differences = [abs(area[name] / n_px - 1) for name, n_px in zip(CLASSES[1:], counts[1:], strict=True) if n_px]
    return f"{n:,}", f"{n_holes:,}", str(n_invalid), f"{100 * max(differences):.3g} %"


def measured(result: Path, counts: list[int], folder: Path) -> list[tuple[str, ...]]:
    """A row for each conversion."""
    rows, files = [], []
    for number, (name, options) in enumerate(
        (
            ("geojson", ("--to", "geojson")),
            ("geojson --simplify 0.5", ("--to", "geojson", "--simplify", 0.5)),
            ("geojson --objects", ("--to", "geojson", "--objects")),
            ("annotations-xml", ("--to", "annotations-xml")),
            ("csv", ("--to", "csv")),
            ("png", ("--to", "png")),
            ("ome-tiff", ("--to", "ome-tiff")),
            ("dicom-seg --level 1", ("--to", "dicom-seg", "--level", 1)),
        )
    ):
        out = folder / str(number)
        cost = cost_of(wsi_seg("convert", result, "--out", out, *options))
        rows.append((name, f"{cost.wall_s:.1f}", f"{cost.peak_mb:.0f}", f"{out.stat().st_size / 1e6:.1f}"))
        files.append(out if "geojson" in options else None)
    # Afterwards: what is held here counts for the processes that are started from here.
    said = [("-",) * 4 if file is None else check(file, counts, 4.0) for file in files]
    return [(*row, *more) for row, more in zip(rows, said, strict=True)]


HEADER = ("to", "wall s", "peak MB", "file MB", "polygons", "holes", "not valid", "worst area difference of a class")


def main() -> None:
    """Make a result and convert it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_480, help="of the result, px")
    parser.add_argument("--result", type=Path, help="where the result is kept, and found the next time")
    parser.add_argument("--log", type=Path, default=LOG)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = asked.result or Path(folder) / "made.seg.zarr"
        result = open_result(path) if path.exists() else make_result(path, asked.side)
        counts = [entry["n_pixels"] for entry in result.attributes["summary"]["classes"]]
        side = result.spec.layout.size[0]
        rows = measured(path, counts, Path(folder))
    print(table(f"conversions of a result of {side:,}²", HEADER, rows, asked.log))


if __name__ == "__main__":
    main()
