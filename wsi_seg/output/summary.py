"""The figures of a result: areas per class, tiles by status, and what the run cost.

Owns the value and its JSON and CSV forms. Percentages are of the analysed area: what was not analysed is no class and
counts in no denominator.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.output.durable import json_bytes
from wsi_seg.output.result_spec import ResultSpec
from wsi_seg.output.status import TileStatus

CSV_FIELDS = ("slide", "index", "class", "colour", "pixels", "mm2", "percent_of_analysed")


@dataclass(frozen=True, slots=True)
class ClassArea:
    """Area of one class."""

    name: str
    colour: str
    n_pixels: int
    """Canvas pixels."""
    mm2: float
    percent: float
    """Of the analysed area, 0-100; 0 where nothing was analysed."""


@dataclass(frozen=True, slots=True)
class Performance:
    """What a run cost; not reproducible, so never part of a result's metadata."""

    seconds: float
    """Wall time, from the command to the finished result."""
    mpx_per_s: float
    """Megapixels that got a label in this run, over the seconds in which its tasks ran."""
    peak_memory_bytes: int
    n_predicted: int
    """Tiles predicted, those predicted twice counted twice."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage of the work, summed over threads."""
    seconds_working: float = 0.0
    """Of the wall time, that in which tasks ran: without loading and planning before, and committing after."""
    seconds_of_tasks: float = 0.0
    """What the tasks took, summed over threads; more than the stages, which leave little things out."""
    n_workers: int = 0
    """Threads that did the tasks; 0 where a cluster's workers did."""
    preparing: Mapping[str, float] = field(default_factory=dict)
    """Of the wall time, seconds by step before the work: open, load, thumbnail, choose, halo, warm up, plan."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of one result."""

    name: str
    run_id: str
    mpp: tuple[float, float]
    """Canvas, (y, x)."""
    classes: tuple[ClassArea, ...]
    analysed_mm2: float
    not_analysed_mm2: float
    tissue_mm2: float | None
    """Area of the tissue mask; None where none was made."""
    tiles: Mapping[str, int]
    """Number of tiles by status."""
    model: Mapping[str, Any]
    """Name, hash, precision, licence and the like."""
    versions: Mapping[str, str]
    """Of wsi-seg and the libraries that make the pixels."""
    performance: Performance | None = None
    postprocessing: Sequence[Mapping[str, Any]] = ()
    """Steps that the labels went through after the prediction, in order, with their parameters in px."""
    problems: tuple[str, ...] = ()
    """What went wrong with single tiles, in words; the first few."""
    notes: tuple[str, ...] = ()
    """What the user should know: of the plan, and of what the run had to change on its way."""
    slide_fingerprint: str = ""
    """Of the bytes that were read, as `Slide.fingerprint` gives it; empty in summaries of earlier versions."""
    slide_sha256: str = ""
    """Of all bytes of the slide's files; empty where it was not asked for."""

    def facts(self) -> dict[str, Any]:
        """The reproducible part, JSON-able: equal runs give equal facts; post-processing only where there was any."""
        content = asdict(self)
        if not content["postprocessing"]:
            del content["postprocessing"]
        for key in ("performance", "versions", "problems", "notes", "slide_fingerprint", "slide_sha256"):
            del content[key]
        return content

    def to_json(self) -> bytes:
        """Contents of `summary.json`."""
        return json_bytes(asdict(self))

    @classmethod
    def from_json(cls, content: bytes | str) -> Summary:
        """The summary that `to_json` wrote. Raises ValueError, TypeError, KeyError for anything else."""
        stored = json.loads(content)
        cost = stored.pop("performance")
        return cls(
            **{**stored, "mpp": tuple(stored["mpp"]), **{name: tuple(stored[name]) for name in ("problems", "notes")}}
            | {"classes": tuple(ClassArea(**area) for area in stored["classes"])}
            | {"postprocessing": tuple(stored["postprocessing"])},
            performance=None if cost is None else Performance(**cost),
        )

    def to_csv(self) -> bytes:
        """Contents of `summary.csv`: a header and one row per class, UTF-8."""
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(CSV_FIELDS)
        for index, area in enumerate(self.classes):
            numbers = (area.n_pixels, f"{area.mm2:.6f}", f"{area.percent:.4f}")
            rows.writerow((self.name, index, area.name, area.colour, *numbers))
        return text.getvalue().encode()


def area_text(mm2: float) -> str:
    """An area for people, in mm2, or in um2 where it is small.

    >>> area_text(12.3456), area_text(0.0123456), area_text(8.2e-6), area_text(0)
    ('12.35 mm2', '0.01235 mm2', '8.2 um2', '0 mm2')
    """
    return f"{mm2:.4g} mm2" if mm2 >= 1e-3 or mm2 == 0 else f"{mm2 * 1e6:.4g} um2"


def make_summary(
    spec: ResultSpec,
    run_id: str,
    counts: Sequence[int],
    tiles: NDArray[np.uint8],
    **others: Any,
) -> Summary:
    """Summary of a result.

    Args:
        spec: the result.
        run_id: identity of the run.
        counts: level-0 pixels per class, then those not analysed.
        tiles: statuses, (rows, columns) of TileStatus.
        others: the other fields of Summary: `tissue_mm2`, `model`, `versions`, `performance`, `postprocessing`,
            `problems`, `notes`, `slide_fingerprint`, `slide_sha256`.
    """
    if len(counts) != len(spec.classes) + 1 or sum(counts) != spec.layout.size[0] * spec.layout.size[1]:
        raise ValueError(
            f"counts {list(counts)} for {len(spec.classes)} classes on {spec.layout.size} px: "
            "one per class and one of pixels not analysed, together all pixels"
        )
    *of_classes, absent = (int(n) for n in counts)
    total = sum(of_classes)
    areas = tuple(
        ClassArea(entry.name, entry.colour, n, n * spec.pixel_mm2, 100 * n / total if total else 0.0)
        for entry, n in zip(spec.classes, of_classes, strict=True)
    )
    return Summary(
        name=spec.name,
        run_id=run_id,
        mpp=(spec.mpp.y, spec.mpp.x),
        classes=areas,
        analysed_mm2=total * spec.pixel_mm2,
        not_analysed_mm2=absent * spec.pixel_mm2,
        tiles={status.word: int(np.count_nonzero(tiles == status)) for status in TileStatus},
        **{"tissue_mm2": None, "model": {}, "versions": {}, **others},
    )
