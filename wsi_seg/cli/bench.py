"""`wsi-seg bench`: which runtime and precision is fastest here, and whether it gives the same labels."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wsi_seg.infer import Trial

_HEADER = ("program", "runtime", "precision", "Mpx/s", "x", "MB", "same class", "worst Dice loss")


def bench(
    models: Annotated[
        list[str],
        typer.Argument(help="Program, folder of a training or built-in name; several: exports of one network."),
    ],
    slide: Annotated[
        list[Path] | None, typer.Option(help="Whose tissue is predicted; default: the sample slide; repeatable.")
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="um per px of the slides, where they do not state it.")] = None,
    tiles: Annotated[int, typer.Option(help="Tiles to predict.")] = 4,
    workers: Annotated[int | None, typer.Option(help="Predictions at once; default: the cores.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a model on every runtime and precision that runs it here.

    Speed is that of tiles that lie ready, without reading and blending; memory is that of the process, runtime
    included; labels are compared with those of the first row that runs. int8 and fp16 are measured where
    `wsi-seg export` has left them beside the model.
    """
    from wsi_seg.engine.prepare import usable_cores
    from wsi_seg.export.benching import BenchRequest
    from wsi_seg.export.benching import bench as measure
    from wsi_seg.sample import fetch_sample

    slides = tuple(slide or (fetch_sample(),))
    request = BenchRequest(tuple(models), slides, mpp, tiles, workers or usable_cores())
    trials: list[Trial] = []
    for trial in measure(request):
        trials.append(trial)
        if not as_json:
            reference = next((one for one in trials if one.runs), trial)
            _print_row(_row(trial, reference), first=len(trials) == 1)
    if as_json:
        print(json.dumps([trial.to_mapping() for trial in trials], indent=2))
    elif not any(trial.spec.precision == "int8" for trial in trials):
        print(f"no int8 program: wsi-seg export {models[0]} --precision int8 --calibrate SLIDE", file=sys.stderr)


def _print_row(cells: tuple[str, ...], *, first: bool) -> None:
    widths = (24, 11, 9, 7, 6, 6, 11, 15)
    for row in (_HEADER, cells) if first else (cells,):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)


def _row(trial: Trial, reference: Trial) -> tuple[str, ...]:
    name = Path(trial.spec.model).name[-24:]
    if not trial.runs:
        return name, trial.spec.runtime, trial.spec.precision, "-", "-", "-", "-", trial.failure[:130]
    times = trial.mpx_per_s / reference.mpx_per_s if reference.mpx_per_s else 0
    result = trial.agreement
    same, loss = ("reference", "") if result is None else (
        f"{100 * result.argmax_agreement:.3f} %", f"{result.worst_dice_loss:.4f}"
    )  # fmt: skip
    figures = (f"{trial.mpx_per_s:.2f}", f"{times:.2f}", f"{trial.peak_bytes / 1e6:.0f}", same, loss)
    return (name, trial.spec.runtime, trial.spec.precision, *figures)
