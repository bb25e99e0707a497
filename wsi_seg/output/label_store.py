"""The arrays of a result in OME-Zarr: makes them, and reads them back.

Owns zarr, which here only reads: pixels are written by `shard_writer`, group metadata by `commit`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_seg.errors import CorruptOutputError, WsiSegError
from wsi_seg.geometry import Box, Mpp
from wsi_seg.output.documents import array_documents, thumbnail_document, tiles_document
from wsi_seg.output.durable import json_bytes
from wsi_seg.output.result_spec import (
    LABELS,
    PROBABILITIES,
    ROOT,
    STATE,
    THUMBNAIL,
    TILES,
    ResultSpec,
    Thumbnail,
    shard_key,
)
from wsi_seg.output.shard_codec import encode_chunk
from wsi_seg.output.site.posix import partial_path
from wsi_seg.output.store import Location, Store, Url, location_of, store_at

SPEC_FILE = f"{STATE}/spec.json"
"""Where an unfinished result keeps its spec; a finished one has it in its root metadata."""


def create_result(path: str | Path | Url, spec: ResultSpec) -> None:
    """Make every label and probability array of a result, empty; harmless where they are there already.

    Args:
        path: where the unfinished result lies.
        spec: the result.

    Raises:
        WriteError: the store refused.
    """
    store = store_at(path)
    for key, document in array_documents(spec).items():
        store.write(f"{key}/zarr.json", json_bytes(document))
    store.write(SPEC_FILE, json_bytes(spec.to_mapping()))


def write_small_arrays(
    store: Store, spec: ResultSpec, tiles: NDArray[np.uint8], thumbnail: Thumbnail
) -> dict[str, dict[str, Any]]:
    """Write the statuses of tiles, (rows, columns) uint8, and the thumbnail, with as many levels as the labels have.

    Answers the documents of these arrays by key. Raises WriteError.
    """
    arrays, documents = {TILES: tiles}, {TILES: tiles_document(tiles.shape)}
    picture: NDArray[np.uint8] = thumbnail.pixels.transpose(2, 0, 1)
    for level in range(spec.layout.n_levels):
        key = f"{THUMBNAIL}/{level}"
        arrays[key], documents[key] = picture, thumbnail_document(picture.shape)
        picture = _halved_picture(picture)
    for key, pixels in arrays.items():
        store.write(shard_key(key, *[0] * pixels.ndim), encode_chunk(pixels))
        store.write(f"{key}/zarr.json", json_bytes(documents[key]))
    return documents


def open_result(place: str | Path | Url, *, partial: bool = False) -> Result:
    """Open a finished result by its path or URL, or with `partial` an unfinished one.

    Raises CorruptOutputError; WriteError where a store does not answer.
    """
    path = location_of(place)
    if isinstance(path, Path) and not path.is_dir():
        raise CorruptOutputError(
            f"{path} {'is a file' if path.exists() else 'does not exist'}",
            rule="a result is a folder NAME.seg.zarr",
            remedy="run the same command again to finish it"
            if partial_path(path).is_dir()
            else "check the path; of a slide, `wsi-seg run` makes one",
        )
    store, key = store_at(path), SPEC_FILE if partial else ROOT
    document, file = _read_json(store, key), store.describe(key)
    if partial:
        return Result(path, ResultSpec.from_mapping(document, file), {})
    of_all = document.get("attributes")
    attributes = of_all.get("wsi_seg") if isinstance(of_all, Mapping) else None
    if not isinstance(attributes, Mapping) or "spec" not in attributes:
        raise CorruptOutputError(f"{path} is a Zarr group without `wsi_seg` metadata", rule="not a result of wsi-seg")
    return Result(path, ResultSpec.from_mapping(attributes["spec"], file), attributes)


class Result:
    """A result, read lazily; may be called from several threads, pickles by path.

    Boxes are in px of the level asked for and must lie inside it.
    """

    def __init__(self, path: Location, spec: ResultSpec, attributes: Mapping[str, Any]) -> None:
        self.path, self.spec, self.attributes = path, spec, attributes
        self.store = store_at(path)
        self._arrays: dict[str, zarr.Array[Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Result, (self.path, self.spec, self.attributes)

    @property
    def n_levels(self) -> int:
        """Levels of the pyramid."""
        return self.spec.layout.n_levels

    @property
    def run_id(self) -> str:
        """Identity of the run that made it; empty while unfinished."""
        return str(self.attributes.get("run_id", ""))

    def labels(self, level: int) -> zarr.Array[Any]:
        """The label array of a level, (h, w); index it as a NumPy array."""
        return self._array(f"{LABELS}/{level}")

    def probabilities(self, level: int) -> zarr.Array[Any]:
        """The probability array of a level, (C, h, w) uint8 in 1/255."""
        return self._array(f"{PROBABILITIES}/{level}")

    def read_labels(self, level: int, box: Box) -> NDArray[Any]:
        """Labels of a box, (h, w) of the spec's dtype. Raises CorruptOutputError, ValueError."""
        self._check_box(level, box)
        return self._read(self.labels(level), box.slices())

    def read_probabilities(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Probabilities of a box, (C, h, w) uint8 in 1/255. Raises CorruptOutputError, ValueError."""
        self._check_box(level, box)
        return self._read(self.probabilities(level), (slice(None), *box.slices()))

    def read_probability(self, level: int, channel: int, box: Box) -> NDArray[np.uint8]:
        """Probabilities of one channel in a box, (h, w) uint8 in 1/255. Raises CorruptOutputError, ValueError."""
        self._check_box(level, box)
        return self._read(self.probabilities(level), (channel, *box.slices()))

    def read_tiles(self) -> NDArray[np.uint8]:
        """Statuses of tiles, (rows, columns) of TileStatus; of a finished result only."""
        return self._read(self._array(TILES), ...)

    @cached_property
    def thumbnail(self) -> Thumbnail:
        """The slide, small; of a finished result only."""
        pixels = self._read(self._array(f"{THUMBNAIL}/0"), ...)
        try:
            mpp = Mpp(*self.attributes["thumbnail_mpp"])
            return Thumbnail(np.ascontiguousarray(pixels.transpose(1, 2, 0)), mpp)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptOutputError(
                f"the thumbnail of {self.path} is described wrongly: {error!r}", rule="(3, h, w) and um/px (y, x)"
            ) from error

    def _check_box(self, level: int, box: Box) -> None:
        if level not in range(self.n_levels):
            raise ValueError(f"level {level}; the pyramid has levels 0 to {self.n_levels - 1}")
        if not Box(0, 0, *self.spec.layout.level_size(level)).contains(box):
            raise ValueError(f"{box} leaves level {level} of {self.spec.layout.level_size(level)} px")

    def _array(self, key: str) -> zarr.Array[Any]:
        if key not in self._arrays:
            try:
                self._arrays[key] = zarr.open_array(self.store.zarr(), path=key, mode="r")
            except WsiSegError:  # some of ours are OSErrors too
                raise
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise CorruptOutputError(f"array {key} of {self.path} cannot be opened: {error}") from error
        return self._arrays[key]

    def _read(self, array: zarr.Array[Any], selection: Any) -> NDArray[Any]:
        try:
            return np.asarray(array[selection])
        except WsiSegError:
            raise
        except Exception as error:  # zarr and its codecs raise many kinds; every one means unreadable bytes
            raise CorruptOutputError(
                f"{array.path} of {self.path} cannot be read at {selection}: {error}",
                remedy="`wsi-seg verify` names the broken shard",
            ) from error


def _halved_picture(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mean of 2 x 2 of a (3, h, w) picture, the last row and column repeated where they are odd."""
    _, height, width = picture.shape
    even = np.pad(picture, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge").astype(np.uint16)
    total = even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


def _read_json(store: Store, key: str) -> dict[str, Any]:
    try:
        content = json.loads(store.read(key))
    except FileNotFoundError as error:
        raise CorruptOutputError(
            f"{store.describe(key)} is not there",
            rule="a finished result has it",
            remedy="run the same command again to finish the result, or check the path",
        ) from error
    except WsiSegError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptOutputError(
            f"{store.describe(key)} cannot be read: {error}",
            rule="metadata of a result are JSON",
            remedy="make the result again, or take a copy of it that is sound",
        ) from error
    if not isinstance(content, dict):
        raise CorruptOutputError(f"{store.describe(key)} holds a {type(content).__name__}", rule="a JSON object")
    return content
