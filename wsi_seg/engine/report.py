"""What a finished run says: where the result is and what is in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsi_seg.output.status import TileStatus

if TYPE_CHECKING:
    from wsi_seg.output.store import Location
    from wsi_seg.output.summary import Summary

FAILED = (TileStatus.UNREADABLE, TileStatus.MODEL_FAILED)


@dataclass(frozen=True, slots=True)
class RunReport:
    """The outcome of a run."""

    out: Location
    overview: Location
    summary: Summary
    notes: tuple[str, ...] = ()

    @property
    def n_failed_tiles(self) -> int:
        """Tiles that could not be read or predicted; their pixels are not analysed."""
        return sum(self.summary.tiles.get(status.word, 0) for status in FAILED)

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able form."""
        summary = json.loads(self.summary.to_json())
        return {"out": str(self.out), "overview": str(self.overview), "notes": list(self.notes), **summary}

    def to_json(self) -> str:
        """The report for machines."""
        return json.dumps(self.to_mapping(), indent=2)

    def describe_profile(self, started_s: float = 0.0) -> str:
        """Where the time went, for people; empty where that is not known.

        `started_s`: seconds that the process had taken before it was told to run.
        """
        cost = self.summary.performance
        if cost is None:
            return ""
        before = {"start of the program": started_s} | {name: value for name, value in cost.preparing.items() if value}
        after = max(0.0, cost.seconds - cost.seconds_working - sum(cost.preparing.values()))
        tasks = cost.seconds_of_tasks
        spent = max(1e-9, tasks, cost.seconds_working * cost.n_workers)
        lines = ["seconds before the work"]
        lines += [f"  {name:<22}{seconds:9.3f}" for name, seconds in before.items()]
        workers = f"{cost.n_workers} workers" if cost.n_workers else "a cluster"
        lines.append(f"seconds of {workers} in {cost.seconds_working:.3f} s of work, and their share")
        work = {**cost.stages, "everything else": max(0.0, tasks - sum(cost.stages.values()))}
        if cost.n_workers:
            work["without a task"] = max(0.0, spent - tasks)
        lines += [f"  {name:<22}{seconds:9.3f}{100 * seconds / spent:7.1f} %" for name, seconds in work.items()]
        lines += ["seconds around it", f"  {'begin and commit':<22}{after:9.3f}"]
        return "\n".join(lines)

    def describe(self) -> str:
        """The report for people."""
        from wsi_seg.output.summary import area_text

        summary, cost = self.summary, self.summary.performance
        width = max(len(area.name) for area in summary.classes)
        lines = [f"{self.out}"]
        lines += [
            f"  {area.name:<{width}}  {area_text(area.mm2):>12}  {area.percent:6.2f} %" for area in summary.classes
        ]
        lines.append(
            f"  analysed {area_text(summary.analysed_mm2)}, not analysed {area_text(summary.not_analysed_mm2)}"
        )
        if summary.postprocessing:
            lines.append("  post-processed: " + ", ".join(step["step"] for step in summary.postprocessing))
        lines.append("  tiles: " + ", ".join(f"{n} {word}" for word, n in summary.tiles.items() if n))
        if cost is not None:
            peak = cost.peak_memory_bytes / 1e6
            working = f"{cost.seconds_working:.1f} of them working at {cost.mpx_per_s:.1f} Mpx/s"
            lines.append(f"  {cost.seconds:.1f} s, {working}, peak memory {peak:.0f} MB")
        if self.n_failed_tiles:
            lines.append(f"  {self.n_failed_tiles} tiles failed and are not analysed; the first few:")
            lines += [f"    {problem}" for problem in summary.problems[:5]]
        lines.append(f"  picture: {self.overview}")
        return "\n".join(lines)
