"""What a batch says at its end: `report.csv`, `areas.csv` and `report.html`.

Owns the value and its forms. The page needs nothing but itself and the pictures of the results beside it.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any
from urllib.parse import quote

from wsi_seg.batch.record import DONE, FAILED, SlideRecord
from wsi_seg.output.store import Location, location_of, store_at, way_to
from wsi_seg.output.summary import area_text

COLUMNS = (
    "name", "slide", "state", "exit_code", "result", "seconds", "analysed_mpx", "tiles_done", "tiles_skipped",
    "tiles_unreadable", "tiles_model_failed", "tiles_redone_fp32", "model", "run_id", "error", "message", "rule",
    "remedy", "problems", "notes",
)  # fmt: skip
_WORDS = ("done", "skipped", "unreadable", "model-failed", "redone-fp32")


@dataclass(frozen=True, slots=True)
class BatchReport:
    """The outcome of a batch."""

    folder: Location
    records: tuple[SlideRecord, ...]
    """Of the slides that are done or have failed, now or earlier."""
    missing: tuple[str, ...]
    """Names of those that were not come to."""
    seconds: float
    """Wall time of this call."""
    n_new: int = 0
    """Slides that were settled in this call."""

    @property
    def count(self) -> Counter[str]:
        """Slides by state."""
        return Counter(record.state for record in self.records)

    @property
    def n_with_failed_tiles(self) -> int:
        """Slides with a result of which parts could not be read or predicted."""
        return sum(1 for record in self.records if record.state == DONE and record.n_failed_tiles)

    @property
    def exit_code(self) -> int:
        """1 where a slide failed or was not come to, 3 where parts could not be read, else 0."""
        if self.missing or self.count[FAILED]:
            return 1
        return 3 if self.n_with_failed_tiles else 0

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "folder": str(self.folder),
            "seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
            "n_new": self.n_new,
            "missing": list(self.missing),
            "slides": [record.told() for record in self.records],
        }

    def describe(self) -> str:
        """The report for people."""
        count, parts = self.count, []
        parts.append(f"{count[DONE]} of {len(self.records) + len(self.missing)} slides are done")
        if self.n_with_failed_tiles:
            parts.append(f"{self.n_with_failed_tiles} of them with parts that failed")
        parts.append(f"{count[FAILED]} failed" if count[FAILED] else "none failed")
        if self.missing:
            parts.append(f"{len(self.missing)} were not come to")
        lines = [f"{', '.join(parts)}; {self.n_new} settled now, in {self.seconds:.1f} s"]
        for record in [record for record in self.records if record.state == FAILED][:10]:
            lines.append(f"  {record.name}: {record.error}: {record.what}")
        if count[FAILED] > 10:
            lines.append(f"  … and {count[FAILED] - 10} more")
        lines.append(f"  report: {self.folder / 'report.html'}")
        return "\n".join(lines)


def write_reports(folder: Location, report: BatchReport) -> None:
    """Write the three files. Raises WriteError."""
    store = store_at(folder)
    store.write("report.csv", to_csv(report))
    store.write("areas.csv", areas_csv(report))
    store.write("report.html", to_html(report))


def to_csv(report: BatchReport) -> bytes:
    """A row per slide, UTF-8."""
    rows: list[Sequence[object]] = [COLUMNS]
    for record in report.records:
        code = 1 if record.state == FAILED else 3 if record.n_failed_tiles else 0
        rows.append((
            record.name, record.slide, record.state, code, record.result, f"{record.seconds:.3f}", f"{record.mpx:.3f}",
            *(record.tiles.get(word, 0) for word in _WORDS), record.model, record.run_id, record.error, record.what,
            record.rule, record.remedy, " | ".join(record.problems), " | ".join(record.notes),
        ))  # fmt: skip
    rows += [(name, "", "missing", 1, *[""] * (len(COLUMNS) - 4)) for name in report.missing]
    return _csv(rows)


def areas_csv(report: BatchReport) -> bytes:
    """A row per slide and class, what was not analysed included, UTF-8."""
    rows: list[Sequence[object]] = [("name", "class", "mm2", "percent_of_analysed")]
    for record in report.records:
        if record.state == DONE:
            rows += [(record.name, *row) for row in _areas(record)]
    return _csv(rows)


def _areas(record: SlideRecord) -> Iterator[tuple[str, str, str]]:
    whole = sum(record.areas_mm2.values())
    for name, area in record.areas_mm2.items():
        yield name, f"{area:.6f}", f"{100 * area / whole if whole else 0:.4f}"
    yield "(not analysed)", f"{record.not_analysed_mm2:.6f}", ""


def _percent(text: str) -> str:
    return f"{float(text):.1f} %" if text else ""


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([[_tame(cell) for cell in row] for row in rows])
    return text.getvalue().encode(errors="backslashreplace")


def _tame(cell: object) -> object:
    """A cell that no spreadsheet takes for a formula: file names are whatever somebody gave them."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def to_html(report: BatchReport) -> bytes:
    """The page."""
    template = Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    count = report.count
    page = template.substitute(
        title=escape(report.folder.absolute().name),
        n_slides=len(report.records) + len(report.missing),
        n_done=count[DONE],
        n_parts=report.n_with_failed_tiles,
        n_failed=count[FAILED],
        n_missing=len(report.missing),
        mpx=f"{sum(record.mpx for record in report.records):,.0f}",
        rows="\n".join(
            [*(_row(report.folder, record) for record in report.records), *map(_missing_row, report.missing)]
        ),
    )
    return page.encode(errors="backslashreplace")


