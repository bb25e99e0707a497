"""`wsi-seg verify`: is a result still what was written?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def verify(
    result: Annotated[Path, typer.Argument(help="A result folder, finished or .partial.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Re-check every stored hash, the metadata and the pyramid of a result. Exit code 1 when something differs."""
    from wsi_seg.output import verify_result

    report = verify_result(result)
    if as_json:
        print(json.dumps(report.to_mapping(), indent=2))
    else:
        print(report.describe())
    if not report.ok:
        raise typer.Exit(1)
