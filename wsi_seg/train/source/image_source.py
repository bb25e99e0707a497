"""Image files with label files, each pair one field: finds the pairs, decodes them, brings them to the model's scale.

Owns the three encodings of labels and the gap between touching objects. Knows no patch and no batch.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_seg.annotation.pixel_files import SUFFIXES, read_grey, read_index, read_rgb
from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.card import named_classes
from wsi_seg.errors import AnnotationError, ConfigError, PlanError
from wsi_seg.geometry import Box, Level, Mpp
from wsi_seg.plan.scale import choose_scale
from wsi_seg.train.config import ImageSource, TrainConfig
from wsi_seg.train.source.fields import FILL, CellIndex, Pair, cell_side, count_cells, cut

CACHE_BYTES = 2 << 30
"""Decoded pixels and labels that are kept; what does not fit is decoded every time."""
_FOREGROUND = 128
"""`binary` label images: this grey value and above is the foreground."""
_LIKELY_INDEX = 15
"""A label image whose largest value is no larger holds class indices, not grey values."""


class PixelCache:
    """Decoded fields up to a number of bytes; the first ones stay, since patches are drawn at random."""

    def __init__(self, limit_bytes: int = CACHE_BYTES) -> None:
        self._limit_bytes, self._held_bytes = limit_bytes, 0
        self._held: dict[Hashable, Pair] = {}
        self._lock = Lock()

    def get(self, key: Hashable, load: Callable[[], Pair]) -> Pair:
        """The pair under `key`, loaded where it is not held. Two threads may load one twice, with equal results."""
        if (held := self._held.get(key)) is not None:
            return held
        pair = load()
        n_bytes = pair[0].nbytes + pair[1].nbytes
        with self._lock:
            if key not in self._held and self._held_bytes + n_bytes <= self._limit_bytes:
                self._held[key], self._held_bytes = pair, self._held_bytes + n_bytes
        return pair


class Entry(NamedTuple):
    """The files of one field."""

    image: Path
    label: Path | None
    ignore: Path | None
    case: str
    value: int
    """Class of the foreground for `binary` and `instances`."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the files of a source become pixels and labels."""

    encoding: str
    n_classes: int
    mpp: float
    image_mpp: float
    border: int
    labelled: bool


class ImageField:
    """An image with its labels at the model's µm per px; holds nothing itself."""

    def __init__(self, entry: Entry, reading: Reading, cache: PixelCache) -> None:
        self._entry, self._reading, self._cache = entry, reading, cache
        self._size: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The file stem."""
        return self._entry.image.stem

    @property
    def case(self) -> str:
        """The patient or case."""
        return self._entry.case

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in px at the model's resolution; known once decoded."""
        if self._size is None:
            height, width = self._pair()[1].shape
            self._size = height, width
        return self._size

    def read(self, box: Box) -> Pair:
        """Pixels and labels of a box. Raises AnnotationError."""
        pixels, labels = self._pair()
        return cut(pixels, box, FILL), cut(labels, box, IGNORE)

    def read_labels(self, box: Box) -> NDArray[np.uint8]:
        """Labels of a box. Raises AnnotationError."""
        return cut(self._pair()[1], box, IGNORE)

    def index(self) -> CellIndex:
        """Where which class lies, exactly; without labels the whole image counts as class 0. Raises AnnotationError."""
        labels = self._pair()[1]
        side = cell_side(self.size)
        known = labels if self._reading.labelled else np.zeros_like(labels)
        return CellIndex(side, count_cells(known, side, self._reading.n_classes), 1.0)

    def _pair(self) -> Pair:
        # An image may be in several sources, each with its own labels, classes or resolution.
        return self._cache.get((self._entry, self._reading), lambda: load_pair(self._entry, self._reading))


def open_images(source: ImageSource, config: TrainConfig, cache: PixelCache, *, labelled: bool) -> list[ImageField]:
    """The fields of a source, sorted by path; nothing is decoded yet. Raises ConfigError, AnnotationError."""
    reading = Reading(
        encoding=source.encoding,
        n_classes=len(config.classes),
        mpp=config.mpp,
        image_mpp=source.mpp or config.mpp,
        border=config.border,
        labelled=labelled,
    )
    entries = sorted(_entries(source, [entry.name for entry in named_classes(config.classes)]))
    if not entries:
        chosen = f" where {source.where}" if source.where else ""
        raise ConfigError(
            f"{source.table} names no image{chosen}" if source.table else f"there is no image in {source.images}",
            rule=f"images end in {', '.join(sorted(SUFFIXES))}",
            remedy="check the path" + " and `where`" * bool(source.where),
        )
    if labelled and (bare := next((entry for entry in entries if entry.label is None), None)):
        raise ConfigError(
            f"{bare.image} has no label image", rule="labelled data is needed here", remedy="give `labels`"
        )
    return [ImageField(entry, reading, cache) for entry in entries]


