"""`wsi-seg verify`: is a result still what was written?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_seg.errors import UsageError

if TYPE_CHECKING:
    from wsi_seg.engine.same_slide import SlideCheck
    from wsi_seg.output.store import Location
    from wsi_seg.output.verify import VerifyReport


def verify(
    result: Annotated[
        str,
        typer.Argument(metavar="RESULT", help="A result folder, finished or .partial, or a URL.", show_default=False),
    ],
    slide: Annotated[
        Path | None, typer.Option(help="Also check that this slide is still what the result was made from.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that a result is as written, and its slide as it was.

    Re-checks every stored hash, the metadata and the pyramid. With --slide, the slide's fingerprint: sizes, headers,
    tile tables and a sample of its bytes; or all of them, after a run with --full-hash. Exit code 1 when something
    differs.
    """
    from wsi_seg.batch.folder import BatchFolder
    from wsi_seg.engine.same_slide import compare_slide
    from wsi_seg.output.store import location_of
    from wsi_seg.output.verify import verify_result

    place = location_of(result)
    if isinstance(place, Path) and place.is_file():
        raise UsageError(
            f"{result} is a file", rule="verify checks result folders, NAME.seg.zarr, which hold a hash of every part"
        )
    if isinstance(place, Path) and BatchFolder(place).exists:
        raise UsageError(
            f"{result} is the folder of a batch",
            rule="verify checks one result",
            remedy=f"wsi-seg verify {place / 'NAME.seg.zarr'}; wsi-seg status {result} says what there is",
        )
    report = verify_result(place)
    check = None if slide is None else compare_slide(place, slide)
    if as_json:
        compared = {} if check is None else {"slide": asdict(check)}
        print(json.dumps(asdict(report) | compared, indent=2))
    else:
        print(_described(place, report))
        if check is not None:
            print(_compared(slide, check))
    if not report.is_sound or (check is not None and not check.is_same):
        raise typer.Exit(1)


def _compared(slide: Path | None, check: SlideCheck) -> str:
    if not check.is_same:
        return f"{slide} is not what the result was made from: its bytes differ"
    if check.n_compared == check.n_bytes:
        return f"{slide} is what the result was made from: all of its {check.n_bytes / 1e6:.1f} MB were compared"
    part = f"{check.n_compared / 1e6:.1f} of its {check.n_bytes / 1e6:.1f} MB"
    return (
        f"{slide} has the fingerprint of what the result was made from: sizes, headers and {part} were compared "
        "(a run with --full-hash records all of it)"
    )


def _described(path: Location, report: VerifyReport) -> str:
    checked = f"{_count(report.n_files, 'file')}, {report.n_bytes / 1e6:.1f} MB, {_count(report.n_tasks, 'task')}"
    pending = f", {_count(report.n_pending, 'task')} not done yet" if report.n_pending else ""
    if report.is_sound:
        return f"{path} is sound: {checked}{pending}"
    problems = "\n".join(f"  {problem.key}: {problem.cause}" for problem in report.problems)
    return f"{path} is damaged ({checked}{pending}):\n{problems}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
