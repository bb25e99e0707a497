"""An evaluation as JSON and as CSV; owns the two forms.

In both, a score that does not exist (a class in neither mask) is empty or null, and an infinite distance is `inf`.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from math import isinf, isnan
from typing import Any

from wsi_seg import __version__
from wsi_seg.evaluate.scores import Estimate, Evaluation

POOLED = "(all slides)"
"""Name of the rows of all slides together."""
MEAN = "(mean of classes)"
"""Name of the rows that average over the classes that are there."""


def to_json(evaluation: Evaluation) -> str:
    """Contents of `scores.json`."""
    names = [entry.name for entry in evaluation.classes]
    content = {
        "wsi_seg": __version__,
        "scoring": asdict(evaluation.scoring),
        "distance_unit": evaluation.unit,
        "classes": names,
        "n_slides": len(evaluation.slides),
        "n_cases": len(evaluation.cases),
        "all_slides": {
            name: {metric: _mapping(evaluation.pooled[metric][index]) for metric in evaluation.metrics}
            for index, name in enumerate([*names, MEAN])
        },
        "confusion": {"rows": "reference", "columns": [*names, "not analysed"], "px": evaluation.confusion.tolist()},
        "not_analysed": _not_analysed(evaluation, names),
        "slides": [_slide(evaluation, index) for index in range(len(evaluation.slides))],
        "notes": list(evaluation.notes),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def to_csv(evaluation: Evaluation) -> str:
    """Contents of `scores.csv`: a row per slide and class, then a row per class of all slides with intervals."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    metrics = evaluation.metrics
    intervals = [f"{metric}_{end}" for metric in metrics for end in ("low", "high")]
    rows.writerow(["slide", "case", "class", "reference_px", "predicted_px", "not_analysed_px", *metrics, *intervals])
    names = [entry.name for entry in evaluation.classes]
    for row, slide in enumerate(evaluation.slides):
        for index, name in enumerate(names):
            scores = [_text(float(evaluation.per_slide[metric][row, index])) for metric in metrics]
            row_of = [slide.name, slide.case, name, *_pixels(slide.totals.confusion, index)]
            rows.writerow([*row_of, *scores, *[""] * len(intervals)])
    for index, name in enumerate([*names, MEAN]):
        estimates = [evaluation.pooled[metric][index] for metric in metrics]
        pixels: list[int] | list[str] = _pixels(evaluation.confusion, index) if index < len(names) else ["", "", ""]
        ends = [_text(end) for estimate in estimates for end in (estimate.low, estimate.high)]
        rows.writerow([POOLED, "", name, *pixels, *[_text(estimate.value) for estimate in estimates], *ends])
    return text.getvalue()


def _slide(evaluation: Evaluation, row: int) -> dict[str, Any]:
    slide = evaluation.slides[row]
    names = [entry.name for entry in evaluation.classes]
    return {
        "name": slide.name,
        "case": slide.case,
        "size": list(slide.size),
        "ignored_px": slide.n_ignored,
        "not_analysed_px": int(slide.totals.confusion[:, -1].sum()),
        "scores": {
            name: {metric: _number(float(evaluation.per_slide[metric][row, index])) for metric in evaluation.metrics}
            for index, name in enumerate(names)
        },
    }


def _not_analysed(evaluation: Evaluation, names: list[str]) -> dict[str, Any]:
    """Pixels and shares of what the references label and the predictions leave out."""
    rows = {
        name: {"px": int(missing), "share": _number(missing / total if total else float("nan"))}
        for name, missing, total in zip(
            names, evaluation.not_analysed, evaluation.confusion.sum(axis=1).tolist(), strict=True
        )
    }
    px, total = int(evaluation.not_analysed.sum()), int(evaluation.confusion.sum())
    return {**rows, "(all classes)": {"px": px, "share": _number(px / total if total else float("nan"))}}


def _pixels(confusion: Any, index: int) -> list[int]:
    """(reference, predicted, not analysed) px of a class."""
    return [int(confusion[index].sum()), int(confusion[:, index].sum()), int(confusion[index, -1])]


def _mapping(estimate: Estimate) -> dict[str, Any]:
    return {"value": _number(estimate.value), "low": _number(estimate.low), "high": _number(estimate.high)}


def _number(value: float | None) -> float | str | None:
    """JSON has neither NaN nor infinity."""
    if value is None or isnan(value):
        return None
    return "inf" if isinf(value) else round(float(value), 6)


def _text(value: float | None) -> str:
    number = _number(value)
    return "" if number is None else str(number)
