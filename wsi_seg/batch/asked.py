"""What was asked of a batch, or of one of its slides: all that changes a label, to be kept and compared.

Paths count by their name and content, so that slides, models and results may move together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from wsi_seg.engine.options import RunOptions
from wsi_seg.infer import ModelSpec, model_sha256

NOT_ASKED = ("workers", "memory_bytes", "scheduler", "overwrite", "restart", "batch", "block")
"""Options that change no label, or are each slide's own: a batch may go on with others."""


class Asked:
    """Puts options into that form; hashes every file once."""

    def __init__(self) -> None:
        self._program = cache(lambda model, weights: model_sha256(ModelSpec(model=model, weights=weights)))
        self._content = cache(_content)

    def of(self, options: RunOptions, *, tiff: bool) -> dict[str, Any]:
        """JSON-able; the bytes of models and regions included. Raises ModelLoadError."""
        fields = {name: _plain(value) for name, value in asdict(options).items() if name not in NOT_ASKED}
        weights = None if options.weights is None else str(options.weights)
        models = (options.model, *options.more_models)
        return {
            **fields,
            "model": _name(options.model),
            "more_models": [_name(model) for model in options.more_models],
            "weights": None if weights is None else _name(weights),
            "roi": None if options.roi is None else f"{options.roi.name} ({self._content(options.roi)})",
            "programs": [self._program(model, weights) for model in models],
            "tiff": tiff,
        }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was, in words, by name of the option; empty where all is.

    An option that a record does not know is newer than the record: it was as it is by default.
    """
    defaults = {name: _plain(value) for name, value in asdict(RunOptions()).items()}
    before, now = {**defaults, **before}, {**defaults, **now}
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return [f"{name}: {before.get(name)!r}, now {now.get(name)!r}" for name in names]


def _name(model: str) -> str:
    """Of a file or folder without where it lies; a built-in's or a module's as it is."""
    return Path(model).name if Path(model).exists() else model


def _content(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return "cannot be read"


def _plain(value: Any) -> Any:
    """JSON-able; paths and values of our own classes as their text."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
