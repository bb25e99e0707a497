"""A result drawn with matplotlib: slide, labels, legend, scale bar.

Owns matplotlib in this room; it is optional, and asked for only here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsi_seg.errors import UsageError
from wsi_seg.output.overview import scale_bar_um
from wsi_seg.output.result_spec import NOT_ANALYSED

if TYPE_CHECKING:
    import matplotlib.axes

    from wsi_seg.api.result import Result

_SIDE = 1024
"""Of the picture's longer side, px."""


def draw(result: Result, ax: matplotlib.axes.Axes | None, level: int | None) -> matplotlib.axes.Axes:
    """Draw on `ax`, or on a figure made for it; axes in µm. Raises UsageError without matplotlib."""
    axes = _new_axes() if ax is None else ax
    height_um, width_um = result.shape[0] * result.mpp.y, result.shape[1] * result.mpp.x
    axes.imshow(result.overlay(level, side=_SIDE), extent=(0, width_um, height_um, 0), interpolation="nearest")
    axes.set_title(result.name, parse_math=False)
    axes.set_xticks([])
    axes.set_yticks([])
    _draw_scale_bar(axes, height_um, width_um)
    _draw_legend(axes, result)
    return axes


def _new_axes() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise UsageError(
            "plot needs matplotlib, which is not installed",
            rule="drawing is optional",
            remedy="pip install matplotlib; result.overlay() gives the same picture as an array",
        ) from error
    return pyplot.subplots(layout="constrained", figsize=(8, 6))[1]


def _draw_scale_bar(axes: Any, height_um: float, width_um: float) -> None:
    """Lower left, black with a white rim so that it shows on any slide."""
    length = scale_bar_um(width_um)
    x, y = 0.03 * width_um, height_um - 0.03 * max(height_um, width_um)
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    for colour, width in (("white", 7), ("black", 4)):
        axes.plot([x, x + length], [y, y], color=colour, linewidth=width, solid_capstyle="butt")
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    axes.annotate(text, (x + length / 2, y), (0, 6), textcoords="offset points", ha="center", va="bottom", bbox=box)


def _draw_legend(axes: Any, result: Result) -> None:
    """To the right of the picture, where it hides nothing."""
    from matplotlib.patches import Patch

    areas = result.areas()
    entries = [
        Patch(facecolor=entry.colour, edgecolor="0.4", label=f"{entry.name}, {areas[entry.name].percent:.1f} %")
        for entry in result.classes
    ]
    if areas.not_analysed_mm2:
        entries.append(Patch(facecolor="0.88", edgecolor="0.5", hatch="////", label=NOT_ANALYSED))
    legend = axes.legend(handles=entries, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
