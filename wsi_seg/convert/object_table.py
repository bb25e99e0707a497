"""Objects as CSV, one a row; owns the columns, reads no result."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import TextIOWrapper
from pathlib import Path

from wsi_seg.convert.new_file import new_file
from wsi_seg.convert.objects import SegmentedObject, region_id

COLUMNS = (
    "id", "class", "centroid_x_um", "centroid_y_um", "centroid_x_px", "centroid_y_px", "area_um2", "perimeter_um",
    "x0_px", "y0_px", "x1_px", "y1_px", "mean_probability",
)  # fmt: skip
"""`_px` are level-0 px of the slide, counted from the corner of level 0; µm likewise."""


def write_table(
    objects: Iterable[SegmentedObject], run_id: str, level: int, out: Path, *, overwrite: bool = False
) -> int:
    """Write objects as CSV, UTF-8; answers the number of rows. Ids are those of GeoJSON features of objects.

    Raises OutputExistsError, WriteError, and what the objects raise.
    """
    n = 0
    with new_file(out, overwrite=overwrite) as file:
        text = TextIOWrapper(file, "utf-8", newline="")
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(COLUMNS)
        for entry in objects:
            rows.writerow(_row(entry, region_id(run_id, level, entry.class_index, entry.first_px, "object")))
            n += 1
        text.detach()
    return n


def _row(entry: SegmentedObject, number: str) -> list[str]:
    (y_um, x_um), (y, x) = entry.centroid_um, entry.l0_centroid
    y0, x0, y1, x1 = entry.l0_box
    numbers = (x_um, y_um, x, y, entry.area_um2, entry.perimeter_um, x0, y0, x1, y1)
    chance = "" if entry.mean_probability is None else f"{entry.mean_probability:.4f}"
    return [number, entry.name, *(f"{value:.3f}" for value in numbers), chance]
