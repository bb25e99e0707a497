"""`wsi-seg evaluate`: how well do predicted masks agree with reference masks?"""

from __future__ import annotations

import re
from math import isfinite, isinf, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_seg.errors import UsageError, WriteError

if TYPE_CHECKING:
    from wsi_seg.evaluate.scores import Estimate, Evaluation


def evaluate(
    predicted: Annotated[
        Path, typer.Argument(help="A result, a label TIFF or PNG, or a folder of such.", show_default=False)
    ],
    reference: Annotated[
        Path,
        typer.Argument(
            help="The same kinds, or GeoJSON or ASAP XML annotations; of a folder, those with the same names.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for scores.csv, scores.json and report.png.", show_default=False)
    ] = None,
    classes: Annotated[
        str, typer.Option(help="Names of the values 0, 1, …; without, those that the files state.", show_default=False)
    ] = "",
    predicted_values: Annotated[
        str,
        typer.Option(help="What values (or classes) of the prediction are: 255=nuclei,edge=background,3=ignore."),
    ] = "",
    reference_values: Annotated[
        str, typer.Option(help="The same for the reference; for annotations, names of polygons: Tumor=tumour.")
    ] = "",
    unannotated: Annotated[
        str, typer.Option(help="Class of what no polygon covers; without, it is left out.", show_default=False)
    ] = "",
    objects: Annotated[
        str, typer.Option(help="Classes to score as objects too, e.g. nuclei.", show_default=False)
    ] = "",
    instances: Annotated[bool, typer.Option(help="The reference holds instance ids, 0 between them.")] = False,
    predicted_instances: Annotated[bool, typer.Option(help="The prediction holds instance ids.")] = False,
    object_iou: Annotated[float, typer.Option(help="Objects match above this IoU.")] = 0.5,
    connectivity: Annotated[int, typer.Option(help="Of components that are objects: 4, or 8 with corners.")] = 8,
    tolerance: Annotated[str, typer.Option(help="Of boundary F1: 2px or 1um.")] = "2px",
    count_not_analysed: Annotated[
        str, typer.Option(help="Pixels not analysed: left-out of the scores, or as-wrong.")
    ] = "left-out",
    mpp: Annotated[
        float | None, typer.Option(help="um per px of predictions that do not state it.", show_default=False)
    ] = None,
    case: Annotated[
        str,
        typer.Option(help="Regular expression; its first group in a name is the case that is resampled."),
    ] = "",
    only_paired: Annotated[bool, typer.Option(help="Leave out files without a partner.")] = False,
    resamples: Annotated[int, typer.Option(help="Of the bootstrap.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score predicted masks against reference masks.

    Per class: Dice, IoU, precision, recall, boundary F1 and 95 % Hausdorff distance; of objects: F1, panoptic quality
    and aggregated Jaccard index. With several slides, 95 % bootstrap intervals over cases.
    """
    from wsi_seg.evaluate.documents import to_json
    from wsi_seg.evaluate.evaluation import Reading, evaluate_masks
    from wsi_seg.evaluate.pairing import pair_up
    from wsi_seg.evaluate.scores import Scoring

    if count_not_analysed not in ("left-out", "as-wrong"):
        raise UsageError(f"--count-not-analysed {count_not_analysed!r}", rule="left-out or as-wrong")
    if mpp is not None and not (isfinite(mpp) and mpp > 0):
        raise UsageError(f"--mpp {mpp}", rule="finite and above 0")
    if resamples < 1 or seed < 0:
        raise UsageError(f"--resamples {resamples} --seed {seed}", rule="at least 1 resample, a seed of 0 or more")
    size, unit = parse_tolerance(tolerance)
    reading = Reading(
        classes=_names(classes),
        predicted_values=parse_values("--predicted-values", predicted_values),
        reference_values=parse_values("--reference-values", reference_values),
        predicted_instances=predicted_instances,
        reference_instances=instances,
        unannotated=unannotated,
        mpp=mpp,
    )
    scoring = Scoring(
        tolerance=size,
        tolerance_unit=unit,
        as_wrong=count_not_analysed == "as-wrong",
        objects=_names(objects),
        connectivity=connectivity,
        object_iou=object_iou,
        n_resamples=resamples,
        seed=seed,
    )
    pairs = pair_up(predicted, reference, only_paired=only_paired, case=case)
    evaluation = evaluate_masks(pairs, reading, scoring)
    if out is not None:
        _write(evaluation, out)
    print(to_json(evaluation) if as_json else described(evaluation))
    if out is not None and not as_json:
        print(f"\n{out}/scores.csv, scores.json, report.png")


def parse_tolerance(text: str) -> tuple[float, str]:
    """(value, unit) of `2px` or `1.5um`.

    >>> parse_tolerance("1.5um"), parse_tolerance("3")
    ((1.5, 'um'), (3.0, 'px'))
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(px|um|µm)?", text.strip())
    if match is None:
        raise UsageError(f"--tolerance {text!r}", rule="a number and px or um", remedy="e.g. 2px or 1um")
    return float(match.group(1)), "um" if match.group(2) in ("um", "µm") else "px"


def parse_values(option: str, text: str) -> dict[str, str]:
    """Mapping of `FROM=TO,FROM=TO`.

    >>> parse_values("--reference-values", "0=background, Tumor=tumour")
    {'0': 'background', 'Tumor': 'tumour'}
    """
    entries = [entry.partition("=") for entry in text.split(",") if entry.strip()]
    if any(not mark or not left.strip() or not right.strip() for left, mark, right in entries):
        raise UsageError(
            f"{option} {text!r}", rule="VALUE=CLASS, separated by commas", remedy="e.g. 0=background,255=nuclei"
        )
    return {left.strip(): right.strip() for left, _, right in entries}


def described(evaluation: Evaluation) -> str:
    """The evaluation as people read it in a terminal."""
    blocks = [_overview(evaluation), _table(evaluation, ("dice", "iou", "precision", "recall"))]
    blocks.append(_table(evaluation, ("boundary_f1", "hausdorff95")))
    if evaluation.scoring.objects:
        names = evaluation.scoring.objects
        metrics = [metric for metric in evaluation.metrics if metric.startswith(("object", "panoptic", "aggregated"))]
        blocks.append(_table(evaluation, tuple(metrics[:3]), only=names))
        blocks.append(_table(evaluation, tuple(metrics[3:]), only=names))
    blocks.append(_not_analysed(evaluation))
    if len(evaluation.slides) > 1:
        blocks.append(_extremes(evaluation))
    blocks.append("\n".join(f"note: {note}" for note in evaluation.notes))
    return "\n\n".join(block for block in blocks if block)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _overview(evaluation: Evaluation) -> str:
    scoring = evaluation.scoring
    n, cases = len(evaluation.slides), len(evaluation.cases)
    rest = f" of {_count(cases, 'case')}" if cases != n else ""
    parts = [f"{_count(n, 'slide')}{rest}", f"boundary tolerance {scoring.tolerance:g} {scoring.tolerance_unit}"]
    if scoring.objects:
        parts.append(f"objects match above an IoU of {scoring.object_iou:g}, {scoring.connectivity}-connected")
    return ", ".join(parts)


def _table(evaluation: Evaluation, metrics: tuple[str, ...], only: tuple[str, ...] = ()) -> str:
    """Rows of classes, columns of scores; the mean comes last where there is something to average."""
    from wsi_seg.evaluate.scores import TITLES

    rows = [(entry.name, index) for index, entry in enumerate(evaluation.classes) if not only or entry.name in only]
    if len(rows) > 1:
        rows.append(("mean", len(evaluation.classes)))
    titles = [f"HD95 ({evaluation.unit})" if metric == "hausdorff95" else TITLES[metric] for metric in metrics]
    cells = [[name, *(_shown(evaluation.pooled[metric][index], metric) for metric in metrics)] for name, index in rows]
    lines = [["class" if not only else "objects", *titles], *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _shown(estimate: Estimate, metric: str) -> str:
    if isnan(estimate.value):
        return "-"
    if isinf(estimate.value):
        return "inf"
    digits = 2 if metric == "hausdorff95" else 3
    value = f"{estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _not_analysed(evaluation: Evaluation) -> str:
    total, missing = int(evaluation.confusion.sum()), evaluation.not_analysed
    if not total or not missing.sum():
        return "not analysed: none of the annotated area"
    how = "counted as wrong" if evaluation.scoring.as_wrong else "left out of the scores"
    shares = [
        f"{entry.name} {100 * n / rows:.3g} %"
        for entry, n, rows in zip(evaluation.classes, missing, evaluation.confusion.sum(axis=1), strict=True)
        if rows
    ]
    return f"not analysed: {100 * missing.sum() / total:.3g} % of the annotated area ({', '.join(shares)}), {how}"


def _extremes(evaluation: Evaluation) -> str:
    known = [(m, s.name) for m, s in zip(evaluation.slide_means(), evaluation.slides, strict=True) if not isnan(m)]
    if not known:
        return ""
    (low, worst), (high, best) = min(known), max(known)
    return f"mean Dice of a slide: lowest {low:.3f} ({worst}), highest {high:.3f} ({best})"


def _write(evaluation: Evaluation, out: Path) -> None:
    from wsi_seg.evaluate.documents import to_csv, to_json
    from wsi_seg.evaluate.picture import write_picture

    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "scores.csv").write_text(to_csv(evaluation), encoding="utf-8")
        (out / "scores.json").write_text(to_json(evaluation), encoding="utf-8")
        write_picture(evaluation, out / "report.png")
    except OSError as error:
        raise WriteError(f"{out} cannot be written: {error}", remedy="choose another --out") from error


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
