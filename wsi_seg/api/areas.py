"""Areas per class as a small table: a mapping by class name, what was not analysed told apart.

Owns how areas are shown. Counts nothing: the figures come from the result's metadata.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

from wsi_seg.output.result_spec import NOT_ANALYSED
from wsi_seg.output.summary import ClassArea, area_text


class Areas(Mapping[str, ClassArea]):
    """Areas of one result: class name -> `ClassArea`, which has `mm2`, `percent`, `n_pixels` and `colour`.

    Percentages are of what was analysed. What was not is no class, counts in none of them, and is `not_analysed_mm2`.

    >>> stroma = ClassArea("stroma", "#0072b2", 300, 3.0, 75.0)
    >>> areas = Areas([stroma, ClassArea("tumour", "#e69f00", 100, 1.0, 25.0)], 6.0)
    >>> areas["tumour"].mm2, areas.analysed_mm2, areas.not_analysed_mm2
    (1.0, 4.0, 6.0)
    >>> areas
    stroma               3 mm2   75.00 %
    tumour               1 mm2   25.00 %
    not analysed         6 mm2
    """

    def __init__(self, classes: list[ClassArea], not_analysed_mm2: float) -> None:
        self._classes = {area.name: area for area in classes}
        self.analysed_mm2 = sum(area.mm2 for area in classes)
        self.not_analysed_mm2 = not_analysed_mm2

    def __getitem__(self, name: str) -> ClassArea:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def rows(self) -> list[dict[str, object]]:
        """Plain rows for a data frame, classes in index order: `class`, `mm2`, `percent`, `pixels`, `colour`."""
        return [
            {"class": a.name, "mm2": a.mm2, "percent": a.percent, "pixels": a.n_pixels, "colour": a.colour}
            for a in self.values()
        ]

    def __repr__(self) -> str:
        width = max(len(name) for name in (*self, NOT_ANALYSED))
        lines = [f"{name:<{width}}  {area_text(a.mm2):>12}  {a.percent:6.2f} %" for name, a in self.items()]
        return "\n".join([*lines, f"{NOT_ANALYSED:<{width}}  {area_text(self.not_analysed_mm2):>12}"])

    def _repr_html_(self) -> str:
        """A table of one row per class. Names are escaped; colours are `#rrggbb` by their type."""
        rows = [_row(a.colour, name, area_text(a.mm2), f"{a.percent:.2f} %") for name, a in self.items()]
        rows.append(_row("", NOT_ANALYSED, area_text(self.not_analysed_mm2), ""))
        return (
            '<table class="wsi-seg-areas"><thead><tr><th></th><th style="text-align:left">class</th><th>area</th>'
            f"<th>of analysed</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
        )


def _row(colour: str, name: str, area: str, percent: str) -> str:
    swatch = (
        f"background:{escape(colour)}"
        if colour
        else "background:repeating-linear-gradient(135deg,#bbb 0 1px,#fff 1px 5px)"
    )
    return (
        f'<tr><td><span style="display:inline-block;width:1em;height:1em;border:1px solid #888;{swatch}"></span></td>'
        f'<td style="text-align:left">{escape(name)}</td><td>{escape(area.replace("mm2", "mm²").replace("um2", "µm²"))}'
        f"</td><td>{escape(percent)}</td></tr>"
    )
