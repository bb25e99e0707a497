"""Where the program of a spec is, of what kind, and the SHA-256 of its bytes.

Owns the built-in names and the file suffixes. Knows no runtime; imports no program.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wsi_seg.errors import ModelLoadError
from wsi_seg.infer.protocol import ModelSpec
from wsi_seg.infer.runtime.constant import is_constant

_BUILTIN = Path(__file__).parent / "builtin"
_KINDS = {
    ".onnx": "onnx", ".xml": "openvino-ir", ".pt2": "torch-export", ".pt": "torchscript", ".ts": "torchscript",
    ".engine": "tensorrt-engine",
}  # fmt: skip
_RUNTIMES = {
    "onnx": ("openvino", "onnxruntime", "tensorrt"),
    "tensorrt-engine": ("tensorrt",),
    "openvino-ir": ("openvino",),
    "torch-export": ("torch",),
    "torchscript": ("torch",),
    "factory": ("torch",),
}
ON_REQUEST = {"onnx": ("onnxruntime-tensorrt",)}
"""Runtimes that `auto` leaves alone."""
_RUN_PROGRAM = "model.onnx"
"""The program in a folder that `wsi-seg train` leaves."""
STORED = ("fp16", "int8")
"""Precisions that are programs of their own."""
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Location:
    """A program found: its kind, its file, and the runtimes that run it in order of preference."""

    kind: str
    """`onnx`, `openvino-ir`, `torch-export`, `torchscript`, `tensorrt-engine` or `factory`."""
    path: Path
    """Program file; for a factory the source file of its module."""
    runtimes: tuple[str, ...]
    """That can take it on some device; `wsi_seg.infer.places` says which device."""
    name: str
    """For people."""
    original: Path | None = None
    """The fp32 program that lies beside this one of lower precision, where that is what was asked for."""


def builtin_models() -> dict[str, Path]:
    """Files of the models that come with the package, by name.

    >>> sorted(builtin_models())
    ['he-stain', 'identity', 'nuclei']
    """
    return {path.stem: path for path in sorted(_BUILTIN.glob("*.onnx")) if "." not in path.stem}


def locate(spec: ModelSpec) -> Location:
    """Find the program of a spec other than `constant:K/C`. Raises ModelLoadError."""
    builtin = builtin_models()
    if spec.model in builtin:
        return _with_runtimes(spec, "onnx", builtin[spec.model])
    path = Path(spec.model)
    if path.is_dir():
        path = path / _RUN_PROGRAM
    kind = _KINDS.get(path.suffix.lower())
    if kind is None and _FACTORY.fullmatch(spec.model):
        return _with_runtimes(spec, "factory", _module_file(spec.model.partition(":")[0]))
    if kind is None:
        raise ModelLoadError(
            f"model {spec.model!r}",
            rule=f"a model is one of {', '.join(builtin)}, a file {' '.join(_KINDS)}, the folder of a training, "
            "or module:factory",
            remedy="`wsi-seg models` lists those that come with it",
        )
    if not path.is_file():
        of_training = path.name == _RUN_PROGRAM and path.parent.is_dir()
        remedy = "is the training in it finished?" if of_training else "check the path"
        what = f"model file {path} does not exist" if not path.exists() else f"{path} is not a file"
        raise ModelLoadError(what, rule="a model is a file that is there", remedy=remedy)
    return _with_runtimes(spec, kind, path)


def variant_path(program: Path, precision: str) -> Path:
    """Where the program of a lower precision lies: beside the one in fp32.

    >>> str(variant_path(Path("run/model.onnx"), "int8"))
    'run/model.int8.onnx'
    """
    return program.with_suffix(f".{precision}{program.suffix}")


def variants(spec: ModelSpec) -> tuple[str, ...]:
    """Lower precisions in which the program of a spec (all programs of an ensemble) lies ready; ONNX files only."""
    found = [locate(one.replaced(precision="auto")) for one in spec.single if not is_constant(one.model)]
    if any(location.kind != "onnx" for location in found):
        return ()
    return tuple(name for name in STORED if all(variant_path(location.path, name).is_file() for location in found))


def model_sha256(spec: ModelSpec) -> str:
    """SHA-256 (hex) over the bytes that decide the predictions: program, external weights, safetensors.

    For `module:factory` the source file of the module and the weights; for `constant:K/C` the name. One file gives the
    plain hash of its bytes. For an ensemble, hashes and shares of all members in their order. Raises ModelLoadError.
    """
    if spec.members:
        parts = [f"{model_sha256(one)} {share!r}" for one, share in zip(spec.single, spec.shares, strict=True)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    if is_constant(spec.model):
        return hashlib.sha256(spec.model.encode()).hexdigest()
    return _joined(model_files(spec))


def original_sha256(location: Location) -> str:
    """As `model_sha256`, of the original that lies beside a program of lower precision. Raises ModelLoadError."""
    assert location.original is not None
    return _joined(_parts(location.kind, location.original))


def weights_sha256(spec: ModelSpec) -> str:
    """SHA-256 (hex) of the file that a card's `weights_sha256` speaks of: the weights, else the program."""
    return file_sha256(Path(spec.weights) if spec.weights else locate(spec).path)