def load_pair(entry: Entry, reading: Reading) -> Pair:
    """Decode the files of a field and bring them to the model's resolution. Raises AnnotationError, ConfigError."""
    pixels = read_rgb(entry.image)
    size = pixels.shape[0], pixels.shape[1]
    factor = _factor(entry.image, size, reading)
    at = centre_px(size[0], factor[0]), centre_px(size[1], factor[1])
    shape = len(at[0]), len(at[1])
    if min(shape) < 1:
        raise AnnotationError(f"{entry.image} of {size} px is less than one px at {reading.mpp:g} um/px")
    labels = np.full(shape, IGNORE, np.uint8)
    if reading.labelled and entry.label is not None:
        read = read_grey if reading.encoding == "binary" else read_index
        stored = _same_size(entry.label, read(entry.label), size, entry.image)
        labels = _encoded(stored[np.ix_(*at)], entry, reading)
        if entry.ignore is not None:
            hidden = _same_size(entry.ignore, read_index(entry.ignore), size, entry.image)
            labels[hidden[np.ix_(*at)] > 0] = IGNORE
    return _resampled(pixels, factor, shape), labels


def carve_borders(objects: NDArray[Any], border: int) -> NDArray[np.bool_]:
    """Which pixels (h, w) of numbered objects stay when objects that nearly touch are parted.

    A pixel goes where one of another object lies within `border` px: at most border · (border + 1) px², so that 1
    parts objects that meet at corners too. Background (0) stays as it is.

    >>> carve_borders(np.array([[1, 1, 2, 2, 0, 3]]), 1).astype(int).tolist()
    [[1, 0, 0, 1, 0, 1]]
    """
    height, width = objects.shape
    kept: NDArray[np.bool_] = objects != 0
    for dy in range(border + 1):
        for dx in range(-border, border + 1):
            if (dy, dx) <= (0, 0) or dy * dy + dx * dx > border * (border + 1) or dy >= height or abs(dx) >= width:
                continue
            one = np.s_[: height - dy, max(0, -dx) : width - max(0, dx)]
            other = np.s_[dy:, max(0, dx) : width - max(0, -dx)]
            meet = (objects[one] != objects[other]) & (objects[one] != 0) & (objects[other] != 0)
            kept[one] &= ~meet
            kept[other] &= ~meet
    return kept


def _encoded(stored: NDArray[Any], entry: Entry, reading: Reading) -> NDArray[np.uint8]:
    """Class indices of a label image as stored."""
    if reading.encoding == "binary":
        foreground = stored if stored.dtype == np.bool_ else stored >= _FOREGROUND
        if 0 < stored.max(initial=0) <= _LIKELY_INDEX and stored.dtype != np.bool_:
            raise AnnotationError(
                f"the largest value in {entry.label} is {stored.max()}",
                rule=f"`encoding: binary` takes px of {_FOREGROUND} and above for the foreground",
                remedy="set `encoding: classes` where px are class indices",
            )
        return np.where(foreground, entry.value, 0).astype(np.uint8)
    if reading.encoding == "instances":
        return np.where(carve_borders(stored, reading.border), entry.value, 0).astype(np.uint8)
    wrong = (stored != IGNORE) & ((stored < 0) | (stored >= reading.n_classes))
    if wrong.any():
        raise AnnotationError(
            f"{entry.label} holds the value {stored[wrong].max()}",
            rule=f"labels are class indices 0 … {reading.n_classes - 1}, or {IGNORE} for ignored px",
            remedy="set `encoding` to binary or instances where they are masks or object numbers",
        )
    return stored.astype(np.uint8)


def _same_size(path: Path, labels: NDArray[Any], size: tuple[int, int], image: Path) -> NDArray[Any]:
    if labels.shape != size:
        raise AnnotationError(
            f"{path} is {labels.shape[0]} x {labels.shape[1]} px, {image} is {size[0]} x {size[1]} (height x width)",
            rule="an image and its labels have the same size",
        )
    return labels


def _factor(image: Path, size: tuple[int, int], reading: Reading) -> tuple[float, float]:
    """Image px per px, (y, x), by the engine's rules of what is close enough."""
    try:
        return scale_factor(size, reading.image_mpp, reading.mpp)
    except PlanError as error:
        raise ConfigError(
            f"images of {reading.image_mpp:g} um/px for a model of {reading.mpp:g} ({image})",
            rule=error.rule.replace("level", "image"),
            remedy="give the true `mpp` of the images",
        ) from error


def scale_factor(size: tuple[int, int], image_mpp: float, mpp: float) -> tuple[float, float]:
    """Image px per px, (y, x), where an image (height, width) of `image_mpp` is read at `mpp`. Raises PlanError."""
    stored = Mpp(image_mpp, image_mpp)
    return choose_scale((Level(size, (1.0, 1.0)),), stored, Box(0, 0, *size), mpp).factor


