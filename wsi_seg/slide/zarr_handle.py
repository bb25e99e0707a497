"""Zarr itself: opens OME-Zarr images (0.4 and 0.5) and plain RGB arrays; the only file of this room that knows zarr.

Runs in a reader process (`reader_process`): codecs decode whatever a chunk says it holds. Owns the reading of
multiscales metadata. Knows nothing of labels or results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_seg.geometry import Box, Mpp
from wsi_seg.slide.limits import MAX_LEVELS, MAX_TEXT_BYTES
from wsi_seg.slide.resolution import plausible_mpp, unit_um

METADATA = ("zarr.json", ".zattrs", ".zarray", ".zgroup", ".zmetadata")
_KEPT_SLIDES = 2
_MAX_CHUNKS_IN_A_SHARD = 1 << 20
_THREADS = 4
"""Chunks decoded at a time: each thread takes memory, which is limited here."""


class _Unfit(ValueError):
    """It is sound Zarr, and no slide."""


@dataclass(frozen=True, slots=True)
class _Image:
    """What the metadata say about one image."""

    vendor: str
    arrays: tuple[Any, ...]
    axes: str
    """One letter per axis of the arrays, e.g. `tczyx`."""
    mpp: Mpp | None = None


class ZarrImages:
    """Images held open by name."""

    def __init__(self) -> None:
        self._images: dict[str, _Image] = {}
        zarr.config.set({"threading.max_workers": _THREADS, "async.concurrency": _THREADS})

    def facts(self, name: str, path: str) -> dict[str, Any]:
        """Open an image, if it is not open, and say what it is. Raises ValueError.

        `vendor`; `sizes` and `chunks`: (height, width) of the levels and of what can be read alone; `chunk_bytes`: of
        the largest when decoded; `mpp`: (y, x) or None.
        """
        image = self._opened(name, path)
        y, x = image.axes.index("y"), image.axes.index("x")
        return {
            "vendor": image.vendor,
            "sizes": [(int(array.shape[y]), int(array.shape[x])) for array in image.arrays],
            "chunks": [(int(array.chunks[y]), int(array.chunks[x])) for array in image.arrays],
            "chunk_bytes": max(prod(int(side) for side in array.chunks) for array in image.arrays),
            "mpp": None if image.mpp is None else (image.mpp.y, image.mpp.x),
        }

    def read(self, name: str, path: str, asked: Mapping[str, Any]) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB of `box`, (y0, x0, y1, x1) in px of `level`. Raises ValueError.

        Where the system refuses, which may pass, it is tried again with the image opened anew.
        """
        try:
            return self._read(name, path, asked)
        except OSError:
            self.forget(name)
        try:
            return self._read(name, path, asked)
        except OSError as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def _read(self, name: str, path: str, asked: Mapping[str, Any]) -> NDArray[np.uint8]:
        image, box = self._opened(name, path), Box(*asked["box"])
        wanted: dict[str, slice] = dict(zip("yx", box.slices(), strict=True))
        selection = tuple(wanted.get(axis, slice(None) if axis == "c" else 0) for axis in image.axes)
        try:
            pixels = np.asarray(image.arrays[asked["level"]][selection])
        except (MemoryError, OSError):
            raise
        except Exception as error:
            # Damaged chunks surface as RuntimeError, ValueError or a codec's own exception.
            raise ValueError(f"{type(error).__name__}: {error}") from error
        kept = [axis for axis in image.axes if axis in "cyx"]
        out = np.empty((*box.size, 3), np.uint8)
        if "c" in kept:
            out[...] = pixels.transpose([kept.index(axis) for axis in "yxc"])
        else:
            out[...] = pixels.transpose([kept.index(axis) for axis in "yx"])[..., None]
        return out

    def forget(self, name: str) -> None:
        """Let go of an image, if it is open."""
        self._images.pop(name, None)

    def _opened(self, name: str, path: str) -> _Image:
        if name not in self._images:
            while len(self._images) >= _KEPT_SLIDES:
                self.forget(next(iter(self._images)))
            self._images[name] = _open_image(Path(path))
        return self._images[name]


def _open_image(path: Path) -> _Image:
    _check_texts([path])
    try:
        return _image(path, zarr.open(path, mode="r"))
    except (MemoryError, _Unfit):
        raise
    except RecursionError as error:
        raise ValueError("its metadata are nested too deeply") from error
    except Exception as error:
        # zarr raises KeyError, TypeError, its own errors, … for damaged metadata.
        raise ValueError(f"it cannot be read as Zarr: {type(error).__name__}: {error}") from error


