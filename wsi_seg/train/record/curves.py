"""The curves of a run as one PNG; owns their look; imports matplotlib, and only when it draws."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsi_seg.output.durable import write_durably
from wsi_seg.train.record.log import Row

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette, told apart by colour-blind people; line styles change where it repeats."""
_STYLES = ("-", "--", ":", "-.")


def write_curves(path: Path, rows: Sequence[Row]) -> None:
    """Draw losses, scores per class and the learning rate over the epochs. Raises WriteError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, scores, rate = figure.subplots(1, 3)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    _draw(losses, rows, [c for c in columns if c == "loss" or c.startswith(("loss ", "validation loss"))], "loss")
    _draw(scores, rows, [c for c in columns if c.startswith("dice ")], "Dice (validation)")
    _draw(rate, rows, ["learning rate"], "learning rate")
    scores.set_ylim(0, 1)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    write_durably(path, picture.getvalue())


def _draw(axes: Any, rows: Sequence[Row], columns: Sequence[str], title: str) -> None:
    for index, column in enumerate(columns):
        points = [(row["epoch"], row[column]) for row in rows if column in row]
        axes.plot(
            *zip(*points, strict=True), label=column.removeprefix("dice "),
            color=_COLOURS[index % len(_COLOURS)], linestyle=_STYLES[index // len(_COLOURS) % len(_STYLES)],
            marker="." if len(points) < 30 else None,
        )  # fmt: skip
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.3)
    if len(columns) > 1:
        axes.legend(fontsize="small")