def centre_px(n: int, factor: float) -> NDArray[np.intp]:
    """Image px under the centre of every px of an axis of `n` image px, as many as lie inside the image.

    >>> centre_px(7, 2.5).tolist()
    [1, 3]
    """
    return ((np.arange(int(n / factor + 1e-6)) + 0.5) * factor).astype(np.intp)


def _resampled(pixels: NDArray[np.uint8], factor: tuple[float, float], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """By area, finer or coarser: as the engine does, so that a model is trained on what it will see."""
    if factor == (1.0, 1.0):
        return pixels
    from wsi_kernels import area_resample

    resampled: NDArray[np.uint8] = area_resample(pixels, (0, 0), factor, (0, 0, *shape))
    return resampled


def _entries(source: ImageSource, classes: list[str]) -> Iterator[Entry]:
    """The files of every field, in no order."""
    ignored = {} if source.ignore is None else _by_stem(source.ignore)
    rows = list(_rows(source))
    if ignored and not any(image.stem in ignored for image, _, _ in rows):
        raise ConfigError(f"no mask in {source.ignore} has the stem of an image", rule="a mask is named as its image")
    for image, label, row in rows:
        case = row.get("case") or _case(source, image)
        yield Entry(image, label, ignored.get(image.stem), case, _value(source, row, classes))


def _rows(source: ImageSource) -> Iterator[tuple[Path, Path | None, dict[str, str]]]:
    """(image, label, row of the table) of every field."""
    rows = [] if source.table is None else _table(source.table, source.where)
    if source.images is None:
        assert source.table is not None
        for row in rows:
            if not row.get("image"):
                raise ConfigError(f"{source.table} has a row without an image", rule="columns image and label")
            label = source.table.parent / row["label"] if row.get("label") else None
            yield source.table.parent / row["image"], label, row
        return
    images = _by_stem(source.images)
    labels = None if source.labels is None else _by_stem(source.labels)
    attributes = _attributes(rows, images, source) if source.table is not None else {stem: {} for stem in images}
    for stem, row in attributes.items():
        if labels is not None and stem not in labels:
            n_bare = sum(other not in labels for other in attributes)
            raise ConfigError(
                f"{images[stem]} has no label image in {source.labels} ({n_bare} of {len(attributes)} have none)",
                rule="a label image has the stem of its image",
                remedy="label the image, or take it out of the folder or the table",
            )
        yield images[stem], labels[stem] if labels is not None else None, row


def _attributes(rows: list[dict[str, str]], images: dict[str, Path], source: ImageSource) -> dict[str, dict[str, str]]:
    """Stem -> row of the table, whose first column names the images with or without suffix."""
    found = {}
    for row in rows:
        named = next(iter(row.values()))
        stem = named if named in images else Path(named).stem
        if stem not in images:
            raise ConfigError(f"{source.table} names {named!r}, which is not in {source.images}")
        if stem in found:
            raise ConfigError(f"{source.table} names {stem} twice", rule="one row per image", remedy="use `where`")
        found[stem] = row
    return found


def _table(path: Path, where: dict[str, str]) -> list[dict[str, str]]:
    """Rows of a CSV file that have the values asked for."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or []
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"the table {path} cannot be read: {error}") from error
    if unknown := sorted(set(where) - set(columns)):
        raise ConfigError(f"{path} has no column {unknown[0]!r}", rule=f"its columns are {', '.join(columns)}")
    return [row for row in rows if all(row[column] == value for column, value in where.items())]


def _by_stem(folder: Path) -> dict[str, Path]:
    """Image files of a folder by their stem."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder", remedy="check the path; relative paths start at the YAML file")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            if path.stem in found:
                raise ConfigError(f"{found[path.stem]} and {path.name} have one stem", rule="stems tell images apart")
            found[path.stem] = path
    return found


def _case(source: ImageSource, image: Path) -> str:
    if source.case_pattern is None:
        return image.stem
    try:
        found = re.search(source.case_pattern, image.stem)
        case = found[1] if found else None
    except (re.error, IndexError) as error:
        raise ConfigError(f"case_pattern {source.case_pattern!r}: {error}", rule="one group in brackets") from error
    if not case:
        raise ConfigError(
            f"case_pattern {source.case_pattern} finds no case in {image.stem}",
            rule="it is searched in every file stem; its group is the case",
        )
    return case


def _value(source: ImageSource, row: dict[str, str], classes: list[str]) -> int:
    """Class index of the foreground."""
    if source.value_column is None:
        if source.value >= len(classes) and source.encoding != "classes":
            raise ConfigError(
                f"`value: {source.value}` of {source.table or source.images}",
                rule=f"the index of a class, 1 … {len(classes) - 1} ({', '.join(classes)})",
            )
        return source.value
    named = row.get(source.value_column)
    if named not in classes:
        raise ConfigError(
            f"{source.table} says {named!r} in column {source.value_column!r}", rule=f"classes are {', '.join(classes)}"
        )
    return classes.index(named)
