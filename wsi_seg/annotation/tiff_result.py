"""What a TIFF copy of a result says of its classes and its place: the counterpart of `output/tiff_writer`.

Owns how that text is read, for training and evaluation alike. Opens no file, imports no TIFF library.
"""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

_ORIGIN = "origin in slide level-0 px (x, y)"
_FACT = re.compile(r'<M K="([^"]*)">([^<]*)</M>')


def result_spec(page: Any) -> dict[str, Any]:
    """`classes`, `mpp`, and all `l0_…`, named and ordered (y, x) as in a result's spec.

    `page` is the first page of a TIFF, as tifffile has it; of any file but ours the answer is empty. Raises KeyError,
    ValueError and others where a description is damaged.
    """
    text = page.description or ""
    if page.software != "wsi-seg" or _ORIGIN not in text:
        return {}
    facts = json.loads(text) if text.startswith("{") else {unescape(k): unescape(v) for k, v in _FACT.findall(text)}
    coloured = [key.removeprefix("colour ") for key in facts if key.startswith("colour ")]  # "not analysed" has none
    px_per_cm = page.resolution
    return {
        "classes": [
            {"name": facts[f"label {value}"], "colour": facts[f"colour {value}"]} for value in sorted(coloured, key=int)
        ],
        "mpp": [1e4 / px_per_cm[1], 1e4 / px_per_cm[0]],
        "l0_mpp": _numbers(facts["slide mpp (x, y)"]),
        "l0_offset": _numbers(facts[_ORIGIN]),
        "l0_size": [round(number) for number in _numbers(facts["slide size (width, height)"])],
        "l0_bounds": [round(number) for number in _numbers(facts["corner of the scanned bounds (x, y)"])],
    }


def _numbers(text: str) -> list[float]:
    """(y, x) of `x, y`."""
    return [float(part) for part in reversed(text.split(","))]
