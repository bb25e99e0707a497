"""The metadata documents of a result: zarr v3 arrays and groups, OME-Zarr 0.5 images and labels.

Owns the JSON that strangers read. Pure: values in, mappings out; knows no file. Coordinates are in µm with the centre
of the slide's level-0 pixel (0, 0) at 0, so that the label map, its levels and the thumbnail line up in any viewer.
Formats: https://ngff.openmicroscopy.org/0.5 and https://zarr-specs.readthedocs.io/en/latest/v3/core
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wsi_seg.geometry import Mpp
from wsi_seg.output.result_spec import GZIP, LABELS, NOT_ANALYSED, PROBABILITIES, THUMBNAIL, ZSTD, ResultSpec
from wsi_seg.output.shard_codec import GZIP_LEVEL, ZSTD_LEVEL

Document = dict[str, Any]

OME_VERSION = "0.5"

_CRC32C: Document = {"name": "crc32c"}
_LITTLE: Document = {"name": "bytes", "configuration": {"endian": "little"}}
_COMPRESSORS: dict[str, Document] = {
    ZSTD: {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
    GZIP: {"name": "gzip", "configuration": {"level": GZIP_LEVEL}},
}
_CHUNK_CODECS: dict[str, list[Document]] = {
    name: [_LITTLE, compressor, _CRC32C] for name, compressor in _COMPRESSORS.items()
}


def array_documents(spec: ResultSpec) -> dict[str, Document]:
    """`zarr.json` of every label and probability array, by key of the array."""
    documents = {}
    layout = spec.layout
    for level in range(layout.n_levels):
        size, side, chunk = layout.level_size(level), layout.shard(level), spec.chunk(level)
        documents[f"{LABELS}/{level}"] = _array_document(
            size, (side, side), ("y", "x"), spec.dtype, spec.not_analysed, _sharding((chunk, chunk), spec.codec)
        )
        if spec.probabilities:
            n = spec.n_channels
            documents[f"{PROBABILITIES}/{level}"] = _array_document(
                (n, *size),
                (n, side, side),
                ("c", "y", "x"),
                np.dtype(np.uint8),
                0,
                _sharding((1, chunk, chunk), spec.codec),
            )
    return documents


def tiles_document(shape: tuple[int, ...]) -> Document:
    """`zarr.json` of the tile statuses, (rows, columns) uint8 in one chunk."""
    return _array_document(shape, shape, ("row", "column"), np.dtype(np.uint8), 0, _CHUNK_CODECS[ZSTD])


def thumbnail_document(shape: tuple[int, ...]) -> Document:
    """`zarr.json` of a level of the thumbnail, (3, h, w) uint8 in one chunk."""
    return _array_document(shape, shape, ("c", "y", "x"), np.dtype(np.uint8), 0, _CHUNK_CODECS[ZSTD])


def group_documents(
    spec: ResultSpec, thumbnail_mpp: Mpp, arrays: Mapping[str, Document], attributes: Document
) -> dict[str, Document]:
    """`zarr.json` of every group, by key of the group; the root (key "") comes last and repeats all the others.

    Args:
        spec: the result.
        thumbnail_mpp: of the thumbnail's pixels.
        arrays: documents of all arrays, by key.
        attributes: what the root says under `wsi_seg`.
    """
    groups = {
        "labels": _group({"ome": {"version": OME_VERSION, "labels": [LABELS.partition("/")[2]]}}),
        LABELS: _group({"ome": _label_image(spec)}),
        THUMBNAIL: _group({}),
    }
    if spec.probabilities:
        groups[PROBABILITIES] = _group({"ome": _probability_image(spec)})
    root = _group({"ome": _thumbnail_image(spec, thumbnail_mpp), "wsi_seg": attributes})
    root["consolidated_metadata"] = {
        "kind": "inline",
        "must_understand": False,
        "metadata": dict(sorted({**groups, **arrays}.items())),
    }
    return {**groups, "": root}


def translation(spec: ResultSpec, level: int) -> tuple[float, float]:
    """Centre of pixel (0, 0) of a label level in the slide's coordinates, µm (y, x)."""
    mpp, (y, x) = spec.level_mpp(level), spec.l0_offset
    return (
        y * spec.l0_mpp.y + (mpp.y - spec.l0_mpp.y) / 2,
        x * spec.l0_mpp.x + (mpp.x - spec.l0_mpp.x) / 2,
    )


