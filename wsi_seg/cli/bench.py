"""`wsi-seg bench`: which runtime and precision is fastest here, and whether it gives the same labels."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_seg.cli.shared_options import CardFields, WeightsOption, card_options, with_options

if TYPE_CHECKING:
    from wsi_seg.infer import Trial

_HEADER = ("runtime", "precision", "Mpx/s", "times", "MB", "same class", "Dice lost")
_WIDTHS = (11, 9, 5, 5, 4, 10, 9)
_GAP = "  "
_SHORTEST_NAME = 12


@with_options(card_options, "card")
def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Program, folder of a training, built-in name or module:factory; several: exports of one network."
        ),
    ],
    slide: Annotated[
        list[Path] | None, typer.Option(help="Whose tissue is predicted; default: the sample slide; repeatable.")
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="um per px of the slides, where they do not state it.")] = None,
    tiles: Annotated[int, typer.Option(help="Tiles to predict.")] = 4,
    workers: Annotated[int | None, typer.Option(help="Predictions at once; default: the cores.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    weights: WeightsOption = None,
    *,
    card: CardFields,
) -> None:
    """Measure a model on every runtime and precision that runs it here.

    Speed is that of tiles that lie ready, without reading and blending; memory is that of the process, runtime
    included; labels are compared with those of the first row that runs. int8 and fp16 are measured where
    `wsi-seg export` has left them beside the model. Options from --model-mpp on complete the card of a model that has
    none.
    """
    from wsi_seg.engine.cores import usable_cores
    from wsi_seg.export.benching import BenchRequest
    from wsi_seg.export.benching import bench as measure
    from wsi_seg.sample import fetch_sample

    slides = tuple(slide or (fetch_sample(),))
    request = BenchRequest(tuple(models), slides, mpp, weights, card, tiles, workers or usable_cores())
    trials: list[Trial] = []
    width = _name_width(models)
    for trial in measure(request):
        trials.append(trial)
        if not as_json:
            reference = next((one for one in trials if one.runs), trial)
            _print_row(_row(trial, reference), width, first=len(trials) == 1)
    if as_json:
        print(json.dumps([trial.to_mapping() for trial in trials], indent=2))
    else:
        _print_notes(trials, models[0])


def _name_width(models: Sequence[str]) -> int:
    """Columns for names: those of the models and of exports beside them, as far as the terminal has room."""
    room = get_terminal_size().columns - sum(len(_GAP) + width for width in _WIDTHS)
    return min(max(room, _SHORTEST_NAME), max(len(Path(model).name) for model in models) + len(".int8"))


def _print_row(cells: Sequence[str], width: int, *, first: bool) -> None:
    """A row, headings before the first; what a row lacks is told in the notes."""
    for name, *others in (("program", *_HEADER), cells) if first else (cells,):
        texts = [f"{_shortened(name, width):<{width}}"]
        for column, (cell, size) in enumerate(zip(others, _WIDTHS, strict=False)):
            texts.append(f"{cell:<{size}}" if column < 2 else f"{cell:>{size}}")
        print(_GAP.join(texts).rstrip(), flush=True)


def _shortened(name: str, width: int) -> str:
    """The end of a name that is too long, which tells more than its beginning.

    >>> _shortened("a-long-name.int8.onnx", 12)
    '…e.int8.onnx'
    """
    return name if len(name) <= width else f"…{name[1 - width :]}"


def _row(trial: Trial, reference: Trial) -> tuple[str, ...]:
    from wsi_seg.export.report import plain_loss

    named = (Path(trial.spec.model).name, trial.spec.runtime, trial.spec.precision)
    if not trial.runs:
        return *named, "-", "-", "-", "-", "-"
    times = trial.mpx_per_s / reference.mpx_per_s if reference.mpx_per_s else 0
    result = trial.agreement
    same, loss = ("reference", "") if result is None else (
        f"{100 * result.argmax_agreement:.3f} %", plain_loss(result.worst_dice_loss)
    )  # fmt: skip
    return *named, f"{trial.mpx_per_s:.2f}", f"{times:.2f}", f"{trial.peak_bytes / 1e6:.0f}", same, loss


def _print_notes(trials: Sequence[Trial], model: str) -> None:
    """What did not run and why, what was warned of, what could be measured besides: each once, after the table."""
    notes = [f"{Path(t.spec.model).name} on {t.spec.runtime} in {t.spec.precision}: {t.failure}"
             for t in trials if not t.runs]  # fmt: skip
    for said in dict.fromkeys(said for trial in trials for said in trial.notes):
        rows = [f"{trial.spec.runtime} {trial.spec.precision}" for trial in trials if said in trial.notes]
        notes.append(f"{', '.join(dict.fromkeys(rows))}: {said}")
    if not any(trial.spec.precision == "int8" for trial in trials):
        notes.append(f"no int8 program: wsi-seg export {model} --precision int8 --calibrate SLIDE makes one")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