def _row(folder: Location, record: SlideRecord) -> str:
    state = "parts" if record.state == DONE and record.n_failed_tiles else record.state
    cells = [
        _picture(folder, record),
        f"<b>{escape(record.name)}</b><br><small>{escape(record.slide)}</small>",
        f'<span class="{state}">{ {"done": "done", "parts": "done, parts failed", "failed": "failed"}[state] }</span>',
        _facts(record),
        f"{record.seconds:.1f}",
        f"{record.mpx:,.1f}" if record.state == DONE else "",
    ]
    return f'<tr data-state="{state}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _missing_row(name: str) -> str:
    cells = "".join(f"<td>{cell}</td>" for cell in ("", f"<b>{escape(name)}</b>", "not come to", "", "", ""))
    return f'<tr data-state="missing">{cells}</tr>'


def _picture(folder: Location, record: SlideRecord) -> str:
    if record.state != DONE:
        return ""
    result = location_of(record.result)
    beside = result.with_name(f"{result.name.removesuffix(result.suffix).removesuffix('.ome')}.overview.png")
    picture = result / "overview.png" if result.suffix == ".zarr" else beside
    try:
        place = quote(os.fsencode(way_to(picture, folder.absolute())))
    except ValueError:
        return ""
    return f'<a href="{place}"><img src="{place}" loading="lazy" alt="overview"></a>'


def _area(mm2: float) -> str:
    return area_text(mm2).replace("mm2", "mm²").replace("um2", "µm²")


def _facts(record: SlideRecord) -> str:
    if record.state == FAILED:
        rest = "".join(f"<br><small>{escape(text)}</small>" for text in (record.rule, record.remedy) if text)
        return f"<b>{escape(record.error)}</b>: {escape(record.what)}{rest}"
    areas = "".join(
        f"<tr><td>{escape(name)}</td><td>{_area(area)}</td><td>{_percent(percent)}</td></tr>"
        for (name, _, percent), area in zip(
            _areas(record), [*record.areas_mm2.values(), record.not_analysed_mm2], strict=True
        )
    )
    tiles = ", ".join(f"{n} {escape(word)}" for word, n in record.tiles.items() if n)
    texts = [*record.problems[:5], *(f"note: {note}" for note in record.notes)]
    more = "".join(f"<br><small>{escape(text)}</small>" for text in texts)
    return f'<table class="areas">{areas}</table><small>tiles: {tiles}</small>{more}'
