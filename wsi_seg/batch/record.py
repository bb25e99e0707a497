"""What is kept of each slide of a batch: what became of it, and by which file it was known.

Owns the JSON form. The result on disk is the truth; a record only saves opening it, and remembers failures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from wsi_seg.engine.report import RunReport
from wsi_seg.errors import WsiSegError

DONE, FAILED = "done", "failed"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Stamp:
    """By which a file is taken for unchanged: size and time of its last change."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp | None:
        """Of a file or folder; None where it is gone."""
        try:
            status = path.stat()
        except OSError:
            return None
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class SlideRecord:
    """What became of a slide."""

    name: str
    slide: str
    """Its path."""
    state: str
    """`done` or `failed`."""
    result: str = ""
    """Path of the result of a slide that is done."""
    run_id: str = ""
    stamp: Stamp | None = None
    """Of the slide, when its turn began."""
    error: str = ""
    """Class of the error of a slide that failed."""
    what: str = ""
    rule: str = ""
    remedy: str = ""
    seconds: float = 0.0
    """Wall time from its preparation to its result."""
    mpx: float = 0.0
    """Canvas megapixels that were analysed."""
    tiles: Mapping[str, int] = field(default_factory=dict)
    """Number by status."""
    n_failed_tiles: int = 0
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    model: str = ""
    areas_mm2: Mapping[str, float] = field(default_factory=dict)
    """By class."""
    not_analysed_mm2: float = 0.0
    asked: Mapping[str, Any] = field(default_factory=dict)
    """What the result `run_id` was asked with, as `asked.Asked.of` gives it; empty where none was ever made."""

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"version": VERSION, **asdict(self)}

    def told(self) -> dict[str, Any]:
        """JSON-able form for users, who know what they asked."""
        return {name: value for name, value in self.to_mapping().items() if name != "asked"}

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> SlideRecord:
        """The record that `to_mapping` made. Raises KeyError, TypeError, ValueError for anything else."""
        if content["version"] != VERSION:
            raise ValueError(f"record of version {content['version']}")
        values = {entry.name: content[entry.name] for entry in fields(cls)}
        stamp = values.pop("stamp")
        for name in ("problems", "notes"):
            values[name] = tuple(values[name])
        return cls(**values, stamp=None if stamp is None else Stamp(**stamp))


def done_record(name: str, slide: Path, stamp: Stamp | None, report: RunReport) -> SlideRecord:
    """The record of a slide with a result."""
    summary = report.summary
    seconds = 0.0 if summary.performance is None else summary.performance.seconds
    return SlideRecord(
        name=name,
        slide=str(slide),
        state=DONE,
        result=str(report.out),
        run_id=summary.run_id,
        stamp=stamp,
        seconds=seconds,
        mpx=sum(area.n_pixels for area in summary.classes) / 1e6,
        tiles=dict(summary.tiles),
        n_failed_tiles=report.n_failed_tiles,
        problems=summary.problems,
        notes=report.notes,
        model=str(summary.model.get("name", "")),
        areas_mm2={area.name: area.mm2 for area in summary.classes},
        not_analysed_mm2=summary.not_analysed_mm2,
    )


def failed_record(name: str, slide: Path, stamp: Stamp | None, error: WsiSegError) -> SlideRecord:
    """The record of a slide without a result."""
    return SlideRecord(
        name=name,
        slide=str(slide),
        state=FAILED,
        stamp=stamp,
        error=type(error).__name__,
        what=error.what,
        rule=error.rule,
        remedy=error.remedy,
    )
