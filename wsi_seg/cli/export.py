"""`wsi-seg export`: a model to the program that is fastest somewhere, proven equal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.cli.shared_options import CardFields, WeightsOption, card_options, with_options


@with_options(card_options, "card")
def export(
    model: Annotated[
        str,
        typer.Argument(help="Folder of a training, ONNX file, built-in name, or module:factory.", show_default=False),
    ],
    to: Annotated[str, typer.Option(help="onnx, openvino, torch, tensorrt or coreml.")] = "onnx",
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16 (torch only) or int8.")] = "fp32",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; default: beside the model, under its name.")
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(help="Slide whose tissue calibrates int8; repeatable."),
    ] = None,
    judge: Annotated[
        list[Path] | None,
        typer.Option(help="Slide whose tissue judges the export; default: other tiles of --calibrate; repeatable."),
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="um per px of the slides, where they do not state it.")] = None,
    tiles: Annotated[int, typer.Option(help="Tiles to calibrate on; as many others judge.")] = 32,
    method: Annotated[str, typer.Option(help="minmax, percentile or entropy.")] = "minmax",
    symmetric: Annotated[
        bool | None,
        typer.Option("--symmetric/--asymmetric", help="int8 activations around 0; default: for TensorRT only."),
    ] = None,
    upsample: Annotated[
        str, typer.Option(help="trained, or transposed: resizing as transposed convolutions, the same values.")
    ] = "trained",
    min_agreement: Annotated[
        float | None, typer.Option(help="Share of px that keep their class; default: 0.999, int8: no limit.")
    ] = None,
    max_dice_loss: Annotated[float, typer.Option(help="Dice that the worst class may lose.")] = 0.005,
    seed: Annotated[int, typer.Option(help="Of the draw of tiles.")] = 0,
    weights: WeightsOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a program that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    *,
    card: CardFields,
) -> None:
    """Export a model, and judge the export against the original on real tissue.

    A program that does not agree is not written. int8 is calibrated on the slides given; layers that it harms stay
    in float. Programs beside the model are found by `wsi-seg run --precision int8`. Options from --model-mpp on
    complete the card of a model that has none, as for `wsi-seg run`.
    """
    from wsi_seg.engine.signals import unwinding_on_sigterm
    from wsi_seg.export import ExportRequest, export_model

    request = ExportRequest(
        model=model, weights=weights, to=to, precision=precision, out=out,
        slides=tuple(calibrate or ()), judged_on=tuple(judge or ()),
        card=card, slide_mpp=mpp, n_tiles=tiles, method=method, symmetric=symmetric, upsample=upsample,
        min_agreement=min_agreement, max_dice_loss=max_dice_loss, seed=seed, overwrite=overwrite,
    )  # fmt: skip
    with unwinding_on_sigterm():
        report = export_model(request, tell=lambda text: print(f"{text} …", file=sys.stderr))
    print(report.to_json() if as_json else report.describe())
