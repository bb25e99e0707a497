"""`wsi-seg run` and `wsi-seg plan`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.cli.cluster_options import scheduler_options
from wsi_seg.cli.run_options import with_run_options
from wsi_seg.cli.shared_options import with_options
from wsi_seg.engine.options import RunOptions, Scheduler

SlideArgument = Annotated[Path, typer.Argument(help="A whole-slide image, or an OME-Zarr folder.", show_default=False)]


@with_options(scheduler_options, "where")
@with_run_options
def run(
    slide: SlideArgument,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", metavar="PATH|URL", help="NAME.seg.zarr or NAME.ome.tif; default: SLIDE.seg.zarr here."
        ),
    ] = None,
    tiff: Annotated[
        str, typer.Option(help="For .tif results: subifd, or flat (OpenSlide then sees every level).")
    ] = "subifd",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a finished result.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard a half-done result instead of resuming it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also print where the time went, on standard error.")
    ] = False,
    *,
    options: RunOptions,
    where: Scheduler | None,
) -> None:
    """Segment a slide.

    Writes a pyramidal label map, an overview picture and a summary. The same command resumes a run that was
    stopped. Exit code 3: done, but some tiles could not be read or predicted.
    """
    from wsi_seg.cli.collector import collecting_from_the_start_of_work
    from wsi_seg.cli.progress import progress_bar
    from wsi_seg.engine.signals import stop_on_signals
    from wsi_seg.engine.stages import process_age_s
    from wsi_seg.errors import UsageError

    if tiff not in ("subifd", "flat"):
        raise UsageError(f"--tiff {tiff!r}", rule="subifd or flat")
    asked = replace(options, scheduler=where, overwrite=overwrite, restart=restart, flat_tiff=tiff == "flat")
    with (
        progress_bar(enabled=not (quiet or as_json)) as bar,
        collecting_from_the_start_of_work(bar) as listener,
        stop_on_signals() as stop,
    ):
        from wsi_seg.engine.run import run_slide

        began_after = process_age_s() if profile else 0.0
        report = run_slide(slide, asked, out=out, listener=listener, stop=stop)
    print(report.to_json() if as_json else report.describe())
    if profile:
        print(report.describe_profile(began_after), file=sys.stderr)
    if report.n_failed_tiles:
        raise typer.Exit(3)


@with_run_options
def plan(
    slide: SlideArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    *,
    options: RunOptions,
) -> None:
    """Print what `run` would do and need.

    Opens the slide, loads and measures the model, projects the peak of memory, and writes nothing.
    """
    from wsi_seg.cli.tables import print_sections
    from wsi_seg.engine.prepare import prepare

    prepared = prepare(slide, options)
    if as_json:
        print(json.dumps(prepared.plan.to_mapping(), indent=2))
    else:
        print_sections(prepared.plan.describe())
