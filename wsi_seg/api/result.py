"""A finished result as one object: labels, areas, pictures, polygons.

Owns how a result looks in Python. Reads through `output`, which owns the format; computes nothing that others own.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_seg.api.areas import Areas
from wsi_seg.api.wording import in_python_words
from wsi_seg.card import SegmentationClass
from wsi_seg.errors import CorruptOutputError, UsageError
from wsi_seg.geometry import Mpp
from wsi_seg.output.label_store import Result as StoredResult
from wsi_seg.output.label_store import open_result as open_stored
from wsi_seg.output.store import Location, store_at
from wsi_seg.output.summary import ClassArea, Summary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import dask.array
    import matplotlib.axes

    from wsi_seg.convert import Outline
    from wsi_seg.output.store import Url


class PixelArray(Protocol):
    """An array that is read where it is indexed, as NumPy arrays; `np.asarray` reads the whole."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array, px of its level."""
        ...

    @property
    def dtype(self) -> Any:
        """NumPy dtype."""
        ...

    def __getitem__(self, selection: Any, /) -> Any: ...


_DASK_CHUNK = 2048
"""Largest side of a chunk of a Dask array, px: 4 MiB of labels."""


def open_result(path: str | os.PathLike[str] | Url) -> Result:
    """Open a finished result, a folder NAME.seg.zarr or its URL.

    Raises:
        CorruptOutputError: it is no finished result, or its metadata are damaged.
        WriteError: an object store does not answer.
    """
    with in_python_words():
        return Result(open_stored(Path(path) if isinstance(path, os.PathLike) else path))


