"""`wsi-seg info`: what a slide or a result is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsi_seg.errors import SlideOpenError

if TYPE_CHECKING:
    from wsi_seg.output.store import Location
    from wsi_seg.slide import Slide

Sections = list[tuple[str, list[tuple[str, str]]]]


def info(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A whole-slide image, a result folder or URL.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what a slide or a result is: size, resolution, levels, classes.

    Label and macro images are never touched.
    """
    from wsi_seg.cli.tables import print_sections
    from wsi_seg.output.result_spec import PROVENANCE_FILE, ROOT, STATE
    from wsi_seg.output.store import location_of, store_at

    place = location_of(path)
    store = store_at(place)
    finished = store.has(ROOT) and store.has(PROVENANCE_FILE)
    if store.keys(STATE) and not (finished and place.suffix != ".partial"):
        raise SlideOpenError(
            f"{path} is an unfinished result",
            rule="info describes slides and finished results",
            remedy=f"the same `wsi-seg run` again finishes it; wsi-seg verify {path} tells how far it is",
        )
    # What is no result may be a slide, which is read from a file system only; a URL then says what it lacks.
    facts, sections = _slide(place) if isinstance(place, Path) and not finished else _result(place)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        print_sections(sections)


def _slide(path: Path) -> tuple[dict[str, Any], Sections]:
    """A slide as plain values and as words."""
    from wsi_seg.slide import open_slide

    slide = open_slide(path)
    mpp, fingerprint = slide.mpp, slide.fingerprint()
    facts = {
        "path": str(path),
        "vendor": slide.vendor,
        "reader": slide.reader,
        "mpp": None if mpp is None else [mpp.y, mpp.x],
        "bounds": [slide.bounds.y0, slide.bounds.x0, slide.bounds.y1, slide.bounds.x1],
        "levels": [
            {"size": list(level.size), "downsample": list(level.downsample), "tile": level.tile and list(level.tile)}
            for level in slide.levels
        ],
        "fingerprint": fingerprint,
    }
    rows = [
        ("path", str(path)),
        ("vendor", slide.vendor),
        ("reader", slide.reader),
        ("resolution", "not stated (give --mpp to run)" if mpp is None else f"{mpp.y:.4g} x {mpp.x:.4g} um/px (y, x)"),
        ("fingerprint", fingerprint[:16]),
    ]
    slide.close()
    return facts, [("Slide", rows), ("Levels (width x height)", _levels(slide))]


def _levels(slide: Slide) -> list[tuple[str, str]]:
    return [
        (
            f"level {index}",
            f"{level.size[1]} x {level.size[0]} px, downsample {level.downsample[1]:g}"
            + (f", tiles {level.tile[1]} x {level.tile[0]}" if level.tile else ""),
        )
        for index, level in enumerate(slide.levels)
    ]


def _result(path: Location) -> tuple[dict[str, Any], Sections]:
    """A finished result as plain values and as words."""
    from wsi_seg.output.label_store import open_result

    result = open_result(path)
    spec, layout = result.spec, result.spec.layout
    facts = {"path": str(path), "run_id": result.run_id, "n_levels": result.n_levels, **spec.to_mapping()}
    rows = [
        ("path", str(path)),
        ("of slide", spec.name),
        ("run", result.run_id[:12]),
        ("size", f"{layout.size[1]} x {layout.size[0]} px at {spec.mpp.y:.4g} x {spec.mpp.x:.4g} um/px (y, x)"),
        ("levels", f"{result.n_levels}, blocks of {layout.block} px"),
        ("probabilities", f"{spec.n_channels} channels" if spec.probabilities else "not stored"),
    ]
    classes = [(str(index), f"{entry.name} {entry.colour}") for index, entry in enumerate(spec.classes)]
    return facts, [("Result of wsi-seg", rows), ("Labels", [*classes, (str(spec.not_analysed), "not analysed")])]
