"""One thing that can be looked at: a slide, its labels, or both, and everything the page may ask about it.

Owns what leaves the server about it: pixels, classes, areas, resolution, and the name that the user gave the slide. No
path does, and of the slide's other metadata nothing (decision 51). Knows no HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import SegmentationClass
from wsi_seg.geometry import Box, Mpp
from wsi_seg.output.result_spec import ResultSpec
from wsi_seg.viewer.colouring import (
    DIFFERENCE_RGBA,
    SAME,
    blended,
    difference,
    difference_png,
    heat_png,
    jpeg,
    labels_png,
)
from wsi_seg.viewer.grid import ViewBox, ViewGrid
from wsi_seg.viewer.sampling import Picture, sample_labels, sample_probability
from wsi_seg.viewer.sources import LabelSource, SourceState

if TYPE_CHECKING:
    from wsi_seg.viewer.regions import RegionFile

COMPARED_SIDE = 4096
"""Longest side of the view on which the agreement of two label maps is counted, px."""
_STRIP = 256
"""Rows of it that are counted at once: all of them together would take half a GB."""
_THUMBNAIL_SIDE = 512
_OWN: Mapping[int, str] = MappingProxyType({})
_KINDS = ("same", "gained", "lost", "changed", "analysed in one only")


@dataclass(frozen=True, slots=True)
class Picked:
    """A tile ready to be sent."""

    content: bytes
    media_type: str


@dataclass(slots=True)
class Shown:
    """A slide with its labels; either may be missing, not both."""

    id: str
    """Opaque; made anew whenever the server starts."""
    name: str
    l0_size: tuple[int, int]
    l0_mpp: Mpp | None
    l0_origin: tuple[int, int]
    """Level-0 px (y, x) from which coordinates in GeoJSON are counted: the corner of the scanned bounds."""
    picture: Picture | None
    labels: LabelSource | None
    result: str = ""
    """Name of the result's file, which tells two results of one slide apart; empty for a slide alone."""
    notes: list[str] = field(default_factory=list)
    regions: RegionFile | None = None
    predict_in: Callable[[tuple[float, float, float, float], str], int] | None = None
    """Where labels are predicted on demand: predicts those in a box (y0, x0, y1, x1) of level-0 px that a page looks
    at, and answers how many blocks are still to come; -1 where that is more than is predicted on demand."""

    @property
    def grid(self) -> ViewGrid:
        """The tiles of all its layers."""
        return ViewGrid(self.l0_size)

    def layer_tile(
        self, layer: str, view: ViewBox, hidden: Collection[int] = (), colours: Mapping[int, str] = _OWN
    ) -> Picked:
        """A tile of `slide`, `labels` or `probability-N`; `colours` (#rrggbb) by class stand in for the model's.

        Raises KeyError where it has no such layer, WsiSegError.
        """
        if layer == "slide" and self.picture is not None:
            return Picked(jpeg(self.picture.read(view)), "image/jpeg")
        if self.labels is None:
            raise KeyError(layer)
        if layer == "labels":
            return Picked(self._labels_png(view, hidden, colours), "image/png")
        matched = re.fullmatch(r"probability-([0-9]{1,5})", layer)
        if matched and int(matched[1]) < len(self._channels()):
            return Picked(heat_png(sample_probability(self.labels, view, int(matched[1]))), "image/png")
        raise KeyError(layer)

    def difference_tile(self, other: Shown, view: ViewBox) -> Picked:
        """A tile of what differs from `other` to this. Raises KeyError where they cannot be compared."""
        return Picked(difference_png(self._difference(other, view)), "image/png")

    def agreement(self, other: Shown) -> dict[str, Any]:
        """Shares of px, counted on one view of the whole slide, that are the same or differ, and how."""
        view = self.grid.whole(COMPARED_SIDE)
        counts = np.zeros(len(_KINDS), np.int64)
        for y in range(view.box.y0, view.box.y1, _STRIP):
            strip = Box(y, view.box.x0, min(y + _STRIP, view.box.y1), view.box.x1)
            counts += self._counted(other, ViewBox(strip, view.downsample))
        total = max(1, int(counts.sum()))
        return {
            "downsample": view.downsample,
            "shares": [
                {"kind": kind, "share": n / total, "colour": _css(colour)}
                for kind, n, colour in zip(_KINDS, counts.tolist(), DIFFERENCE_RGBA, strict=True)
            ],
        }

    def _counted(self, other: Shown, view: ViewBox) -> NDArray[np.int64]:
        """Px of a view by what differs; what neither has analysed counts nowhere."""
        kinds = self._difference(other, view)
        labels, spec = self._sampled(view)
        return np.bincount(kinds[(labels != spec.not_analysed) | (kinds != SAME)], minlength=len(_KINDS))

    def thumbnail(self) -> Picked:
        """All of it, small."""
        view = self.grid.whole(_THUMBNAIL_SIDE)
        height, width = view.box.size
        pixels = np.full((height, width, 3), 255, np.uint8) if self.picture is None else self.picture.read(view)
        if self.labels is not None:
            pixels = blended(pixels, self._labels_png(view, {0}), 0.6)
        return Picked(jpeg(pixels), "image/jpeg")

    def at(self, l0_y: int, l0_x: int) -> dict[str, Any]:
        """Class, and probabilities where stored, at a level-0 px."""
        if self.labels is None:
            return {"class": None}
        view = ViewBox(Box.at(l0_y, l0_x, 1, 1), 1)
        label = int(sample_labels(self.labels, view)[0, 0])
        channels = range(len(self._channels()))
        return {
            "class": label if label < len(self._classes()) else None,
            "probabilities": [int(sample_probability(self.labels, view, n)[0, 0]) / 255 for n in channels],
        }

    def describe(self) -> dict[str, Any]:
        """What the page needs, JSON-able."""
        grid, y0x0y1x1 = self.grid, (0.0, 0.0, float(self.l0_size[0]), float(self.l0_size[1]))
        return {
            "id": self.id,
            "name": self.name,
            "result": self.result,
            "size": list(self.l0_size),
            "mpp": None if self.l0_mpp is None else [self.l0_mpp.y, self.l0_mpp.x],
            "origin": list(self.l0_origin),
            "max_level": grid.max_level,
            "has_slide": self.picture is not None,
            "has_labels": self.labels is not None,
            "canvas": list(self.labels.spec.l0_box) if self.labels else list(y0x0y1x1),
            "canvas_mpp": [self.labels.spec.mpp.y, self.labels.spec.mpp.x] if self.labels else None,
            "classes": [{"name": entry.name, "colour": entry.colour} for entry in self._classes()],
            "probabilities": self._channels(),
            "is_live": self.predict_in is not None,
            "keeps_regions": self.regions is not None,
            "notes": self.notes,
            "state": self.state(),
        }

    def state(self) -> dict[str, Any]:
        """How far the labels are, and the areas so far."""
        if self.labels is None:
            return {"version": "0", "run": "", "finished": True, "areas": None}
        state = self.labels.state()
        return {
            "version": state.version,
            "run": self.labels.run,
            "finished": state.finished,
            "done": state.n_done,
            "tasks": state.n_tasks,
            "areas": self._areas(state),
        }

    def is_of(self, version: str) -> bool:
        """Whether the labels that are read now are of the run that a version names: such a tile may be kept."""
        return self.labels is None or version.partition("-")[0] == self.labels.run

    def _areas(self, state: SourceState) -> dict[str, Any] | None:
        assert self.labels is not None
        if state.counts is None:
            return state.areas
        *of_classes, absent = state.counts
        pixel, total = self.labels.spec.pixel_mm2, max(1, sum(of_classes))
        return {
            "classes": [{"mm2": n * pixel, "percent": 100 * n / total} for n in of_classes],
            "analysed_mm2": sum(of_classes) * pixel,
            "not_analysed_mm2": absent * pixel,
        }

    def _labels_png(self, view: ViewBox, hidden: Collection[int], colours: Mapping[int, str] = _OWN) -> bytes:
        labels, spec = self._sampled(view)
        classes = [
            SegmentationClass(entry.name, colours.get(index, entry.colour)) for index, entry in enumerate(spec.classes)
        ]
        return labels_png(labels, classes, hidden, (view.box.y0, view.box.x0))

    def _sampled(self, view: ViewBox) -> tuple[NDArray[Any], ResultSpec]:
        if self.labels is None:
            raise KeyError("labels")
        return sample_labels(self.labels, view), self.labels.spec

    def _difference(self, other: Shown, view: ViewBox) -> NDArray[np.uint8]:
        if other.l0_size != self.l0_size:
            raise KeyError("slides of different sizes")
        before, spec_before = other._sampled(view)
        after, spec = self._sampled(view)
        absent = 1 << 20
        one = _renamed(before, spec_before, [entry.name for entry in spec.classes], absent)
        return difference(one, np.where(after == spec.not_analysed, absent, after.astype(np.int64)), absent)

    def _classes(self) -> tuple[SegmentationClass, ...]:
        return self.labels.spec.classes if self.labels else ()

    def _channels(self) -> list[str]:
        """Names of the stored probability channels."""
        if self.labels is None or not self.labels.spec.probabilities:
            return []
        names = [entry.name for entry in self._classes()]
        return names if self.labels.spec.n_channels == len(names) else names[-self.labels.spec.n_channels :]


def _renamed(labels: NDArray[Any], spec: ResultSpec, names: list[str], absent: int) -> NDArray[np.int64]:
    """Labels as indices of the classes `names`; classes of other names get indices of their own."""
    table = np.full(int(np.iinfo(spec.dtype).max) + 1, absent, np.int64)
    for index, entry in enumerate(spec.classes):
        table[index] = names.index(entry.name) if entry.name in names else len(names) + index
    table[spec.not_analysed] = absent
    renamed: NDArray[np.int64] = table[labels]
    return renamed


def _css(colour: tuple[int, int, int, int]) -> str:
    return f"rgb({colour[0]} {colour[1]} {colour[2]} / {colour[3] / 255:.2f})"
