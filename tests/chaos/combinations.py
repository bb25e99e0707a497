"""R11: the result is the same whatever it was cut into, whoever did it, and whether it was stopped in between.

Every combination of block size, scheduler with its processes and threads, window, and a stop that others resume. Runs
of the same block are the same files, byte for byte; across block sizes, whose files are cut differently, every pixel of
every level, every probability, status and area.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.chaos.cluster import Cluster
from tests.chaos.fault import Fault, Figures
from tests.chaos.scene import Scene, Wrong
from tests.chaos.trees import contents, differences
from wsi_seg.engine.events import Event, TilesPredicted
from wsi_seg.engine.options import RunOptions, Scheduler
from wsi_seg.engine.run import run_slide
from wsi_seg.errors import RunStopped
from wsi_seg.output.label_store import open_result
from wsi_seg.sample import write_synthetic

SIZE = (500, 700)
"""Height and width of the slide, px."""
BLOCKS = (256, 512, 1024, 2048)
KINDS = ("1 thread", "3 threads", "2 processes", "1 process of 2 threads")
WINDOWS = ("crop", "cosine")
STOPS = (False, True)
CASES = tuple(itertools.product(WINDOWS, BLOCKS, KINDS, STOPS))
ASKED: dict[str, Any] = {
    "model": "nuclei", "runtime": "openvino", "precision": "fp32", "tile": 256, "overlap": 128,
    "skip_background": False, "probabilities": True,
}  # fmt: skip


def one_combination(scene: Scene, chance: Random, number: int) -> Figures:
    """A run as the combination says, held against that of one thread with the same block, and with the smallest."""
    window, block, kind, stopped = CASES[number]
    asked = {**ASKED, "window": window, "block": block}
    with scene.attempt() as attempt:
        if stopped:
            _stop_after(chance.randint(2, 15), scene, attempt.out, asked)
        _run(scene, attempt.out, {**asked, **_kind(scene, kind)})
        files, values = contents(attempt.out), _values(attempt.out)
    same_cut, smallest = (
        scene.kept(f"{window} {side}", lambda side=side: _undisturbed(scene, {**asked, "block": side}))
        for side in (block, BLOCKS[0])
    )
    if found := differences(same_cut[0], files):
        raise Wrong(f"{CASES[number]}: {len(found)} files differ from those of one thread: {'; '.join(found[:4])}")
    if found := _unlike(smallest[1], values):
        raise Wrong(f"{CASES[number]}: {', '.join(found)} differ from those of blocks of {BLOCKS[0]} px")
    return {}


def _undisturbed(scene: Scene, asked: Mapping[str, Any]) -> tuple[dict[str, bytes], dict[str, Any]]:
    with scene.attempt() as attempt:
        _run(scene, attempt.out, {**asked, **_kind(scene, KINDS[0])})
        return contents(attempt.out), _values(attempt.out)


def _kind(scene: Scene, kind: str) -> dict[str, Any]:
    if kind.endswith(("thread", "3 threads")):
        return {"workers": int(kind[0])}
    if kind == KINDS[2]:
        return {"scheduler": Scheduler(Cluster.of(scene).address)}
    threads = scene.kept("threads", lambda: Cluster(scene.folder / "threads", scene.folder, workers=1, threads=2))
    return {"scheduler": Scheduler(threads.address)}


def _slide(scene: Scene) -> Path:
    path = scene.folder / "combinations.tif"
    if not path.exists():
        write_synthetic(path, SIZE, mpp=0.5, seed=5, tissue_fraction=0.7)
    return path


def _run(scene: Scene, out: Path, asked: Mapping[str, Any], **more: Any) -> None:
    run_slide(_slide(scene), RunOptions(**asked), out=out, **more)


def _stop_after(n_batches: int, scene: Scene, out: Path, asked: Mapping[str, Any]) -> None:
    """Begin, on two threads, and stop after so many of at least 20 batches of tiles."""
    stop, done = threading.Event(), itertools.count(1)

    def listen(event: Event) -> None:
        if isinstance(event, TilesPredicted) and next(done) == n_batches:
            stop.set()

    try:
        _run(scene, out, {**asked, "workers": 2}, listener=listen, stop=stop)
    except RunStopped:
        return
    raise Wrong("a run that was stopped went on to its end")


def _values(out: Path) -> dict[str, Any]:
    """Everything a reader of the result sees, uncut."""
    result = open_result(out)
    levels = range(result.spec.layout.n_levels)
    return {
        **{f"labels of level {n}": result.labels(n)[:] for n in levels},
        **{f"probabilities of level {n}": result.probabilities(n)[:] for n in levels},
        "statuses": result.read_tiles(),
        "areas": (out / "summary.csv").read_bytes(),
    }


def _unlike(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    names = expected.keys() & found.keys()  # coarse blocks end at another level
    return [name for name in sorted(names) if not np.array_equal(expected[name], found[name])]


FAULTS = (
    Fault("combinations", "R11", "blocks, schedulers, windows, stops", 0, one_combination, count=lambda _: len(CASES)),
)
