"""What makes two runs the same run: the run id and the difference of two field mappings, as plain JSON values.

Knows nothing of what the fields mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

RESULT_VERSION = 3
"""Raised whenever the same inputs give other bytes than before; a half-done run of another version is not resumed."""

_SHOWN = 48
"""Longest value shown whole in a difference."""


def canonical_json(fields: Mapping[str, Any]) -> str:
    """JSON with sorted keys and no white space; equal values give equal text.

    Raises:
        ValueError: a float is not finite.
        TypeError: a value has no JSON form.
    """
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)


def run_identity(fields: Mapping[str, Any]) -> str:
    """SHA-256, hexadecimal, of the canonical JSON of the fields.

    >>> run_identity({"b": (1, 2), "a": 0.5}) == run_identity({"a": 0.5, "b": [1, 2]})
    True
    """
    return sha256(canonical_json(fields).encode()).hexdigest()


def differing_fields(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Fields that differ, by dotted name, with the stored and the wanted value.

    >>> differing_fields({"grid": {"tile": 512, "overlap": 64}}, {"grid": {"tile": 1024, "overlap": 64}, "batch": 8})
    ['batch: absent, now 8', 'grid.tile: 512, now 1024']
    """
    old, new = _leaves(stored), _leaves(wanted)
    return [
        f"{name}: {_shown(old.get(name))}, now {_shown(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _leaves(fields: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted name -> JSON text of every value that is not a mapping with members."""
    leaves: dict[str, str] = {}
    for key, value in fields.items():
        if isinstance(value, Mapping) and value:
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = json.dumps(value, sort_keys=True, allow_nan=False)
    return leaves


def _shown(text: str | None) -> str:
    if text is None:
        return "absent"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 18]}… (sha256 {sha256(text.encode()).hexdigest()[:8]})"
