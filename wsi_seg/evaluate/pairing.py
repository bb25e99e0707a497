"""Which prediction belongs to which reference: one pair, or two folders joined by the stem of the names.

Owns names of files. Opens none of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wsi_seg.errors import EvaluationError
from wsi_seg.evaluate.label_map import IMAGES, TIFFS, LabelMap

ANNOTATIONS = (".geojson", ".json", ".xml")
RESULT = ".seg.zarr"
_ENDINGS = (RESULT, ".ome.tif", ".ome.tiff", ".ome.zarr", ".zarr", *TIFFS, *IMAGES, *ANNOTATIONS)
_BYPRODUCTS = (".overview.png", ".summary.json")
"""What stands beside a TIFF result and is no map."""
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Pair:
    """A prediction and its reference."""

    name: str
    predicted: Path | LabelMap
    reference: Path | LabelMap
    case: str = ""
    """Patient or case: what the bootstrap draws; the name where empty."""


def pair_up(predicted: Path, reference: Path, *, only_paired: bool = False, case: str = "") -> tuple[Pair, ...]:
    """Pairs of two files or of two folders, sorted by name.

    Args:
        predicted: a map, or a folder of maps.
        reference: a map or an annotation, or a folder of them.
        only_paired: leave out files without a partner instead of refusing.
        case: regular expression; its first group (or all of it) in a name is the case.

    Raises:
        EvaluationError: a file without its partner, two files of one stem, nothing to compare, a bad expression.
    """
    for path in (predicted, reference):
        if not path.exists():
            raise EvaluationError(f"{path} is not there", remedy="check the path")
    if not (is_folder_of_maps(predicted) and is_folder_of_maps(reference)):
        if is_folder_of_maps(predicted) or is_folder_of_maps(reference):
            raise EvaluationError(
                f"{predicted} and {reference}", rule="two maps, or two folders of maps with the same names"
            )
        return (Pair(stem(predicted), predicted, reference),)
    left, right = _by_stem(predicted, annotations=False), _by_stem(reference, annotations=True)
    lone = [str(left[s]) for s in sorted(left.keys() - right.keys())]
    lone += [str(right[s]) for s in sorted(right.keys() - left.keys())]
    both = sorted(left.keys() & right.keys())
    if not both or (lone and not only_paired):
        raise EvaluationError(
            f"{len(lone)} files without a partner: {_listed(lone)}",
            rule="a prediction and its reference have the same name up to the ending",
            remedy="rename them, or --only-paired to leave them out",
        )
    return tuple(Pair(s, left[s], right[s], _case(s, case)) for s in both)


def stem(path: Path) -> str:
    """Name without its ending.

    >>> [stem(Path(name)) for name in ("a/x.seg.zarr", "x.ome.tif", "x.1.png", "x")]
    ['x', 'x', 'x.1', 'x']
    """
    name = path.name
    ending = next((e for e in _ENDINGS if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)] if ending else name


def is_folder_of_maps(path: Path) -> bool:
    """A folder that is not itself a result."""
    return path.is_dir() and not (path / "zarr.json").exists() and not path.name.endswith((RESULT, ".zarr"))


def _by_stem(folder: Path, *, annotations: bool) -> dict[str, Path]:
    endings = _ENDINGS if annotations else tuple(e for e in _ENDINGS if e not in ANNOTATIONS)
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        if name.endswith(endings) and not name.endswith(_BYPRODUCTS) and not name.startswith("."):
            found[stem(path)].append(path)
    if twice := [str(path) for paths in found.values() if len(paths) > 1 for path in paths]:
        raise EvaluationError(f"two maps of one name: {_listed(twice)}", rule="one file per name and folder")
    if not found:
        raise EvaluationError(f"{folder} holds no map", rule=f"files ending in {', '.join(endings)}")
    return {name: paths[0] for name, paths in found.items()}


def _case(name: str, expression: str) -> str:
    if not expression:
        return name
    try:
        match = re.search(expression, name)
    except re.error as error:
        raise EvaluationError(f"--case {expression!r}: {error}", rule="a regular expression") from error
    if match is None:
        raise EvaluationError(f"--case {expression!r} does not match {name!r}", rule="every name tells its case")
    return match.group(1) if match.re.groups else match.group(0)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
