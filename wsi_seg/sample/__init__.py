"""Slides to try wsi-seg on: a small real one, and synthetic ones of any size with a known truth.

Owns where sample slides come from. Knows no reader, no model and no engine. Importing it costs nothing: names load on
first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsi_seg.sample.real import fetch_sample
    from wsi_seg.sample.synthetic import write_synthetic

__all__ = ["fetch_sample", "write_synthetic"]

_HOMES = {"fetch_sample": "real", "write_synthetic": "synthetic"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
