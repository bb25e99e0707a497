"""The model as it is: an fp32 ONNX program with its card and, where there is one, the torch module behind it.

Owns what counts as an original. A program of lower precision, or of another format, is none: it lost what the
original still has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from wsi_seg.card import ModelCard
from wsi_seg.errors import CardError, ModelLoadError, UsageError
from wsi_seg.export.request import FORMATS, ExportRequest
from wsi_seg.infer import CardOverrides, ModelSpec, builtin_models, model_sha256, read_card
from wsi_seg.infer.location import Location, file_sha256, locate

_PLAIN = {"activation": "probabilities", "weights_sha256": ""}
"""What changes in the card when the activation moves into the program, and the hash that no file can hold of itself."""


@dataclass(frozen=True, slots=True)
class Original:
    """What an export starts from."""

    program: Path
    """ONNX in fp32 with the card inside."""
    card: ModelCard
    spec: ModelSpec
    """Of the program as the user has it: what everything is compared with."""
    out: Path
    """File that the export goes to unless another is named."""
    sha256: str
    """SHA-256 (hex) of the files that the user has, not of a copy with the card inside."""
    module: Any = None
    """The torch module that makes probabilities of normalised (N, 3, H, W) float32; None for ONNX files."""


@contextmanager
def open_original(request: ExportRequest) -> Iterator[Original]:
    """The original of a request; what had to be made for it is gone when the `with` ends.

    Raises ModelLoadError, CardError, UsageError.
    """
    overrides = CardOverrides(**request.card)
    weights = None if request.weights is None else str(request.weights)
    spec = ModelSpec(request.model, weights=weights, card=overrides)
    location = locate(spec)
    card = read_card(spec)
    if card.precision != "fp32":
        raise ModelLoadError(
            f"{location.name} is stored in {card.precision}",
            rule="exports start from the fp32 original", remedy="name the program it was made from",
        )  # fmt: skip
    with TemporaryDirectory(prefix="wsi-seg-export-") as folder:
        made = Path(folder) / "original.onnx"
        if location.kind == "factory":
            yield _from_factory(location, spec, made, request)
        elif location.kind == "onnx":
            yield _from_program(location, spec, made, request)
        else:
            raise UsageError(
                f"export of {location.name}, a {location.kind} program",
                rule="exports start from the folder of a training, an ONNX file, a built-in name or module:factory",
            )


def _from_program(location: Location, spec: ModelSpec, made: Path, request: ExportRequest) -> Original:
    from wsi_seg.export.writing import embed_card

    out = _out(_home(location, request), location.path.stem, request)
    module = _trained(request) if request.to in ("torch", "coreml") else None
    stored = read_card(ModelSpec(str(location.path))) if _has_card(location) else None
    card = read_card(spec).replaced(weights_sha256="")
    if stored is not None and stored.replaced(weights_sha256="") == card:
        return Original(location.path, card, spec, out, model_sha256(spec), module)
    made.write_bytes(embed_card(location.path, card))
    return Original(made, card, spec, out, model_sha256(spec), module)


def _has_card(location: Location) -> bool:
    from wsi_seg.infer.onnx_file import read_signature

    return read_signature(location.path).card_json is not None


def _home(location: Location, request: ExportRequest) -> Path:
    """The folder of the program; for built-in models the current one, since a package is not written into."""
    return Path() if request.model in builtin_models() else location.path.parent


def _out(folder: Path, stem: str, request: ExportRequest) -> Path:
    precision = "" if request.precision == "fp32" else f".{request.precision}"
    return folder / f"{stem}{precision}{FORMATS[request.to]}"


def _trained(request: ExportRequest) -> Any:
    """The network of a training's folder."""
    from wsi_seg.model.network import Probabilities
    from wsi_seg.train.trained import read_trained

    if not Path(request.model).is_dir():
        raise UsageError(
            f"--to {request.to} of {request.model}", rule="this format is made from a torch module",
            remedy="name the folder of a training, or module:factory",
        )  # fmt: skip
    return Probabilities(read_trained(Path(request.model)).network).eval()


def _from_factory(location: Location, spec: ModelSpec, made: Path, request: ExportRequest) -> Original:
    from wsi_seg.export.torch_module import with_activation
    from wsi_seg.infer.torch_predictor import open_module
    from wsi_seg.model.onnx_export import export_onnx

    card = read_card(spec)
    if card.layout != "NCHW":
        raise CardError(f"layout {card.layout} of {location.name}", rule="torch modules are exported in NCHW")
    module = with_activation(open_module(location, spec)[0], card.activation)
    card = card.replaced(**_PLAIN)
    export_onnx(module, card, made)
    out = _out(Path(), spec.model.rpartition(":")[2], request)
    return Original(made, card, spec, out, file_sha256(made), module)