def model_files(spec: ModelSpec) -> Iterable[Path]:
    """The files that decide the predictions of a single model: program, external weights, safetensors.

    Raises ModelLoadError.
    """
    location = locate(spec)
    yield from _parts(location.kind, location.path)
    if spec.weights is not None:
        yield Path(spec.weights)


def _parts(kind: str, path: Path) -> Iterable[Path]:
    """The files of one program: itself, and weights that lie beside it."""
    yield path
    if kind == "onnx":
        from wsi_seg.infer.program.onnx_file import external_files

        yield from external_files(path)
    if kind == "openvino-ir" and (weights := path.with_suffix(".bin")).is_file():
        yield weights


def _joined(paths: Iterable[Path]) -> str:
    """One hash for several files; that of a single file is its own."""
    hashes = [file_sha256(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes. Raises ModelLoadError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        rule, remedy = "a model is a file that can be read", "check the path and its permissions"
        raise ModelLoadError(f"cannot read {path}: {error.strerror}", rule=rule, remedy=remedy) from error


def _with_runtimes(spec: ModelSpec, kind: str, path: Path) -> Location:
    able, all_able = _RUNTIMES[kind], (*_RUNTIMES[kind], *ON_REQUEST.get(kind, ()))
    if spec.runtime not in ("auto", *all_able):
        raise ModelLoadError(
            f"runtime {spec.runtime} for {spec.model}", rule=f"{kind} programs run on {' or '.join(all_able)}",
            remedy="leave --runtime auto, or export the model to another format",
        )  # fmt: skip
    if spec.weights is not None and kind != "factory":
        raise ModelLoadError(
            f"weights {spec.weights} for {spec.model}", rule="only module:factory takes weights",
            remedy="leave --weights out: the program holds its own",
        )  # fmt: skip
    if spec.weights is not None and not Path(spec.weights).is_file():
        raise ModelLoadError(f"weights {spec.weights}", rule="weights are a file, safetensors", remedy="check the path")
    program, original = path, None
    if kind == "onnx" and spec.precision in STORED and (stored := variant_path(path, spec.precision)).is_file():
        program, original = stored, path
    return Location(kind, program, able if spec.runtime == "auto" else (spec.runtime,), spec.model, original)


def _is_pythons_own(package: str) -> bool:
    """Whether a package is of the standard library; a file of the user's that hides one is the user's."""
    if package not in sys.stdlib_module_names and package != "builtins":
        return False
    found = importlib.util.find_spec(package)  # imports nothing: it has no dots
    if found is None or found.origin is None or not Path(found.origin).is_file():
        return True
    return Path(found.origin).resolve().is_relative_to(Path(sysconfig.get_path("stdlib")).resolve())


def _module_file(module: str) -> Path:
    """The source file of an importable module. Importing its packages, if it lies in one, runs their code."""
    remedy = f"start Python where `import {module}` works: PYTHONPATH=FOLDER wsi-seg …, FOLDER holding the module"
    if _is_pythons_own(module.partition(".")[0]):
        raise ModelLoadError(
            f"module {module!r} is part of Python",
            rule="module:factory names a module of yours; calling what comes with Python could do anything",
            remedy="if yours has the same name, rename it",
        )
    if module.endswith(".py"):
        remedy = f"name the module without its suffix: {module.removesuffix('.py')}; {remedy.replace('.py', '')}"
    try:
        found = importlib.util.find_spec(module)
    except Exception as error:  # a package above it runs its own code
        raise ModelLoadError(
            f"module {module!r} cannot be found: {type(error).__name__}: {error}",
            rule="module:factory names an importable module", remedy=remedy,
        ) from error  # fmt: skip
    if found is None or found.origin is None or not Path(found.origin).is_file():
        raise ModelLoadError(
            f"module {module!r} cannot be found", rule="module:factory names an importable module", remedy=remedy
        )
    return Path(found.origin)
