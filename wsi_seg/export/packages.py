"""What must be installed for an export; asked before any work, so that nobody waits to hear what is missing.

Owns which format needs which package, and the command that installs it. Imports none of them.
"""

from __future__ import annotations

from importlib.util import find_spec

from wsi_seg.errors import ModelLoadError
from wsi_seg.export.request import ExportRequest
from wsi_seg.infer.location import Location

_TORCH = ("torch", "safetensors")
_OF_FORMAT = {"torch": _TORCH, "coreml": ("coremltools", *_TORCH)}
"""Format -> packages beside those that wsi-seg always has."""
_OF_FACTORY = (*_TORCH, "onnxscript")
"""To make an ONNX program of a torch module."""
_EXTRAS = {"torch": "torch", "coreml": "coreml"}
"""Format -> extra of wsi-seg that brings its packages."""


def check_packages(request: ExportRequest, location: Location) -> None:
    """Refuse an export that something not installed is needed for. Raises ModelLoadError."""
    if request.to == "tensorrt":
        _check_tensorrt()
    needed = _OF_FORMAT.get(request.to, ())
    if location.kind == "factory" and request.to not in _OF_FORMAT:
        needed = _OF_FACTORY
    if missing := [package for package in needed if find_spec(package) is None]:
        raise ModelLoadError(
            f"export of {location.name} to {request.to} needs {' and '.join(missing)}, not installed here",
            rule="what an export needs is looked for before any work",
            remedy=f"pip install 'wsi-seg[{_EXTRAS.get(request.to, 'export')}]'",
        )


def _check_tensorrt() -> None:
    from wsi_seg.infer.runtime.tensorrt_library import FLAVOURS, load_library

    try:
        load_library()
    except ModelLoadError as error:
        raise ModelLoadError(
            error.what,
            rule=f"--to tensorrt needs one of the packages {', '.join(FLAVOURS)}",
            remedy="pip install tensorrt, or for RTX GPUs pip install tensorrt-rtx; an ONNX program needs neither",
        ) from error
