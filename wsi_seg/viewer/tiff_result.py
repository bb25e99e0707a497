"""A TIFF result as a source of labels: read by our own TIFF reader, to which it is a grey picture.

Owns nothing of the format: what the file says of itself is read by `evaluate`, its pixels by `slide`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import SegmentationClass
from wsi_seg.errors import CorruptOutputError, WsiSegError
from wsi_seg.geometry import Box, Mpp, PyramidLayout
from wsi_seg.output.result_spec import ResultSpec
from wsi_seg.viewer.sources import SourceState, areas_of

if TYPE_CHECKING:
    from wsi_seg.slide import Slide

_BLOCK = 4096
"""Of the layout; nothing depends on it here."""


class TiffResult:
    """The label pyramid of a TIFF that wsi-seg wrote; of at most 255 classes."""

    def __init__(self, path: Path) -> None:
        """Raises CorruptOutputError where it is none, EvaluationError, SlideOpenError."""
        from wsi_seg.slide import open_slide

        facts = tiff_facts(path)
        if not facts:
            raise CorruptOutputError(f"{path} is no TIFF result of wsi-seg", rule="a label map that a run has written")
        self._path = path
        self._slide: Slide = open_slide(path, reader="tiff")
        try:
            self.spec = _spec(path, facts, self._slide.levels[0].size)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CorruptOutputError(
                f"the description of {path} is damaged: {error!r}", rule="a TIFF result"
            ) from error

    @property
    def n_levels(self) -> int:
        """See `LabelSource`."""
        return min(len(self._slide.levels), self.spec.layout.n_levels)

    @property
    def run(self) -> str:
        """See `LabelSource`: it stays open, whatever takes its name."""
        return "tiff"

    @property
    def areas(self) -> dict[str, Any] | None:
        """What the summary beside it counted, if it is there."""
        stem = self._path.name.removesuffix(self._path.suffix).removesuffix(".ome")
        with suppress(OSError, ValueError):
            return areas_of(json.loads(self._path.with_name(f"{stem}.summary.json").read_bytes()))
        return None

    def read(self, level: int, box: Box) -> NDArray[Any]:
        """See `LabelSource`. Raises RegionReadError."""
        return np.ascontiguousarray(self._slide.read_region(box, level)[..., 0])

    def read_probability(self, _level: int, _box: Box, _channel: int, /) -> NDArray[np.uint8]:
        """None are stored."""
        raise CorruptOutputError(f"{self._path} holds no probabilities", rule="TIFF results hold labels only")

    def state(self) -> SourceState:
        """See `LabelSource`."""
        return SourceState(self.run, finished=True, areas=self.areas)


def tiff_facts(path: Path) -> dict[str, Any]:
    """What a TIFF result says of classes and place; empty for any other file."""
    from wsi_seg.evaluate.tiff_labels import TiffLabels

    if path.suffix.lower() not in (".tif", ".tiff") or not path.is_file():
        return {}
    try:
        return TiffLabels(path).spec
    except WsiSegError:  # a slide, as most TIFF files are
        return {}


def _spec(path: Path, facts: dict[str, Any], size: tuple[int, int]) -> ResultSpec:
    classes = tuple(SegmentationClass(entry["name"], entry["colour"]) for entry in facts["classes"])
    if len(classes) > 255:
        raise CorruptOutputError(
            f"{path} has {len(classes)} classes", rule="TIFF results are shown up to 255", remedy="--out NAME.seg.zarr"
        )
    y, x = facts["l0_offset"]
    return ResultSpec(
        layout=PyramidLayout(size, _BLOCK),
        mpp=Mpp(*facts["mpp"]),
        l0_mpp=Mpp(*facts["l0_mpp"]),
        l0_offset=(y, x),
        l0_size=(facts["l0_size"][0], facts["l0_size"][1]),
        l0_bounds=(facts["l0_bounds"][0], facts["l0_bounds"][1]),
        classes=classes,
        not_analysed=255,
        probabilities=False,
        n_channels=len(classes),
        name=path.name,
        tile_grid=(1, 1),
    )
