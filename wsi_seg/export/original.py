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
from wsi_seg.errors import ModelLoadError, UsageError
from wsi_seg.export.request import FORMATS, MODULE_FORMATS, ExportRequest
from wsi_seg.infer import CardOverrides, ModelSpec, builtin_models, model_sha256, read_card
from wsi_seg.infer.location import Location, file_sha256, locate

_INSIDE = {"activation": "probabilities", "layout": "NCHW", "output": ""}
"""What of a factory's card moves into the program that is made of its module."""


@dataclass(frozen=True, slots=True)
class Source:
    """The model that a request names, found but not opened."""

    location: Location
    spec: ModelSpec
    """Of the program as the user has it: what everything is compared with."""
    out: Path
    """File that the export goes to."""


@dataclass(frozen=True, slots=True)
class Original:
    """What an export starts from."""

    card: ModelCard
    """As complete as running made it; of probabilities where the activation moved into the program."""
    sha256: str
    """SHA-256 (hex) of the files that the user has; for a factory, of the ONNX program made of it where one is."""
    program: Path | None = None
    """ONNX in fp32; None where the format is made from the module."""
    module: Any = None
    """The torch module that makes probabilities of normalised (N, 3, H, W) float32; None for other formats."""


def find_source(request: ExportRequest) -> Source:
    """The model of a request. Raises ModelLoadError, UsageError where it is none that exports start from."""
    weights = None if request.weights is None else str(request.weights)
    spec = ModelSpec(request.model, weights=weights, card=CardOverrides(**request.card))
    location = locate(spec)
    if location.kind not in ("factory", "onnx"):
        raise UsageError(
            f"export of {location.name}, a {location.kind} program",
            rule="exports start from the folder of a training, an ONNX file, a built-in name or module:factory",
        )
    if location.kind == "onnx" and request.to in MODULE_FORMATS and not Path(request.model).is_dir():
        raise UsageError(
            f"--to {request.to} of {request.model}", rule="this format is made from a torch module",
            remedy="name the folder of a training, or module:factory",
        )  # fmt: skip
    return Source(location, spec, request.out or _out(location, request))


def check_precision(source: Source) -> None:
    """Refuse what has lost something already. Raises ModelLoadError, CardError."""
    if (precision := read_card(source.spec).precision) != "fp32":
        raise ModelLoadError(
            f"{source.location.name} is stored in {precision}",
            rule="exports start from the fp32 original", remedy="name the program it was made from",
        )  # fmt: skip


@contextmanager
def open_original(source: Source, card: ModelCard, request: ExportRequest) -> Iterator[Original]:
    """The original of a source, `card` being the one it runs with; what had to be made is gone when the `with` ends.

    Raises ModelLoadError.
    """
    card = card.replaced(weights_sha256="")
    if source.location.kind == "onnx":
        module = trained_module(Path(request.model)) if request.to in MODULE_FORMATS else None
        yield Original(card, model_sha256(source.spec), source.location.path, module)
        return
    with TemporaryDirectory(prefix="wsi-seg-export-") as folder:
        yield _from_factory(source, card, request, Path(folder) / "original.onnx")


def trained_module(folder: Path) -> Any:
    """The network of a training's folder, of probabilities. Raises ModelLoadError, CheckpointError."""
    from wsi_seg.model.network import Probabilities
    from wsi_seg.train.trained import read_trained

    return Probabilities(read_trained(folder).network).eval()


def _from_factory(source: Source, card: ModelCard, request: ExportRequest, made: Path) -> Original:
    from wsi_seg.export.torch_module import as_probabilities, write_onnx
    from wsi_seg.infer.runtime.torch_predictor import open_module

    module = as_probabilities(open_module(source.location, source.spec)[0], card)
    card = card.replaced(**_INSIDE)
    if request.to in MODULE_FORMATS:
        return Original(card, model_sha256(source.spec), module=module)
    write_onnx(module, card, made)
    return Original(card, file_sha256(made), made, module)


def _out(location: Location, request: ExportRequest) -> Path:
    """The name of an export: beside the program; here for built-in models and factories, whose folders are packages."""
    precision = "" if request.precision == "fp32" else f".{request.precision}"
    foreign = location.kind == "factory" or request.model in builtin_models()
    stem = request.model.rpartition(":")[2] if location.kind == "factory" else location.path.stem
    return (Path() if foreign else location.path.parent) / f"{stem}{precision}{FORMATS[request.to]}"