def _check_texts(folders: Iterable[Path]) -> None:
    """Refuse metadata of a length that is none, unread. Raises _Unfit."""
    for folder in folders:
        for name in METADATA:
            file = folder / name
            if file.is_file() and file.stat().st_size > MAX_TEXT_BYTES:
                raise _Unfit(f"{file.name} has {file.stat().st_size} bytes, {MAX_TEXT_BYTES} are allowed")


def _image(path: Path, node: Any) -> _Image:
    if isinstance(node, zarr.Array):
        return _checked(_Image("zarr", (node,), "yxc"))
    attributes = dict(node.attrs)
    attributes = dict(attributes.get("ome", attributes))
    if "multiscales" in attributes:
        return _checked(_multiscale(path, node, attributes["multiscales"][0]))
    if "bioformats2raw.layout" in attributes:
        _check_texts([path / "0"])
        if "0" in node and isinstance(node["0"], zarr.Group) and "bioformats2raw.layout" not in node["0"].attrs:
            return _image(path / "0", node["0"])
    raise _Unfit("it is a Zarr group without `multiscales`; give the OME-Zarr image inside it, or an RGB array")


def _multiscale(path: Path, group: Any, multiscale: Mapping[str, Any]) -> _Image:
    axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in multiscale["axes"]]
    datasets = multiscale["datasets"]
    if not 0 < len(datasets) <= MAX_LEVELS:
        raise _Unfit(f"it has {len(datasets)} levels; 1 to {MAX_LEVELS} are read")
    _check_texts(path / str(dataset["path"]) for dataset in datasets)
    arrays = tuple(group[dataset["path"]] for dataset in datasets)
    names = "".join(str(axis["name"]) for axis in axes)
    transforms = [*datasets[0].get("coordinateTransformations", []), *multiscale.get("coordinateTransformations", [])]
    return _Image("ome-zarr", arrays, names, _mpp(axes, transforms))


def _mpp(axes: Sequence[Mapping[str, Any]], transforms: Sequence[Mapping[str, Any]]) -> Mpp | None:
    sides = []
    for name in "yx":
        index = next(i for i, axis in enumerate(axes) if axis["name"] == name)
        um = unit_um(str(axes[index].get("unit", "")))
        scales = [float(transform["scale"][index]) for transform in transforms if transform.get("type") == "scale"]
        sides.append(float(np.prod(scales)) * um if um and scales else float("nan"))
    return plausible_mpp(*sides)


def _chunks_in_a_shard(array: Any) -> int:
    if array.shards is None:
        return 1
    return prod(-(-int(shard) // max(1, int(chunk))) for shard, chunk in zip(array.shards, array.chunks, strict=True))


def _checked(image: _Image) -> _Image:
    """The image, once it is known to be 8-bit RGB or grey. Raises _Unfit."""
    for array in image.arrays:
        if not isinstance(array, zarr.Array):
            raise _Unfit("a level of it is no array")
        shape = dict(zip(image.axes, array.shape, strict=False))
        fits = len(image.axes) == array.ndim and {"y", "x"} <= set(image.axes) <= set("tczyx")
        if not fits or len(set(image.axes)) != len(image.axes) or min(array.shape) < 1:
            raise _Unfit(
                f"it holds an array of shape {array.shape} with axes {image.axes!r}; "
                "a slide is (h, w, 3), or has OME axes y, x and c"
            )
        if array.dtype != np.uint8 or shape.get("c", 1) not in (1, 3):
            raise _Unfit(
                f"it holds {array.dtype} with {shape.get('c', 1)} channels; "
                "slides are uint8 with 3 channels (RGB) or 1 (grey): convert it to 8-bit RGB"
            )
        if (n := _chunks_in_a_shard(array)) > _MAX_CHUNKS_IN_A_SHARD:
            raise _Unfit(
                f"it has {n} chunks in a shard, whose table is read whole; {_MAX_CHUNKS_IN_A_SHARD} are allowed"
            )
        if shape.get("t", 1) * shape.get("z", 1) > 1:
            raise _Unfit(f"it holds {shape.get('z', 1)} planes and {shape.get('t', 1)} times, not one of each")
    return image
