"""The options that `run` and `plan` share: written once, added to the signature of both commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.cli.shared_options import CardFields, WeightsOption, card_options, with_options
from wsi_seg.engine.options import DEFAULT_MODEL, RunOptions
from wsi_seg.engine.sizes import parse_bytes
from wsi_seg.errors import UsageError


def _numbers(text: str | None, option: str) -> tuple[float, ...]:
    try:
        return () if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text!r}", rule="numbers with commas", remedy="e.g. 0.7,0.3") from error


def parse_pixels(text: str | None, option: str) -> int | None:
    """Pixels of an option that may be `auto`."""
    if text is None or text == "auto":
        return None
    if not text.isdigit():
        raise UsageError(f"{option} {text!r}", rule="a whole number of px, or auto")
    return int(text)


def parse_areas(text: str | None, option: str) -> dict[str, float]:
    """Areas in µm² by class name; "" stands for all classes but the first.

    >>> parse_areas("20", "--min-object"), parse_areas("20,tumour=500", "--min-object")
    ({'': 20.0}, {'': 20.0, 'tumour': 500.0})
    """
    areas: dict[str, float] = {}
    for part in [] if text is None else text.split(","):
        name, _, number = part.rpartition("=")
        try:
            area = float(number)
        except ValueError:
            area = float("nan")
        if not 0 <= area < float("inf") or name.strip() in areas:
            rule = "an area in um2, and CLASS=AREA for single classes, with commas"
            raise UsageError(f"{option} {text!r}", rule=rule, remedy="e.g. 20 or 20,tumour=500")
        areas[name.strip()] = area
    return areas


def crf_wishes(asked: bool, **given: float | None) -> dict[str, float] | None:
    """What is given of the CRF's parameters; None where it is not asked for.

    >>> crf_wishes(True, radius_um=2.0, colour=None), crf_wishes(False, radius_um=None)
    ({'radius_um': 2.0}, None)
    """
    wishes = {name: value for name, value in given.items() if value is not None}
    if wishes and not asked:
        raise UsageError("a --crf-… option without --crf", remedy="add --crf")
    return wishes if asked else None


@with_options(card_options, "card")
def run_options(
    *,
    model: Annotated[
        list[str],
        typer.Option(
            help="Built-in name, path of an exported program, folder of a training, or module:factory. "
            "Several times: the mean of their probabilities."
        ),
    ] = [DEFAULT_MODEL],  # noqa: B006 - read only
    model_weights: Annotated[
        str | None, typer.Option(help="How much each --model counts: 0.7,0.3; default: all the same.")
    ] = None,
    tta: Annotated[
        str, typer.Option(help="Average over copies of each tile: none, flips (4), rotations (4) or d4 (8).")
    ] = "none",
    tta_scales: Annotated[str, typer.Option(help="And over copies at these scales, e.g. 0.75,1,1.25.")] = "1",
    weights: WeightsOption = None,
    runtime: Annotated[
        str, typer.Option(help="auto, onnxruntime, openvino, torch, tensorrt or onnxruntime-tensorrt.")
    ] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16 or int8.")] = "auto",
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N; auto: a GPU where a runtime can use one.")
    ] = "auto",
    trust_engine: Annotated[
        bool, typer.Option("--trust-engine", help="Load a .engine file as model: it is code of whoever built it.")
    ] = False,
    cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs", help="torch on a GPU: record the network once and replay it.")
    ] = False,
    blend: Annotated[
        str, typer.Option(help="Where tiles are blended: auto, host, device (torch; same labels).")
    ] = "auto",
    card: CardFields,
    mpp: Annotated[
        float | None,
        typer.Option(help="um per px of the slide's finest level, over what it says."),
    ] = None,
    reader: Annotated[str, typer.Option(help="auto, openslide, tiff or zarr.")] = "auto",
    decode: Annotated[
        str, typer.Option(help="exact, or fast: JPEG tiles at 1/2, 1/4 or 1/8 where the model is as much coarser.")
    ] = "exact",
    roi: Annotated[
        Path | None,
        typer.Option(help="GeoJSON polygons in level-0 px; the rest is not analysed."),
    ] = None,
    skip: Annotated[bool, typer.Option("--skip/--no-skip", help="Leave glass out.")] = True,
    tile: Annotated[int | None, typer.Option(help="Side of the model's input, px.")] = None,
    overlap: Annotated[str, typer.Option(help="px shared by neighbours, or auto: from the measured halo.")] = "auto",
    window: Annotated[str, typer.Option(help="auto, linear, cosine, gaussian or crop.")] = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", "--batch", help="Tiles per batch; default: 1, on a GPU 2 Mpx of tiles."),
    ] = None,
    block: Annotated[int | None, typer.Option(help="Side of a block, a power of two.")] = None,
    workers: Annotated[int | None, typer.Option(help="Blocks worked on at once; default: the cores.")] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Budget, e.g. 8G; default: 80 % of the container's or machine's."),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Keep uint8 probabilities per class too, as the model gave them.")
    ] = False,
    full_hash: Annotated[
        bool,
        typer.Option(
            "--full-hash", help="Record a SHA-256 of the whole slide: `verify --slide` then finds any change."
        ),
    ] = False,
    min_object: Annotated[
        str | None,
        typer.Option(help="Remove objects below this area, um2; also CLASS=AREA, with commas."),
    ] = None,
    fill_holes: Annotated[
        str | None,
        typer.Option(help="Fill holes below this area, um2; also CLASS=AREA, with commas."),
    ] = None,
    crf: Annotated[bool, typer.Option("--crf", help="Fit labels to the colours by a convolutional CRF.")] = False,
    crf_radius: Annotated[float | None, typer.Option(help="How far a pixel listens, um; default: 2.")] = None,
    crf_iterations: Annotated[int | None, typer.Option(help="Steps of the mean field; default: 5.")] = None,
    crf_colour: Annotated[
        float | None, typer.Option(help="Difference of colours that still count as alike, 0-255; default: 20.")
    ] = None,
    crf_weight: Annotated[float | None, typer.Option(help="Pull of the neighbours, log odds; default: 3.")] = None,
) -> RunOptions:
    """The value that the options make."""
    return RunOptions(
        model=model[0],
        more_models=tuple(model[1:]),
        model_weights=_numbers(model_weights, "--model-weights"),
        tta=tta,
        tta_scales=tta_scales,
        weights=weights,
        card=card,
        runtime=runtime,
        precision=precision,
        device=device,
        trust_engine=trust_engine,
        cuda_graphs=cuda_graphs,
        blend=blend,
        slide_mpp=mpp,
        reader=reader,
        decode=decode,
        tile=tile,
        overlap=parse_pixels(overlap, "--overlap"),
        window=window,
        batch=batch_size,
        block=block,
        workers=workers,
        memory_bytes=None if memory is None else parse_bytes(memory),
        skip_background=skip,
        roi=roi,
        probabilities=probabilities,
        full_hash=full_hash,
        min_object=parse_areas(min_object, "--min-object"),
        fill_holes=parse_areas(fill_holes, "--fill-holes"),
        crf=crf_wishes(crf, radius_um=crf_radius, iterations=crf_iterations, colour=crf_colour, weight=crf_weight),
    )


with_run_options = with_options(run_options, "options")
"""Gives a command the options above; it receives them as `options: RunOptions`."""