class Result:
    """What a run left: lazily read, safe to use from several threads, pickles by path.

    Levels count from 0, the finest; each has half the size of the one before. Always (y, x).
    """

    def __init__(self, stored: StoredResult) -> None:
        self._stored = stored

    def __repr__(self) -> str:
        height, width = self.shape
        names = ", ".join(entry.name for entry in self.classes)
        return f"<wsi_seg.Result {str(self.path)!r}: {height} x {width} px at {self.mpp.y:.4g} um/px; {names}>"

    @property
    def path(self) -> Location:
        """Where it lies: a Path, or the URL of an object store."""
        return self._stored.path

    @property
    def name(self) -> str:
        """Name of the slide; no path."""
        return self._stored.spec.name

    @property
    def classes(self) -> tuple[SegmentationClass, ...]:
        """Classes in index order, each with `name`, `colour` (`#rrggbb`) and `rgb`."""
        return self._stored.spec.classes

    @property
    def not_analysed(self) -> int:
        """Label of what was not analysed: 255, or 65535 where there are more than 255 classes. No class."""
        return self._stored.spec.not_analysed

    @property
    def mpp(self) -> Mpp:
        """µm per px of level 0, `.y` and `.x`; twice that of level 1, and so on."""
        return self._stored.spec.mpp

    @property
    def n_levels(self) -> int:
        """Levels of the pyramid."""
        return self._stored.n_levels

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of level 0, px."""
        return self._stored.spec.layout.size

    def labels(self, level: int = 0) -> PixelArray:
        """Label map of a level, (h, w) uint8 (uint16 above 255 classes); read where it is indexed, as NumPy arrays.

        Raises UsageError for a level that is not there.
        """
        return self._stored.labels(self._checked(level))

    def probabilities(self, level: int = 0) -> PixelArray:
        """Probabilities of a level, (C, h, w) uint8 in 1/255: a channel per class, or one for models with a threshold.

        Raises UsageError where none were kept.
        """
        if not self._stored.spec.probabilities:
            raise UsageError(
                f"{self.path} holds no probabilities",
                rule="they are kept where the run is asked to",
                remedy="run again with probabilities=True and another out",
            )
        return self._stored.probabilities(self._checked(level))

    def to_dask(self, level: int = 0, *, probabilities: bool = False) -> dask.array.Array:
        """The labels of a level as a lazy Dask array, (h, w); with `probabilities`, those, (C, h, w)."""
        import dask.array

        array: Any = self.probabilities(level) if probabilities else self.labels(level)
        sides = array.shards or array.chunks
        chunks = (*array.shape[:-2], *(min(side, _DASK_CHUNK) for side in sides[-2:]))
        return dask.array.from_array(
            array, chunks=chunks, name=f"{self._stored.run_id}-{array.path}", inline_array=True
        )

    def areas(self) -> Areas:
        """Areas by class name, in mm² and in percent of what was analysed; see `Areas`. Reads no pixel."""
        facts: Any = self._stored.attributes.get("summary")
        try:
            return Areas([ClassArea(**area) for area in facts["classes"]], float(facts["not_analysed_mm2"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptOutputError(
                f"the areas in {self.path} cannot be read: {error!r}", rule="they are in the root metadata"
            ) from error

    @cached_property
    def summary(self) -> Summary:
        """All figures: tiles by status, model, versions, time, memory, problems, notes. Raises CorruptOutputError."""
        try:
            return Summary.from_json(store_at(self.path).read("summary.json"))
        except FileNotFoundError as error:
            raise CorruptOutputError(f"{self.path} has no summary.json", rule="a finished result has one") from error
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptOutputError(f"summary.json of {self.path} cannot be read: {error!r}") from error

    @property
    def thumbnail(self) -> NDArray[np.uint8]:
        """The whole slide, small: (h, w, 3) RGB uint8."""
        return self._stored.thumbnail.pixels

    def polygons(
        self,
        level: int = 0,
        *,
        classes: Sequence[str] | None = None,
        objects: bool = False,
        simplify_um: float = 0.0,
    ) -> Iterator[Outline]:
        """Outlines of the classes, in bounded memory: seams between blocks merged, holes kept.

        Args:
            level: whose pixels are outlined.
            classes: names; None: all but the first, the background.
            objects: one outline for pixels that touch at a corner too, as objects are counted, rather than one for
                each 4-connected region.
            simplify_um: leave out corners where the outline moves by this many µm at most; 0: exact.

        Yields:
            An `Outline` per region. Raises UsageError, CorruptOutputError.
        """
        from wsi_seg.convert import polygons

        with in_python_words():
            self._checked(level)
            return polygons(self._stored, level=level, classes=classes, objects=objects, simplify_um=simplify_um)

    def overlay(self, level: int | None = None, *, side: int = 1024, opacity: float = 0.55) -> NDArray[np.uint8]:
        """The slide under the class colours, not analysed hatched: (h, w, 3) RGB uint8.

        Args:
            level: whose labels are shown; None: the coarsest that has a label for every px of the picture.
            side: of the picture's longer side, px.
            opacity: of the colours, 0 … 1.
        """
        from wsi_seg.output.overview import overlay_pixels

        stored = self._stored
        sides = [max(stored.spec.layout.level_size(n)) for n in range(self.n_levels)]
        level = max((n for n, s in enumerate(sides) if s >= side), default=0) if level is None else self._checked(level)
        return overlay_pixels(stored.thumbnail, np.asarray(self.labels(level)[:]), stored.spec, side, opacity)

    def plot(self, ax: matplotlib.axes.Axes | None = None, level: int | None = None) -> matplotlib.axes.Axes:
        """Draw slide and labels with legend and scale bar; axes in µm from the canvas' corner.

        Args:
            ax: matplotlib axes to draw on; None: those of a new figure.
            level: whose labels are shown; None: one that suits the figure.

        Returns:
            The axes. Raises UsageError where matplotlib is not installed.
        """
        from wsi_seg.api.plot import draw

        return draw(self, ax, level)

    def write_tiff(self, path: str | os.PathLike[str], *, flat: bool = False, overwrite: bool = False) -> Path:
        """Copy the labels to one lossless TIFF pyramid, NAME.ome.tif, and answer its path.

        Args:
            path: of the TIFF.
            flat: levels in the main chain, where OpenSlide sees every one, instead of SubIFDs.
            overwrite: replace a file that is there.

        Raises:
            OutputExistsError, WriteError, CorruptOutputError.
        """
        from wsi_seg.output.tiff_writer import write_ome_tiff

        with in_python_words():
            write_ome_tiff(self._stored, Path(path), flat=flat, overwrite=overwrite)
        return Path(path)

    def _repr_html_(self) -> str:
        from wsi_seg.api.page import html_of

        return html_of(self)

    def _checked(self, level: int) -> int:
        if isinstance(level, bool) or level not in range(self.n_levels):
            raise UsageError(f"level {level!r}", rule=f"the result has levels 0 to {self.n_levels - 1}")
        return int(level)
