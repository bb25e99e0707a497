"""The picture of a result that people look at first: slide, overlay, legend, areas, scale bar.

Owns Pillow. Knows neither stores nor slides: the thumbnail and one small label level are given.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wsi_seg.geometry import ceil_div
from wsi_seg.output.result_spec import NOT_ANALYSED, ResultSpec, Thumbnail
from wsi_seg.output.summary import Summary, area_text

LONGEST_SIDE = 1600
"""Of the picture, px."""
OPACITY = 0.55
"""Of the colours over the slide."""

_MARGIN = 24
_GAP = 16
_INK = (34, 34, 34)
_PAPER = (255, 255, 255)
_FAINT = (110, 110, 110)
_HATCH = (120, 120, 120)
_TITLE_PX, _TEXT_PX, _SMALL_PX = 30, 20, 16
_ROW = 32
_SWATCH = 34
"""From a swatch's left edge to its text."""
_LEGEND_COLUMN = (240, 760)
"""Least and greatest width of a column of the legend."""
_NARROWEST = 720
"""Of what is between the margins: the line below the title fits."""
_MAX_PANELS_HEIGHT = 1100
_SMALLEST_PANEL = 64

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
LegendEntry = tuple[str, str, tuple[int, int, int] | None]
"""Name, area in words, colour; None is hatched."""
Size = tuple[int, int]
"""(height, width) px."""


@dataclass(frozen=True, slots=True)
class _Arrangement:
    """Where things are, px of the picture."""

    panel: Size
    stacked: bool
    """Panels one above the other, for broad slides; else side by side."""
    legend_columns: int
    legend_rows: int
    legend_column: int
    """Width of a column."""

    @property
    def panels(self) -> Size:
        """Both panels and what separates them."""
        h, w = self.panel
        return (2 * h + _GAP, w) if self.stacked else (h, 2 * w + _GAP)

    @property
    def second(self) -> Size:
        """Corner of the second panel from the first's."""
        h, w = self.panel
        return (h + _GAP, 0) if self.stacked else (0, w + _GAP)


def overview_level(spec: ResultSpec) -> int:
    """Label level that a picture needs: the coarsest whose longest side is at least that of a panel, or level 0."""
    sides = [max(spec.layout.level_size(level)) for level in range(spec.layout.n_levels)]
    return max((level for level, side in enumerate(sides) if side >= LONGEST_SIDE), default=0)


def render_overview(thumbnail: Thumbnail, labels: NDArray[np.integer], spec: ResultSpec, summary: Summary) -> bytes:
    """Draw the overview.

    Args:
        thumbnail: of the whole slide; the part that the canvas covers is shown.
        labels: (h, w) of any label level, whole; `overview_level` is the right size.
        spec: the result.
        summary: its areas.

    Returns:
        PNG, at most `LONGEST_SIDE` px on its longest side (more only where the legend is longer).
    """
    entries = _legend_entries(spec, summary)
    arrangement = _arrange(spec, entries)
    slide = _slide_panel(thumbnail, spec, arrangement.panel)
    overlay = _overlay_panel(slide, labels, spec)
    return _png(_compose((slide, overlay), arrangement, entries, spec, summary))


def overlay_pixels(
    thumbnail: Thumbnail, labels: NDArray[np.integer], spec: ResultSpec, side: int, opacity: float = OPACITY
) -> NDArray[np.uint8]:
    """The slide under the class colours alone, for whoever has a page of his own.

    Args:
        thumbnail: of the whole slide; the part that the canvas covers is shown.
        labels: (h, w) of any label level, whole.
        spec: the result.
        side: of the longer side of the picture, px.
        opacity: of the colours, 0 … 1; 0 is the slide alone, what was not analysed is hatched all the same.

    Returns:
        (h, w, 3) RGB, uint8.
    """
    height_um, width_um = spec.layout.size[0] * spec.mpp.y, spec.layout.size[1] * spec.mpp.x
    px_per_um = side / max(height_um, width_um)
    panel = (max(1, round(height_um * px_per_um)), max(1, round(width_um * px_per_um)))
    return np.asarray(_overlay_panel(_slide_panel(thumbnail, spec, panel), labels, spec, opacity))


