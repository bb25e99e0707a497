"""`wsi-seg verify`: is a result still what was written?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_seg.errors import UsageError

if TYPE_CHECKING:
    from wsi_seg.output.verify import VerifyReport


def verify(
    result: Annotated[Path, typer.Argument(help="A result folder, finished or .partial.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that a result is as written.

    Re-checks every stored hash, the metadata and the pyramid. Exit code 1 when something differs.
    """
    from wsi_seg.output.verify import verify_result

    if result.is_file():
        raise UsageError(
            f"{result} is a file", rule="verify checks result folders, NAME.seg.zarr, which hold a hash of every part"
        )
    report = verify_result(result)
    print(json.dumps(asdict(report), indent=2) if as_json else _described(result, report))
    if not report.is_sound:
        raise typer.Exit(1)


def _described(path: Path, report: VerifyReport) -> str:
    checked = f"{_count(report.n_files, 'file')}, {report.n_bytes / 1e6:.1f} MB, {_count(report.n_tasks, 'task')}"
    pending = f", {_count(report.n_pending, 'task')} not done yet" if report.n_pending else ""
    if report.is_sound:
        return f"{path} is sound: {checked}{pending}"
    problems = "\n".join(f"  {problem.key}: {problem.cause}" for problem in report.problems)
    return f"{path} is damaged ({checked}{pending}):\n{problems}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
