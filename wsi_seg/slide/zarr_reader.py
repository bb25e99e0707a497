"""Reads OME-Zarr images (0.4 and 0.5) and plain RGB Zarr arrays; the only file of this room that knows zarr.

Owns the reading of multiscales metadata. Knows nothing of labels or results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_seg.errors import RegionReadError, SlideOpenError
from wsi_seg.geometry import Box, Mpp
from wsi_seg.slide.fingerprint import sampled_sha256
from wsi_seg.slide.resolution import plausible_mpp, stored_levels, unit_um
from wsi_seg.slide.stored import Description, StoredSlide

_N_SAMPLED_FILES = 64
_METADATA = ("zarr.json", ".zattrs", ".zarray", ".zgroup")


@dataclass(frozen=True, slots=True)
class _Image:
    """What the metadata say about one image."""

    vendor: str
    arrays: tuple[Any, ...]
    axes: str
    """One letter per axis of the arrays, e.g. `tczyx`."""
    mpp: Mpp | None = None


class ZarrSlide(StoredSlide):
    """An OME-Zarr image, or a bare (h, w, 3) array, in a folder."""

    reader = "zarr"

    def __init__(self, path: Path, mpp: Mpp | None = None) -> None:
        """Raises SlideOpenError."""
        try:
            image = _image(path, zarr.open(path, mode="r"))
        except SlideOpenError:
            raise
        except Exception as error:
            # zarr raises KeyError, ValueError, TypeError, json errors, … for damaged metadata.
            raise SlideOpenError(
                f"{path} cannot be opened as Zarr: {error}", remedy="give an OME-Zarr image"
            ) from error
        self._arrays, self._axes = image.arrays, image.axes
        y, x = self._axes.index("y"), self._axes.index("x")
        levels = stored_levels(
            [(int(array.shape[y]), int(array.shape[x])) for array in self._arrays],
            [(int(array.chunks[y]), int(array.chunks[x])) for array in self._arrays],
        )
        super().__init__(path, Description(image.vendor, levels, image.mpp), mpp)
        self._root = path

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all metadata, of the names and sizes of all chunks, and of a sample of their content."""
        try:
            files = sorted(file for file in self._root.rglob("*") if file.is_file())
            listing = "\n".join(f"{file.relative_to(self._root).as_posix()} {file.stat().st_size}" for file in files)
        except OSError as error:
            raise RegionReadError(f"{self._root} cannot be read: {error.strerror or error}") from error
        metadata = [file for file in files if file.name in _METADATA]
        chunks = [file for file in files if file.name not in _METADATA]
        sample = chunks[:: max(1, len(chunks) // _N_SAMPLED_FILES)]
        return sampled_sha256([*metadata, *sample], listing.encode())

    def _read_inside(self, out: NDArray[np.uint8], box: Box, level: int) -> None:
        wanted: dict[str, slice] = dict(zip("yx", box.slices(), strict=True))
        selection = tuple(wanted.get(axis, slice(None) if axis == "c" else 0) for axis in self._axes)
        try:
            pixels = np.asarray(self._arrays[level][selection])
        except Exception as error:
            # Damaged chunks surface as RuntimeError, ValueError or a codec's own exception.
            raise self._unreadable(box, level, error) from error
        kept = [axis for axis in self._axes if axis in "cyx"]
        if "c" in kept:
            pixels = pixels.transpose([kept.index(axis) for axis in "yxc"])
        else:
            pixels = pixels.transpose([kept.index(axis) for axis in "yx"])[..., None]
        out[...] = pixels


def _image(path: Path, node: Any) -> _Image:
    if isinstance(node, zarr.Array):
        return _checked(path, _Image("zarr", (node,), "yxc"))
    attributes = dict(node.attrs)
    attributes = dict(attributes.get("ome", attributes))
    if "multiscales" in attributes:
        return _checked(path, _multiscale(node, attributes["multiscales"][0]))
    if "bioformats2raw.layout" in attributes and "0" in node:
        return _image(path, node["0"])
    raise SlideOpenError(
        f"{path} is a Zarr group without `multiscales`", remedy="give the OME-Zarr image inside it, or an RGB array"
    )


def _multiscale(group: Any, multiscale: Mapping[str, Any]) -> _Image:
    axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in multiscale["axes"]]
    datasets = multiscale["datasets"]
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


def _checked(path: Path, image: _Image) -> _Image:
    """The image, once it is known to be 8-bit RGB or grey. Raises SlideOpenError."""
    for array in image.arrays:
        shape = dict(zip(image.axes, array.shape, strict=False))
        fits = len(image.axes) == array.ndim and {"y", "x"} <= set(image.axes) <= set("tczyx") and min(array.shape) > 0
        if not fits:
            raise SlideOpenError(
                f"{path} holds an array of shape {array.shape} with axes {image.axes!r}",
                rule="a slide is (h, w, 3), or has OME axes y, x and c",
            )
        if array.dtype != np.uint8 or shape.get("c", 1) not in (1, 3):
            raise SlideOpenError(
                f"{path} holds {array.dtype} with {shape.get('c', 1)} channels",
                rule="slides are uint8 with 3 channels (RGB) or 1 (grey)",
                remedy="convert it to 8-bit RGB",
            )
        if shape.get("t", 1) * shape.get("z", 1) > 1:
            raise SlideOpenError(
                f"{path} holds {shape.get('z', 1)} planes, {shape.get('t', 1)} times", rule="one of each"
            )
    return image
