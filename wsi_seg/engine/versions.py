"""Versions of the libraries that a run depends on; owns which ones those are."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

REPORTED = ("wsi-seg", "numpy", "numba", "zarr", "openslide-python", "tifffile", "imagecodecs", "simplejpeg", "dask")
"""Libraries whose versions a summary states, besides the runtime's."""
_DECODERS = ("openslide-bin", "imagecodecs", "simplejpeg")
_OTHER_NAMES = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "onnxruntime-tensorrt": ("onnxruntime-gpu", "onnxruntime"),
    "tensorrt": ("tensorrt", "tensorrt-rtx"),
}
"""What runtimes are installed as."""


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """Version by name; "unknown" where a library is not installed as a package."""
    return {name: _version(name) for name in names}


def deciding_versions(runtime: str) -> dict[str, str]:
    """Of what decodes pixels and computes predictions: another version may round otherwise, and give other bytes."""
    return versions_of((*_DECODERS, runtime))


@cache
def _version(name: str) -> str:
    for installed_as in _OTHER_NAMES.get(name, (name,)):
        with suppress(PackageNotFoundError):
            return version(installed_as)
    return "unknown"