def png_of(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of (h, w, 3) RGB pixels."""
    return _png(Image.fromarray(pixels))


def scale_bar_um(panel_um: float) -> float:
    """Round length (1, 2 or 5 times a power of ten) that is at most a quarter of the panel's width.

    >>> [scale_bar_um(width) for width in (20_000.0, 9_000.0, 900.0)]
    [5000.0, 2000.0, 200.0]
    """
    power = 10.0 ** floor(log10(panel_um / 4))
    return max(step * power for step in (1, 2, 5) if step * power <= panel_um / 4 or step == 1)


def _arrange(spec: ResultSpec, entries: Sequence[LegendEntry]) -> _Arrangement:
    """Panels as large as the page allows, and the legend no broader than they are where that costs them nothing."""
    column = _legend_column(entries)
    columns = min(len(entries), max(1, (LONGEST_SIDE - 2 * _MARGIN) // column))
    first = _arranged(spec, column, columns, len(entries))
    fitting = max(first.panels[1], _NARROWEST) // column
    narrow = _arranged(spec, column, min(columns, max(1, fitting)), len(entries))
    whole = _header_height() + narrow.panels[0] + narrow.legend_rows * _ROW + 2 * _GAP <= LONGEST_SIDE - 2 * _MARGIN
    return narrow if whole and narrow.panel == first.panel else first


def _arranged(spec: ResultSpec, column: int, columns: int, n_entries: int) -> _Arrangement:
    height_um, width_um = spec.layout.size[0] * spec.mpp.y, spec.layout.size[1] * spec.mpp.x
    stacked = width_um > 1.6 * height_um
    rows = ceil_div(n_entries, columns)
    free = min(_MAX_PANELS_HEIGHT, LONGEST_SIDE - 2 * _MARGIN - _header_height() - rows * _ROW - 2 * _GAP)
    room_h = (free - _GAP) / 2 if stacked else free
    room_w = LONGEST_SIDE - 2 * _MARGIN if stacked else (LONGEST_SIDE - 2 * _MARGIN - _GAP) / 2
    px_per_um = min(max(room_h, _SMALLEST_PANEL) / height_um, room_w / width_um)
    panel = (max(1, round(height_um * px_per_um)), max(1, round(width_um * px_per_um)))
    return _Arrangement(panel, stacked, ceil_div(n_entries, rows), rows, column)


def _legend_entries(spec: ResultSpec, summary: Summary) -> list[LegendEntry]:
    """The classes, and the not analysed last."""
    entries: list[LegendEntry] = [
        (legible(_in_a_line(area.name)), _area_text(area.mm2, area.percent), entry.rgb)
        for area, entry in zip(summary.classes, spec.classes, strict=True)
    ]
    return [*entries, (NOT_ANALYSED, _area_text(summary.not_analysed_mm2, None), None)]


def _legend_column(entries: Sequence[LegendEntry]) -> int:
    """Width that the longest entry wants, within what is sensible."""
    font, (least, most) = _font(_TEXT_PX), _LEGEND_COLUMN
    widest = max(font.getlength(f"{name}  {text}") for name, text, _ in entries)
    return min(most, max(least, _SWATCH + round(widest) + 2 * _GAP))


def _header_height() -> int:
    return _TITLE_PX + _SMALL_PX + 2 * _GAP


def _slide_panel(thumbnail: Thumbnail, spec: ResultSpec, panel: Size) -> Image.Image:
    """The canvas' part of the thumbnail, at the panel's size."""
    y0, x0, y1, x1 = spec.l0_box
    per_l0 = spec.l0_mpp.y / thumbnail.mpp.y, spec.l0_mpp.x / thumbnail.mpp.x
    height, width = thumbnail.pixels.shape[:2]
    # the canvas may end a fraction of a pixel beyond the slide: Pillow wants the area inside the picture
    area = (
        min(max(x0 * per_l0[1], 0), width - 1),
        min(max(y0 * per_l0[0], 0), height - 1),
        min(x1 * per_l0[1], width),
        min(y1 * per_l0[0], height),
    )
    picture = Image.fromarray(thumbnail.pixels)
    return picture.resize((panel[1], panel[0]), Image.Resampling.LANCZOS, box=area)


def _overlay_panel(
    slide: Image.Image, labels: NDArray[np.integer], spec: ResultSpec, opacity: float = OPACITY
) -> Image.Image:
    """The slide under the class colours; not analysed is the slide in grey under a hatch."""
    width, height = slide.size
    rows = (np.arange(height) * labels.shape[0] // height).clip(0, labels.shape[0] - 1)
    columns = (np.arange(width) * labels.shape[1] // width).clip(0, labels.shape[1] - 1)
    picked = labels[np.ix_(rows, columns)]
    pixels = np.asarray(slide, dtype=np.float32)
    absent = picked >= len(spec.classes)
    palette = np.array([entry.rgb for entry in spec.classes], dtype=np.float32)
    coloured = pixels * (1 - opacity) + palette[np.where(absent, 0, picked)] * opacity
    grey = 0.5 * pixels.mean(axis=2, keepdims=True).repeat(3, axis=2) + 0.5 * 235
    grey[_hatch(height, width)] *= 0.5  # seen on black as well as on glass
    return Image.fromarray(np.where(absent[..., None], grey, coloured).round().astype(np.uint8))


def _hatch(height: int, width: int) -> NDArray[np.bool_]:
    """Diagonal lines, (h, w)."""
    y, x = np.ogrid[:height, :width]
    return np.asarray((y + x) % 12 == 0)


def _compose(
    panels: tuple[Image.Image, Image.Image],
    arrangement: _Arrangement,
    entries: Sequence[LegendEntry],
    spec: ResultSpec,
    summary: Summary,
) -> Image.Image:
    legend_width = arrangement.legend_columns * arrangement.legend_column
    width = 2 * _MARGIN + max(arrangement.panels[1], legend_width, min(_NARROWEST, LONGEST_SIDE - 2 * _MARGIN))
    top = _MARGIN + _header_height()
    legend_top = top + arrangement.panels[0] + 2 * _GAP
    page = Image.new("RGB", (width, legend_top + arrangement.legend_rows * _ROW + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(page)
    _draw_title(draw, width - 2 * _MARGIN, spec, summary)
    left = (width - arrangement.panels[1]) // 2
    down, right = arrangement.second
    for picture, x, y in ((panels[0], left, top), (panels[1], left + right, top + down)):
        page.paste(picture, (x, y))
        draw.rectangle((x - 1, y - 1, x + picture.width, y + picture.height), outline=_FAINT)
        _draw_scale_bar(draw, picture, (x, y), spec)
    _draw_legend(draw, legend_top, arrangement, entries)
    return page


def _draw_title(draw: ImageDraw.ImageDraw, room: int, spec: ResultSpec, summary: Summary) -> None:
    title, small = _font(_TITLE_PX), _font(_SMALL_PX)
    draw.text((_MARGIN, _MARGIN), _shortened(draw, _in_a_line(spec.name), title, room), font=title, fill=_INK)
    percent = 100 * summary.analysed_mm2 / (summary.analysed_mm2 + summary.not_analysed_mm2)
    parts = [
        f"analysed {summary.analysed_mm2:.4g} mm2 ({percent:.3g} % of the slide)",
        f"{spec.mpp.x:.4g} um per pixel",
        f"model {summary.model['name']}" if "name" in summary.model else "",
        f"run {summary.run_id[:12]}",
    ]
    line = _shortened(draw, " | ".join(part for part in parts if part), small, room)
    draw.text((_MARGIN, _MARGIN + _TITLE_PX + _GAP // 2), line, font=small, fill=_FAINT)


def _draw_scale_bar(draw: ImageDraw.ImageDraw, panel: Image.Image, corner: Size, spec: ResultSpec) -> None:
    """In the panel's lower left corner, on its own paper; `corner` is (x, y) here, as Pillow counts."""
    if panel.width < 150 or panel.height < 60:
        return
    width_um = spec.layout.size[1] * spec.mpp.x
    length_um = scale_bar_um(width_um)
    length = round(length_um * panel.width / width_um)
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} um"
    font = _font(_SMALL_PX)
    text_width = round(draw.textlength(text, font=font))
    x, y = corner[0] + 10, corner[1] + panel.height - 48
    draw.rectangle((x, y, x + max(length, text_width) + 16, y + 38), fill=_PAPER)
    draw.text((x + 8, y + 3), text, font=font, fill=_INK)
    draw.rectangle((x + 8, y + 27, x + 8 + length, y + 31), fill=_INK)


