"""Label maps in PNG, TIFF and OME-Zarr, the results of wsi-seg among them.

Owns zarr in this room and what the files say about classes and place. PNG is decoded whole, the others by parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from weakref import finalize

from wsi_seg.annotation.naming import Naming
from wsi_seg.annotation.pixel_files import read_index
from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.annotation.raster import LabelMap
from wsi_seg.annotation.tiff_result import result_spec
from wsi_seg.errors import AnnotationError

_NOT_ANALYSED = (IGNORE, 65535)
_RESULT_LABELS = "labels/segmentation"
_RULE = "a label map is an OME-Zarr label image, a result of wsi-seg, or an array (h, w)"


def read_picture(path: Path, naming: Naming) -> LabelMap:
    """A PNG or another small picture, whole: px are class indices, 255 is ignored. Raises AnnotationError."""
    return LabelMap(_plain(read_index(path)), str(path), _by_index(naming))


def read_tiff(path: Path, naming: Naming) -> LabelMap:
    """A TIFF, read by parts; a copy of a result tells its classes and its place. Raises AnnotationError."""
    import tifffile
    import zarr

    opened = ExitStack()
    try:
        tiff = opened.enter_context(tifffile.TiffFile(path))
        array: Any = zarr.open(tiff.series[0].aszarr(level=0), mode="r")
        spec = result_spec(tiff.pages.first)
    except Exception as error:
        opened.close()
        # tifffile raises TiffFileError, ValueError, struct.error, … for damaged files.
        raise AnnotationError(f"{path} cannot be read as TIFF: {error}", remedy="check the file") from error
    finalize(array, opened.close)  # the array reads from the open file as long as somebody holds it
    if array.ndim != 2 or array.dtype.kind not in "uib":
        raise AnnotationError(f"{path} holds {array.dtype} of shape {array.shape}", rule="(h, w) of whole numbers")
    return _placed(array, str(path), spec, naming)


def read_zarr(path: Path, naming: Naming) -> LabelMap:
    """A result, an OME-Zarr label image or a bare array in a folder, read by parts. Raises AnnotationError."""
    import zarr

    try:
        node: Any = zarr.open(path, mode="r")
    except Exception as error:
        # zarr raises KeyError, ValueError, TypeError, json errors, … for damaged metadata.
        raise AnnotationError(f"{path} cannot be opened as Zarr: {error}", rule=_RULE) from error
    spec: Mapping[str, Any] = {}
    if not isinstance(node, zarr.Array):
        spec = dict(node.attrs.get("wsi_seg", {})).get("spec", {})
        node = _label_group(node, path)
    attributes = {} if isinstance(node, zarr.Array) else dict(node.attrs)
    array = node if isinstance(node, zarr.Array) else _finest(node, path)
    if array.ndim != 2 or array.dtype.kind not in "uib":
        raise AnnotationError(f"{path} holds {array.dtype} of shape {array.shape}", rule=_RULE)
    if spec:
        return _placed(array, str(path), spec, naming)
    return LabelMap(array, str(path), _by_properties(attributes, naming) or _by_index(naming))


def _label_group(node: Any, path: Path) -> Any:
    """The group of the label image: the node itself, or the only one among its `labels`."""
    if _RESULT_LABELS in node:
        return node[_RESULT_LABELS]
    if "labels" in node:
        names = sorted(node["labels"].group_keys())
        if len(names) != 1:
            raise AnnotationError(f"{path} holds the label images {names}", remedy="give the folder of one of them")
        return node[f"labels/{names[0]}"]
    return node


def _finest(group: Any, path: Path) -> Any:
    attributes: dict[str, Any] = dict(group.attrs)
    multiscales: Any = dict(attributes.get("ome", attributes)).get("multiscales")
    try:
        return group[multiscales[0]["datasets"][0]["path"]]
    except (TypeError, KeyError, IndexError) as error:
        raise AnnotationError(f"{path} has no `multiscales`", rule=_RULE) from error


def _plain(labels: Any) -> Any:
    return labels.astype("uint8") if labels.dtype == bool else labels


def _by_index(naming: Naming) -> dict[int, int]:
    return {index: index for index in range(len(naming.classes))} | dict.fromkeys(_NOT_ANALYSED, IGNORE)


def _by_properties(attributes: Mapping[str, Any], naming: Naming) -> dict[int, int]:
    """Meanings by the names that an OME-Zarr label image gives its values; empty where it gives none."""
    properties = dict(dict(attributes.get("ome", attributes)).get("image-label", {})).get("properties", [])
    named = {int(entry["label-value"]): str(entry["name"]) for entry in properties if "name" in entry}
    if not named:
        return {}
    known = {value: name for value, name in named.items() if value not in _NOT_ANALYSED}
    meanings = {value: naming.index(name, f"label {value}") for value, name in known.items()}
    return meanings | dict.fromkeys(_NOT_ANALYSED, IGNORE)


def _placed(array: Any, source: str, spec: Mapping[str, Any], naming: Naming) -> LabelMap:
    """A label map with the classes and the place that a result's spec states; over the whole slide without one."""
    if not spec:
        return LabelMap(array, source, _by_index(naming))
    try:
        named = [str(entry["name"]) for entry in spec["classes"]]
        mpp, l0_mpp = spec["mpp"], spec["l0_mpp"]
        ratio = float(mpp[0]) / float(l0_mpp[0]), float(mpp[1]) / float(l0_mpp[1])
        offset = float(spec["l0_offset"][0]), float(spec["l0_offset"][1])
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise AnnotationError(
            f"{source} has a damaged description: {error!r}", remedy="make the result again"
        ) from error
    meanings = {value: naming.index(name, f"label {value}") for value, name in enumerate(named)}
    return LabelMap(array, source, meanings | dict.fromkeys(_NOT_ANALYSED, IGNORE), ratio, offset)
