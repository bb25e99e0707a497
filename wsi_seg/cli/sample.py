"""`wsi-seg sample`: a slide to try, real or synthetic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.errors import UsageError


def sample(
    out: Annotated[
        Path | None,
        typer.Argument(help="File or folder to put it in; without it, the path of the kept copy is printed."),
    ] = None,
    synthetic: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of a made-up slide, px.", metavar="WxH")] = None,
    mpp: Annotated[float, typer.Option(help="um per px of a made-up slide.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    labels: Annotated[Path | None, typer.Option(help="Also write the made-up slide's true labels here (TIFF).")] = None,
) -> None:
    """Get a slide to try, or make one.

    The real one is CMU-1-Small-Region.svs (CC0, Carnegie Mellon University); --synthetic makes one of any size.
    """
    from wsi_seg.sample import fetch_sample, write_synthetic

    if synthetic is None:
        print(fetch_sample(out))
        return
    if out is None:
        raise UsageError("--synthetic without a path", remedy="wsi-seg sample --synthetic 20480x20480 slide.tif")
    write_synthetic(out, parse_size(synthetic), mpp=mpp, seed=seed, labels=labels)
    print(out)


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of `WIDTHxHEIGHT`.

    >>> parse_size("300x200")
    (200, 300)
    """
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise UsageError(f"--synthetic {text!r}", rule="WIDTHxHEIGHT in px", remedy="e.g. 20480x20480")
    return int(height), int(width)