def _draw_legend(
    draw: ImageDraw.ImageDraw, top: int, arrangement: _Arrangement, entries: Sequence[LegendEntry]
) -> None:
    """One row per entry, filled column by column."""
    font, wide = _font(_TEXT_PX), arrangement.legend_column
    for n, (name, text, colour) in enumerate(entries):
        column, row = divmod(n, arrangement.legend_rows)
        x, y = _MARGIN + column * wide, top + row * _ROW
        _draw_swatch(draw, (x, y + 2, x + 24, y + 22), colour)
        room = wide - _SWATCH - _GAP - round(draw.textlength(f"  {text}", font=font))
        shown = _shortened(draw, name, font, room)
        draw.text((x + _SWATCH, y), shown, font=font, fill=_INK)
        draw.text((x + _SWATCH + round(draw.textlength(f"{shown}  ", font=font)), y), text, font=font, fill=_FAINT)


def _draw_swatch(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: tuple[int, int, int] | None
) -> None:
    x0, y0, x1, y1 = box
    draw.rectangle(box, fill=colour or (225, 225, 225), outline=_FAINT)
    if colour is None:
        for x in range(x0 + 6, x1 + y1 - y0, 8):
            draw.line((min(x, x1), y0 + max(0, x - x1), max(x - (y1 - y0), x0), min(y1, y0 + x - x0)), fill=_HATCH)


def _area_text(mm2: float, percent: float | None) -> str:
    return area_text(mm2) if percent is None else f"{area_text(mm2)}, {percent:.1f} %"


def legible(text: str) -> str:
    """The text in ASCII, all that the bundled font holds: accents dropped, other scripts as `?`.

    A font of the system would show more, but would make the picture depend on the machine.

    >>> legible("Größe 5 µm, été, 肝")
    'Gro?e 5 um, ete, ?'
    """
    plain = unicodedata.normalize("NFKD", text.replace("µ", "u"))
    return "".join(c if c.isascii() else "?" for c in plain if not unicodedata.combining(c))


def _in_a_line(text: str) -> str:
    """`text` with control characters, which a file name may hold, as question marks."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _shortened(draw: ImageDraw.ImageDraw, text: str, font: Font, room: int) -> str:
    """The text as the font can show it, or its beginning and an ellipsis where it is broader than `room` px."""
    text = legible(text)
    if draw.textlength(text, font=font) <= room:
        return text
    while text and draw.textlength(f"{text}…", font=font) > room:
        text = text[:-1]
    return f"{text}…"


def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _png(page: Image.Image) -> bytes:
    content = io.BytesIO()
    page.save(content, format="PNG")
    return content.getvalue()
