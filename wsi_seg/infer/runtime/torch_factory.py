"""`module:factory`: the user's own torch module, made by the user's code, its weights loaded strictly.

Owns importing and calling it, and an error for each thing that may go wrong there. Importing a module runs its code:
the user named it. Weights are safetensors, which bring no code.
"""

from __future__ import annotations

import importlib
import traceback
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from wsi_seg.card import METADATA_KEY, ModelCard
from wsi_seg.errors import ModelLoadError, WsiSegError
from wsi_seg.infer.location import Location
from wsi_seg.infer.protocol import ModelSpec, Signature

_RULE = "module:factory names a callable without arguments that makes a torch.nn.Module"


def make_module(location: Location, spec: ModelSpec) -> tuple[Any, Signature]:
    """The module in eval mode, and the card that it or its weights carry. Raises ModelLoadError."""
    module = _called(_factory(spec.model), spec.model)
    own = getattr(module, "card", None)
    card = own.to_json() if isinstance(own, ModelCard) else None
    if spec.weights is not None:
        card = _load_weights(module, spec.weights, location.name) or card
    return module.eval().to(memory_format=torch.channels_last), Signature(card_json=card)


def _factory(name: str) -> Any:
    """What `module:factory` names."""
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ModelLoadError(
            f"module {module_name!r} cannot be imported: {_told(error)}", rule=_RULE,
            remedy="install what it needs, or mend it, until `python -c 'import " + module_name + "'` works",
        ) from error  # fmt: skip
    try:
        factory = getattr(module, attribute)
    except AttributeError as error:
        near = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ModelLoadError(
            f"module {module_name!r} has no {attribute!r}", rule=_RULE,
            remedy=f"it has {', '.join(near[:8])}" if near else "",
        ) from error  # fmt: skip
    if not callable(factory):
        raise ModelLoadError(
            f"{name} is a value of type {type(factory).__name__}, which cannot be called", rule=_RULE,
            remedy="write a function or a class that makes the module, and name that",
        )  # fmt: skip
    return factory


def _called(factory: Any, name: str) -> torch.nn.Module:
    """What the factory makes."""
    try:
        module = factory()
    except WsiSegError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelLoadError(
            f"{name} raises {_told(error)}", rule=_RULE,
            remedy="make it work without arguments: write a factory that fills them in",
        ) from error  # fmt: skip
    if not isinstance(module, torch.nn.Module):
        raise ModelLoadError(
            f"{name} made a value of type {type(module).__name__}", rule=_RULE,
            remedy="return the module itself, its weights loaded or given with --weights",
        )  # fmt: skip
    return module


def _load_weights(module: torch.nn.Module, path: str, name: str) -> str | None:
    """Load a safetensors file; answer the card in its metadata."""
    try:
        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            card: str | None = (file.metadata() or {}).get(METADATA_KEY)
    except (SafetensorError, OSError) as error:
        raise ModelLoadError(
            f"{path} is not a safetensors file: {error}",
            rule="its header and its length agree",
            remedy="fetch it, or save the weights, again",
        ) from error
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ModelLoadError(
            f"{path} does not fit {name}: {_line(error)}",
            rule="weights are loaded strictly",
            remedy="name the module that they are of",
        ) from error
    return card


def _told(error: BaseException) -> str:
    """An error of the user's code, and the last line of that code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and not frame.filename.startswith("<frozen")]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{_line(error)}{place}"


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400]
