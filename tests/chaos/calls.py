"""R3: every call that changes the disk fails once, with each of four errors; then the same command again.

What must hold: a clear error and an exit code that is not 0, no finished result unless it is whole, and the same tree
after the second command. A call whose failure costs nothing (removing what is no longer needed) may also go unnoticed:
then the tree must be right at once.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.chaos.failing_calls import Call, Calls, counted_calls
from tests.chaos.fault import Fault, Figures
from tests.chaos.scene import Scene, Wrong, judge_result
from tests.chaos.trees import contents
from tests.chaos.warm import OPTIONS, SIZE, Ended, segment, warm_program

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)


@dataclass(frozen=True, slots=True)
class Usual:
    """A run of the small slide in which nothing fails."""

    slide: Path
    calls: list[Call]
    tree: dict[str, bytes]


def usual_run(scene: Scene) -> Usual:
    """What the calls of an undisturbed run are; the same each time."""
    from wsi_seg.sample import write_synthetic

    scene.kept("warm program", warm_program)
    slide, folder = scene.folder / "small.tif", scene.folder / "usual"
    write_synthetic(slide, SIZE, mpp=0.5, seed=3, tissue_fraction=0.7)
    seen = []
    for _ in range(3):  # what is loaded and compiled once is done by then
        folder.mkdir()
        calls = Calls(folder)
        with counted_calls(calls):
            ended = segment(slide, folder / "x.seg.zarr")
        if ended.code:
            raise RuntimeError(ended.said)
        seen.append([_unnumbered(call) for call in calls.seen])
        tree = contents(folder / "x.seg.zarr")
        shutil.rmtree(folder)
    if seen[-1] != seen[-2]:
        raise RuntimeError("the calls of a run are not the same each time")
    return Usual(slide, seen[-1], tree)


def _unnumbered(call: Call) -> Call:
    """Without the random part of a temporary name."""
    folder, _, name = call.path.rpartition("/")
    parts = name.split(".")
    return Call(call.kind, f"{folder}/{'.'.join(part for part in parts if len(part) != 32)}")


def one_call_fails(scene: Scene, _: Random, number: int) -> Figures:
    """Call and error of that number."""
    usual: Usual = scene.kept("usual run", lambda: usual_run(scene))
    index, error = number // len(ERRORS), ERRORS[number % len(ERRORS)]
    words = f"call {index} of {len(usual.calls)}, {' '.join(usual.calls[index])}: {errno.errorcode[error]}"
    folder = scene.folder / f"call{number}"
    folder.mkdir()
    try:
        calls = Calls(folder, fails=index, error=error)
        with counted_calls(calls):
            first = segment(usual.slide, folder / "x.seg.zarr", OPTIONS)
        said = first.said.replace(str(folder), "")
        kind = _judged_first(first, folder / "x.seg.zarr", f"{words}: {said[-400:]!r}")
        if not (folder / "x.seg.zarr").exists():
            again = segment(usual.slide, folder / "x.seg.zarr", OPTIONS)
            if again.code:
                raise Wrong(f"{words}: {said[-300:]!r}; again: {again.said[-400:]!r}")
        try:
            judge_result(folder / "x.seg.zarr", usual.tree)
        except Wrong as wrong:
            raise Wrong(f"{words}: {said[-300:]!r}; {wrong}") from None
    finally:
        shutil.rmtree(folder)
    return {"kind": kind, "call": usual.calls[index].kind, "calls": len(usual.calls)}


def _judged_first(ended: Ended, out: Path, words: str) -> str:
    """What the run in which the call failed did. Raises Wrong."""
    if ended.code == 0:
        return "unnoticed"
    if ended.code != 1:
        raise Wrong(f"exit code {ended.code}: {words}")
    if "Traceback" in ended.said or any(word not in ended.said for word in ("error: ", "  rule: ", "  try:  ")):
        raise Wrong(f"no clear error: {words}")
    return "published" if os.path.lexists(out) else "refused"


def told_of_calls(figures: Sequence[Figures]) -> str:
    """How many calls, and what became of them."""
    kinds, calls = Counter(figure["kind"] for figure in figures), Counter(figure["call"] for figure in figures)
    spread = ", ".join(f"{n} {name}" for name, n in calls.items())
    return (
        f"{figures[0]['calls']} calls x {len(ERRORS)} errors ({spread}): "
        f"{kinds['refused']} clear errors, {kinds['published']} after the result had its name, "
        f"{kinds['unnoticed']} that cost nothing and went unnoticed"
    )


def n_cases(scene: Scene) -> int:
    """Calls times errors."""
    usual: Usual = scene.kept("usual run", lambda: usual_run(scene))
    return len(usual.calls) * len(ERRORS)


FAULTS = (Fault("calls", "R3", "every call fails once", 0, one_call_fails, told_of_calls, count=n_cases),)
