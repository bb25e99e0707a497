"""`wsi-seg info`: what a slide is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def info(
    slide: Annotated[Path, typer.Argument(help="A whole-slide image.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what a slide is.

    Reader, size, resolution, levels. Label and macro images are never touched.
    """
    from wsi_seg.cli.tables import print_sections
    from wsi_seg.slide import open_slide

    opened = open_slide(slide)
    mpp = opened.mpp
    facts = {
        "path": str(slide),
        "vendor": opened.vendor,
        "reader": opened.reader,
        "mpp": None if mpp is None else [mpp.y, mpp.x],
        "bounds": [opened.bounds.y0, opened.bounds.x0, opened.bounds.y1, opened.bounds.x1],
        "levels": [
            {"size": list(level.size), "downsample": list(level.downsample), "tile": level.tile and list(level.tile)}
            for level in opened.levels
        ],
        "fingerprint": opened.fingerprint(),
    }
    opened.close()
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    resolution = "not stated (give --mpp to run)" if mpp is None else f"{mpp.y:.4g} x {mpp.x:.4g} um/px (y, x)"
    rows = [
        ("path", str(slide)),
        ("vendor", opened.vendor),
        ("reader", opened.reader),
        ("resolution", resolution),
        ("fingerprint", opened.fingerprint()[:16]),
    ]
    levels = [
        (
            f"level {index}",
            f"{level.size[1]} x {level.size[0]} px, downsample {level.downsample[1]:g}"
            + (f", tiles {level.tile[1]} x {level.tile[0]}" if level.tile else ""),
        )
        for index, level in enumerate(opened.levels)
    ]
    print_sections([("Slide", rows), ("Levels (width x height)", levels)])
