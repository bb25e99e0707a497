"""What the values of a map mean: tables from stored values to class indices.

Owns the agreement of prediction and reference on classes, by name where both have names. Knows no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_seg.annotation.naming import IGNORED
from wsi_seg.card import SegmentationClass, named_classes
from wsi_seg.errors import EvaluationError
from wsi_seg.evaluate.label_map import LabelMap, Values

NONE = 255
"""Class index of what is no class: not analysed in a prediction, ignored in a reference."""


@dataclass(frozen=True, slots=True)
class ValueTable:
    """Stored value -> class index, `NONE` for what is no class; values that are not listed are an error."""

    indices: Mapping[int, int]
    source: str
    """Whose values they are, in words."""

    def apply(self, values: Values) -> NDArray[np.uint8]:
        """Class indices of stored values, uint8 of the same shape. Raises EvaluationError."""
        values = values.astype(np.uint8) if values.dtype == np.bool_ else values  # a mask would select, not look up
        top = int(values.max(initial=0))
        if values.size and (int(values.min()) < 0 or top > 65535):
            raise self._unknown(int(values.min()) if int(values.min()) < 0 else top)
        table = np.full(max(top, max(self.indices, default=0)) + 1, -1, np.int16)
        for value, index in self.indices.items():
            table[value] = index
        indices = table[values]
        if indices.size and indices.min() < 0:
            raise self._unknown(int(values[indices < 0][0]))
        return indices.astype(np.uint8)

    def _unknown(self, value: int) -> EvaluationError:
        return EvaluationError(
            f"{self.source} holds the value {value}",
            rule=f"values that have a class: {_ranges(self.indices)}",
            remedy="give all --classes, or say what it is: --predicted-values or --reference-values VALUE=CLASS",
        )


def agreed_classes(maps: Sequence[LabelMap], names: Sequence[str]) -> tuple[SegmentationClass, ...]:
    """Classes to score: the given names, or those of the first map that states its own. Raises EvaluationError."""
    known = next((m.classes for m in maps if m.classes), ())
    if not names and not known:
        raise EvaluationError(
            "neither the prediction nor the reference names its classes",
            remedy="--classes background,tumour (in the order of the values 0, 1, …)",
        )
    colours = {entry.name: entry for entry in known}
    classes = tuple(colours.get(entry.name, entry) for entry in named_classes(list(names))) if names else tuple(known)
    listed = [entry.name for entry in classes]
    if len(set(listed)) != len(listed) or IGNORED in listed or len(listed) > NONE:
        raise EvaluationError(
            f"classes {', '.join(listed)[:200]}", rule=f"names differ, none is {IGNORED!r}, at most {NONE}"
        )
    return classes


def value_table(
    source: str, stated: LabelMap, classes: Sequence[SegmentationClass], changes: Mapping[str, str]
) -> ValueTable:
    """Table of a map.

    Args:
        source: the map, in words for errors.
        stated: whose own classes, if it has any, say what its values are.
        classes: to score.
        changes: stored value or class name of the map -> class name to score, or `ignore`.

    Raises:
        EvaluationError: a class of the map that is none of `classes`, or an unknown name in `changes`.
    """
    targets = {entry.name: index for index, entry in enumerate(classes)} | {IGNORED: NONE}
    own = [entry.name for entry in stated.classes or classes]
    indices = {NONE if stated.not_analysed is None else stated.not_analysed: NONE}
    given = dict(changes)
    for value, name in enumerate(own):
        target = given.pop(name, None) or name
        target = given.get(str(value), target)
        if target not in targets:
            raise EvaluationError(
                f"class {target!r} of {source} is not scored",
                rule=f"classes: {', '.join(entry.name for entry in classes)}",
                remedy=f"map it with --predicted-values or --reference-values: {name}=CLASS or {name}={IGNORED}",
            )
        indices[value] = targets[target]
    for value_text, target in given.items():
        if not value_text.isdigit() or int(value_text) > 65535 or target not in targets:
            raise EvaluationError(
                f"mapping {value_text}={target} of {source}",
                rule=f"VALUE or one of {', '.join(own)}, then one of {', '.join(targets)}",
            )
        indices[int(value_text)] = targets[target]
    return ValueTable(indices, source)


def instance_index(classes: Sequence[SegmentationClass], name: str) -> int:
    """Index of the class that objects of an instance map are; value 0 is then class 0. Raises EvaluationError."""
    index = class_index(classes, name)
    if index == 0:
        raise EvaluationError(f"instances of {name!r}", rule="class 0 is what lies between objects")
    return index


def class_index(classes: Sequence[SegmentationClass], name: str) -> int:
    """Position of a class. Raises EvaluationError.

    >>> class_index(named_classes(["background", "nuclei"]), "nuclei")
    1
    """
    names = [entry.name for entry in classes]
    if name not in names:
        raise EvaluationError(f"class {name!r} is not scored", rule=f"classes: {', '.join(names)}")
    return names.index(name)


def _ranges(indices: Mapping[int, int]) -> str:
    """Values in words: 0 … 2, 255."""
    values, parts = sorted(indices), []
    start = values[0]
    for value, following in zip(values, [*values[1:], None], strict=True):
        if following != value + 1:
            parts.append(str(start) if start == value else f"{start} … {value}")
            start = following if following is not None else value
    return ", ".join(parts)
