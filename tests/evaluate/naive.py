"""The scores of wsi_seg.evaluate the slow and obvious way: loops over pixels and sets of coordinates."""

from __future__ import annotations

from collections.abc import Iterable
from math import hypot, inf, nan
from typing import Any

import numpy as np

Point = tuple[int, int]


def pixels(mask: Any) -> set[Point]:
    return {(int(y), int(x)) for y, x in np.argwhere(mask)}


def confusion(predicted: Any, reference: Any, n: int, ignore: int) -> list[list[int]]:
    counts = [[0] * (n + 1) for _ in range(n)]
    for p, r in zip(predicted.ravel().tolist(), reference.ravel().tolist(), strict=True):
        if r != ignore:
            counts[r][n if p == ignore else p] += 1
    return counts


def pixel_scores(predicted: Any, reference: Any, index: int) -> dict[str, float]:
    p, r = pixels(predicted == index), pixels(reference == index)
    if not p and not r:
        return dict.fromkeys(("dice", "iou", "precision", "recall"), nan)
    return {
        "dice": 2 * len(p & r) / (len(p) + len(r)),
        "iou": len(p & r) / len(p | r),
        "precision": len(p & r) / len(p) if p else 0.0,
        "recall": len(p & r) / len(r) if r else 0.0,
    }


def boundary(mask: Any, scored: Any) -> set[Point]:
    inside, known = pixels(mask), pixels(scored)
    outside = known - inside
    return {(y, x) for y, x in inside & known if {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} & outside}


def distances(points: Iterable[Point], others: set[Point], spacing: tuple[float, float]) -> list[float]:
    sy, sx = spacing
    return [min((hypot((y - v) * sy, (x - u) * sx) for v, u in others), default=inf) for y, x in points]


def boundary_f1(predicted: Any, reference: Any, tolerance: float, spacing: tuple[float, float], scored: Any) -> float:
    p, r = boundary(predicted, scored), boundary(reference, scored)
    if not p and not r:
        return nan
    right = sum(d <= tolerance + 1e-9 for d in distances(p, r, spacing))
    found = sum(d <= tolerance + 1e-9 for d in distances(r, p, spacing))
    precision, recall = right / len(p) if p else 0.0, found / len(r) if r else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def hausdorff95(predicted: Any, reference: Any, spacing: tuple[float, float], scored: Any) -> float:
    p, r = boundary(predicted, scored), boundary(reference, scored)
    if not p or not r:
        return inf if p or r else nan
    return max(float(np.percentile(distances(a, b, spacing), 95)) for a, b in ((p, r), (r, p)))


def components(mask: Any, connectivity: int) -> list[set[Point]]:
    left, found = pixels(mask), []
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (connectivity == 8 or not dy or not dx)]
    while left:
        stack, component = [left.pop()], set()
        while stack:
            y, x = stack.pop()
            component.add((y, x))
            for step in steps:
                near = (y + step[0], x + step[1])
                if near in left:
                    left.remove(near)
                    stack.append(near)
        found.append(component)
    return found


def instances(ids: Any) -> list[set[Point]]:
    return [pixels(ids == i) for i in sorted(set(ids.ravel().tolist()) - {0})]


def object_sums(predicted: list[set[Point]], reference: list[set[Point]], iou: float) -> tuple[float, ...]:
    """n predicted, n reference, matched, sum of IoU, and Kumar's C and U by his algorithm."""
    overlaps = [[len(p & r) / len(p | r) for p in predicted] for r in reference]
    matched = [o for row in overlaps for o in row if o > iou]
    used: set[int] = set()
    shared = union = 0
    for r, row in zip(reference, overlaps, strict=True):
        best = max(range(len(row)), key=lambda k: row[k], default=None)
        if best is None or row[best] == 0:
            union += len(r)
            continue
        shared, union = shared + len(r & predicted[best]), union + len(r | predicted[best])
        used.add(best)
    union += sum(len(p) for k, p in enumerate(predicted) if k not in used)
    return len(predicted), len(reference), len(matched), sum(matched), shared, union


def has_ties(predicted: list[set[Point]], reference: list[set[Point]]) -> bool:
    """Whether two predictions have the same IoU, above 0, with one reference object."""
    rows = [[len(p & r) / len(p | r) for p in predicted if p & r] for r in reference]
    return any(len(set(row)) < len(row) for row in rows)
