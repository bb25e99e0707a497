"""Makes small results for the tests of this folder, the slow and obvious way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import named_classes
from wsi_seg.geometry import Box, Mpp, PyramidLayout, ceil_div
from wsi_seg.output.commit import commit_run
from wsi_seg.output.label_store import Result, create_result, open_result
from wsi_seg.output.result_spec import ResultSpec, Thumbnail
from wsi_seg.output.run_directory import RunDirectory, RunIdentity, open_run
from wsi_seg.output.shard_writer import ResultWriter
from wsi_seg.output.status import TileStatus
from wsi_seg.output.summary import make_summary

NA = 255
RUN = RunIdentity("a" * 64, {"model": {"sha256": "00"}, "mpp": 0.5, "tile": [64, 64]})


def difference(a: Any, b: Any) -> list[str]:
    return [f"{key}: {a.get(key)!r} and {b.get(key)!r}" for key in sorted({*a, *b}) if a.get(key) != b.get(key)]


def make_spec(size: tuple[int, int] = (700, 1100), block: int = 256, **changes: Any) -> ResultSpec:
    values: dict[str, Any] = {
        "layout": PyramidLayout(size, block),
        "mpp": Mpp(0.5, 0.52),
        "l0_mpp": Mpp(0.25, 0.26),
        "l0_offset": (100.0, 300.0),
        "l0_size": (2 * size[0] + 200, 2 * size[1] + 400),
        "l0_bounds": (101, 300),
        "classes": named_classes(["background", "stroma", "tumour <1 & 2>"]),
        "not_analysed": NA,
        "probabilities": False,
        "n_channels": 3,
        "name": "slide é",
        "tile_grid": (ceil_div(size[0], 64), ceil_div(size[1], 64)),
    }
    return ResultSpec(**{**values, **changes})


def blobs(size: tuple[int, int], n_classes: int, fill: int, seed: int = 0) -> NDArray[Any]:
    """Patches of classes with speckles and a not-analysed quarter; uint8, or uint16 for a large `fill`."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, n_classes, (ceil_div(size[0], 23), ceil_div(size[1], 23)))
    labels = np.kron(coarse, np.ones((23, 23), dtype=int))[: size[0], : size[1]]
    speckles = rng.random(size) < 0.05
    labels[speckles] = rng.integers(0, n_classes, int(speckles.sum()))
    labels[: size[0] // 2, : size[1] // 2] = fill
    labels[rng.random(size) < 0.01] = fill
    return labels.astype(np.uint8 if fill == 255 else np.uint16)


def naive_halve(labels: NDArray[Any], ignore: int, n_classes: int) -> NDArray[Any]:
    """Majority of 2 x 2, ties to the lowest class, `ignore` loses to any."""
    h, w = labels.shape
    padded = np.full((h + h % 2, w + w % 2), ignore, labels.dtype)
    padded[:h, :w] = labels
    four = np.stack([padded[y::2, x::2] for y in (0, 1) for x in (0, 1)])
    votes = np.stack([(four == c).sum(0) for c in range(n_classes)])
    return np.where(votes.max(0) > 0, votes.argmax(0), ignore).astype(labels.dtype)


def naive_mean(chances: NDArray[np.uint8], labels: NDArray[Any], ignore: int) -> NDArray[np.uint8]:
    """Rounded mean (half up) of the analysed of 2 x 2, 0 where none is."""
    c, h, w = chances.shape
    weight = np.zeros((h + h % 2, w + w % 2), int)
    weight[:h, :w] = labels != ignore
    padded = np.zeros((c, *weight.shape), int)
    padded[:, :h, :w] = chances * (labels != ignore)
    total = sum(padded[:, y::2, x::2] for y in (0, 1) for x in (0, 1))
    n = sum(weight[y::2, x::2] for y in (0, 1) for x in (0, 1))
    return np.where(n > 0, (2 * total + n) // np.maximum(2 * n, 1), 0).astype(np.uint8)


@dataclass
class Made:
    """An unfinished result and the pixels it should hold."""

    run: RunDirectory
    spec: ResultSpec
    levels: list[NDArray[Any]]
    chances: list[NDArray[np.uint8]]

    def write_task(self, tier: int, row: int, column: int) -> None:
        """What an engine's task does."""
        layout, writer = self.spec.layout, ResultWriter(self.run.path, self.spec)
        box = layout.task_box(tier, row, column)
        shards = {}
        for level in range(tier * layout.depth, layout.tier_levels(tier).stop):
            if level in layout.tier_levels(tier):
                key, record = writer.write_labels(level, box, self.levels[level][box.slices()])
                shards[key] = record
                if self.spec.probabilities:
                    part = self.chances[level][(slice(None), *box.slices())]
                    key, record = writer.write_probabilities(level, box, part)
                    shards[key] = record
            box = Box(box.y0 // 2, box.x0 // 2, ceil_div(box.y1, 2), ceil_div(box.x1, 2))
        receipt: dict[str, Any] = {"tier": tier, "row": row, "column": column, "shards": shards, "seconds": 0.1}
        if tier == 0:
            part = self.levels[0][layout.task_box(0, row, column).slices()]
            receipt["counts"] = self.counts(part)
            receipt["statuses"] = [[row, column, int(TileStatus.DONE)]]
        self.run.markers.write(receipt)

    def write_all(self) -> None:
        for tier in range(self.spec.layout.n_tiers):
            rows, columns = self.spec.layout.grid(tier)
            for row in range(rows):
                for column in range(columns):
                    self.write_task(tier, row, column)

    def counts(self, labels: NDArray[Any]) -> list[int]:
        return [int((labels == value).sum()) for value in (*range(len(self.spec.classes)), self.spec.not_analysed)]

    def tiles(self) -> NDArray[np.uint8]:
        return np.full(self.spec.tile_grid, TileStatus.DONE, np.uint8)

    def finish(self) -> Result:
        summary = make_summary(self.spec, self.run.run_id, self.counts(self.levels[0]), self.tiles())
        self.run.attach("summary.json", summary.to_json())
        out = commit_run(
            self.run, self.spec, tiles=self.tiles(), thumbnail=make_thumbnail(self.spec), facts=summary.facts()
        )
        return open_result(out)


def make_thumbnail(spec: ResultSpec, side: int = 90) -> Thumbnail:
    """Of a slide that is 400 level-0 px larger than the canvas on every side but the offset's."""
    _, _, y1, x1 = spec.l0_box
    scale = max(y1, x1) / side
    h, w = max(1, round(y1 / scale)), max(1, round(x1 / scale))
    ramp = np.linspace(150, 250, h * w * 3).reshape(h, w, 3).astype(np.uint8)
    return Thumbnail(ramp, spec.l0_mpp.scaled(y1 / h, x1 / w))


def begin(out: Path, spec: ResultSpec, *, seed: int = 0, **options: Any) -> Made:
    """Begin (or go on with) a result of blobs."""
    n = len(spec.classes)
    levels = [blobs(spec.layout.size, n, spec.not_analysed, seed)]
    rng = np.random.default_rng(seed)
    chances = [rng.integers(0, 256, (spec.n_channels, *spec.layout.size), dtype=np.uint8)] if spec.probabilities else []
    if chances:
        chances[0][:, levels[0] == spec.not_analysed] = 0
    for _ in range(1, spec.layout.n_levels):
        if chances:
            chances.append(naive_mean(chances[-1], levels[-1], spec.not_analysed))
        levels.append(naive_halve(levels[-1], spec.not_analysed, n))
    run = open_run(out, RUN, difference, **options)
    try:
        create_result(run.path, spec)
    except BaseException:
        run.close()
        raise
    return Made(run, spec, levels, chances)


def finished(out: Path, spec: ResultSpec, **options: Any) -> tuple[Result, Made]:
    """A finished result of blobs."""
    made = begin(out, spec, **options)
    made.write_all()
    return made.finish(), made
