"""A result as a notebook shows it: picture, areas, where it lies. One piece of HTML that fetches nothing.

Every text that comes from a file (names of slides and classes, paths) is escaped.
"""

from __future__ import annotations

from base64 import b64encode
from html import escape
from typing import TYPE_CHECKING

from wsi_seg.output.overview import png_of

if TYPE_CHECKING:
    from wsi_seg.api.result import Result

_SIDE = 480
"""Of the picture's longer side, px."""


def html_of(result: Result) -> str:
    """Overlay as an embedded PNG beside the table of areas."""
    picture = b64encode(png_of(result.overlay(side=_SIDE))).decode("ascii")
    height, width = result.shape
    facts = f"{height} × {width} px at {result.mpp.y:.4g} µm/px, {result.n_levels} levels"
    return (
        '<div class="wsi-seg-result" style="display:flex;flex-wrap:wrap;gap:1.5em;align-items:flex-start">'
        f'<img alt="slide with labels" src="data:image/png;base64,{picture}">'
        f"<div><b>{escape(result.name)}</b><br>{escape(facts)}<br><code>{escape(str(result.path))}</code>"
        f"{result.areas()._repr_html_()}</div></div>"
    )