def _label_image(spec: ResultSpec) -> Document:
    colours = [{"label-value": value, "rgba": [*entry.rgb, 255]} for value, entry in enumerate(spec.classes)]
    names = [{"label-value": value, "name": entry.name} for value, entry in enumerate(spec.classes)]
    absent = {"label-value": spec.not_analysed}
    return {
        **_multiscales("segmentation", _pyramid(spec, channels=False), channels=False, kind="majority of 2 x 2"),
        "image-label": {
            "version": OME_VERSION,
            "colors": [*colours, {**absent, "rgba": [0, 0, 0, 0]}],
            "properties": [*names, {**absent, "name": NOT_ANALYSED}],
            "source": {"image": "../../"},
        },
    }


def _probability_image(spec: ResultSpec) -> Document:
    # a single channel is the probability of class 1: the model answers "how likely is it that"
    shown = spec.classes if spec.n_channels == len(spec.classes) else spec.classes[1:2]
    channels = [
        {
            "label": entry.name,
            "color": entry.colour[1:].upper(),
            "active": True,
            "window": {"start": 0, "end": 255, "min": 0, "max": 255},
        }
        for entry in shown
    ]
    image = _multiscales(PROBABILITIES, _pyramid(spec, channels=True), channels=True, kind="mean of 2 x 2")
    return {**image, "omero": {"channels": channels}}


def _thumbnail_image(spec: ResultSpec, mpp: Mpp) -> Document:
    """The image that the labels belong to; the standard wants as many levels as the labels have."""
    datasets = []
    for n in range(spec.layout.n_levels):
        level = mpp.scaled(1 << n, 1 << n)
        shift = ((level.y - spec.l0_mpp.y) / 2, (level.x - spec.l0_mpp.x) / 2)
        datasets.append(_dataset(f"{THUMBNAIL}/{n}", level, shift, channels=True))
    return _multiscales(spec.name, datasets, channels=True, kind="mean of 2 x 2")


def _pyramid(spec: ResultSpec, *, channels: bool) -> list[Document]:
    levels = range(spec.layout.n_levels)
    return [_dataset(str(n), spec.level_mpp(n), translation(spec, n), channels=channels) for n in levels]


def _dataset(path: str, mpp: Mpp, shift: tuple[float, float], *, channels: bool) -> Document:
    one, zero = ([1.0], [0.0]) if channels else ([], [])
    return {
        "path": path,
        "coordinateTransformations": [
            {"type": "scale", "scale": [*one, mpp.y, mpp.x]},
            {"type": "translation", "translation": [*zero, *shift]},
        ],
    }


def _multiscales(name: str, datasets: list[Document], *, channels: bool, kind: str) -> Document:
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in ("y", "x")]
    image = {
        "name": name,
        "type": kind,
        "axes": [{"name": "c", "type": "channel"}, *axes] if channels else axes,
        "datasets": datasets,
    }
    return {"version": OME_VERSION, "multiscales": [image]}


def _group(attributes: Document) -> Document:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _array_document(
    shape: Sequence[int],
    chunk: Sequence[int],
    names: Sequence[str],
    dtype: np.dtype[Any],
    fill: int,
    codecs: list[Document],
) -> Document:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": codecs,
        "dimension_names": list(names),
        "attributes": {},
    }


def _sharding(chunk: Sequence[int], codec: str) -> list[Document]:
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": list(chunk),
            "codecs": _CHUNK_CODECS[codec],
            "index_codecs": [_LITTLE, _CRC32C],
            "index_location": "end",
        },
    }
    return [sharding]
