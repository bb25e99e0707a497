"""The picture of an evaluation: scores with intervals, confusion, the worst and the best slide. Owns matplotlib here.

Colours are those of Okabe and Ito, told apart by colour-blind readers (https://jfly.uni-koeln.de/color/); the bars of
classes carry their names, so that nothing depends on colour alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.evaluate.evaluation import BOTH_FIRST, CONFUSED, EXTRA, MISSED, NOT_ANALYSED, RIGHT, UNSCORED
from wsi_seg.evaluate.extras import extra_needed
from wsi_seg.evaluate.scores import TITLES, Estimate, Evaluation
from wsi_seg.geometry import ceil_div

MAX_CLASSES = 12
"""Classes whose names and counts still fit the picture; of more, the most frequent are shown."""
MAX_SLIDES = 6
_KINDS = {
    RIGHT: ("right class", "#0072B2"),
    MISSED: ("missed", "#E69F00"),
    EXTRA: ("predicted where there is none", "#CC79A7"),
    CONFUSED: ("other class", "#D55E00"),
    BOTH_FIRST: ("{first}, both", "#F0F0F0"),
    NOT_ANALYSED: ("not analysed", "#9C9C9C"),
    UNSCORED: ("not annotated", "#FFFFFF"),
}
_METRIC_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#D55E00")
_BARS = ("dice", "iou", "precision", "recall", "boundary_f1", "object_f1")


def write_picture(evaluation: Evaluation, path: Path) -> None:
    """Draw `report.png`. Raises EvaluationError without matplotlib, OSError where it cannot be written."""
    with extra_needed():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    shown = _shown(evaluation)
    slides = _chosen(evaluation)
    width = max(11.0, 6.5 + 0.9 * len(shown))
    rows = ceil_div(len(slides), 3)
    height = 4.6 + 3.0 * rows
    figure: Any = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subfigures(2, 1, height_ratios=[4.6, 3.0 * rows], hspace=0.04)
    bars, matrix = top.subplots(1, 2, width_ratios=[1.7, 1])
    _draw_bars(bars, evaluation, shown)
    _draw_confusion(matrix, evaluation, shown)
    _draw_slides(bottom, evaluation, slides)
    n, cases = len(evaluation.slides), len(evaluation.cases)
    top.suptitle(
        f"{n} slide{'s' * (n != 1)}, {cases} case{'s' * (cases != 1)}{_interval_words(evaluation)}", fontsize=11
    )
    figure.savefig(path, format="png")


def _interval_words(evaluation: Evaluation) -> str:
    return "; lines: 95 % bootstrap intervals over cases" if len(evaluation.cases) > 1 else "; no intervals of one case"


def _shown(evaluation: Evaluation) -> list[int]:
    """Classes that are drawn, in order."""
    frequent = np.argsort(-evaluation.confusion.sum(axis=1), kind="stable")[:MAX_CLASSES]
    return sorted(int(index) for index in frequent)


def _draw_bars(axes: Any, evaluation: Evaluation, shown: list[int]) -> None:
    metrics = [name for name in _BARS if name in evaluation.metrics]
    step = 0.84 / len(metrics)
    for row, metric in enumerate(metrics):
        estimates = [evaluation.pooled[metric][index] for index in shown]
        places = np.arange(len(shown)) + (row - (len(metrics) - 1) / 2) * step
        values = np.nan_to_num([estimate.value for estimate in estimates])
        axes.bar(places, values, step * 0.9, color=_METRIC_COLOURS[row], label=TITLES[metric])
        for place, estimate in zip(places, estimates, strict=True):
            _draw_interval(axes, float(place), estimate)
    axes.set_xticks(range(len(shown)), [_short(evaluation, index) for index in shown], rotation=_rotation(shown))
    axes.set_ylim(0, 1.02)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=len(metrics), fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), borderpad=0)


def _draw_interval(axes: Any, place: float, estimate: Estimate) -> None:
    if np.isnan(estimate.value):
        axes.text(place, 0.01, "–", ha="center", fontsize=8, color="#555555")
    elif estimate.low is not None and estimate.high is not None:
        axes.plot([place, place], [estimate.low, estimate.high], color="#222222", linewidth=1.2)


def _draw_confusion(axes: Any, evaluation: Evaluation, shown: list[int]) -> None:
    """Shares of each class of the reference; the last column is what was not analysed."""
    columns = [*shown, len(evaluation.classes)]
    counts = evaluation.confusion.astype(np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    shares = (counts / np.where(totals > 0, totals, 1))[np.ix_(shown, columns)]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row in range(len(shown)):
        for column in range(len(columns)):
            value = shares[row, column]
            text = "–" if totals[shown[row], 0] == 0 else f"{100 * value:.0f}" if value >= 0.005 else "·"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=8, color="white" if value > 0.5 else "#222222"
            )
    names = [_short(evaluation, index) for index in shown]
    axes.set_xticks(range(len(columns)), [*names, "not analysed"], rotation=90 if len(shown) > 3 else 30, fontsize=8)
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("reference")
    axes.set_title("confusion, % of the reference", fontsize=9)


def _chosen(evaluation: Evaluation) -> list[int]:
    """Slides that are shown: the worst half and the best half by mean Dice, worst first."""
    means = np.nan_to_num(evaluation.slide_means("dice"), nan=2.0)  # of what is not scored, nothing is to be seen
    order = [int(index) for index in np.argsort(means, kind="stable")]
    return order if len(order) <= MAX_SLIDES else [*order[: MAX_SLIDES // 2], *order[-(MAX_SLIDES // 2) :]]


def _draw_slides(figure: Any, evaluation: Evaluation, slides: list[int]) -> None:
    from matplotlib.patches import Patch

    columns = min(3, len(slides))
    rows = ceil_div(len(slides), columns)
    grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    means = evaluation.slide_means("dice")
    for axes in grid:
        axes.set_axis_off()
    for axes, index in zip(grid, slides, strict=False):
        slide = evaluation.slides[index]
        axes.imshow(_coloured(slide.picture), interpolation="nearest")
        axes.add_patch(_frame(slide.picture.shape))
        score = "not scored" if np.isnan(means[index]) else f"mean Dice {means[index]:.3f}"
        axes.set_title(f"{_cut(slide.name, 34)}: {score}", fontsize=8)
    first = evaluation.classes[0].name
    handles = [
        Patch(facecolor=colour, edgecolor="#777777", label=_cut(name.format(first=first), 34))
        for name, colour in _KINDS.values()
    ]
    figure.legend(handles=handles, ncols=len(handles), fontsize=8, frameon=False, loc="outside lower center")
    if len(evaluation.slides) > MAX_SLIDES:
        figure.suptitle(f"the {MAX_SLIDES // 2} worst and the {MAX_SLIDES // 2} best by mean Dice", fontsize=9)


def _frame(shape: tuple[int, ...]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((-0.5, -0.5), shape[1], shape[0], fill=False, edgecolor="#777777", linewidth=0.8)


def _coloured(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    palette = np.zeros((len(_KINDS), 3), np.uint8)
    for kind, (_, colour) in _KINDS.items():
        palette[kind] = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    coloured: NDArray[np.uint8] = palette[picture]
    return coloured


def _short(evaluation: Evaluation, index: int) -> str:
    return _cut(evaluation.classes[index].name, 18)


def _cut(text: str, longest: int) -> str:
    text = text.replace("$", r"\$")  # matplotlib reads dollars as mathematics
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _rotation(shown: list[int]) -> int:
    return 0 if len(shown) <= 4 else 30
