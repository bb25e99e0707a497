"""Another program and wsi-seg at the same work, in turns: `python -m benchmarks.compare --peer NAME`; see README.md.

The same slide, the same weights, tile and overlap, no tissue skipping, every run a whole process that ends with a label
map on disk. Prints one table and appends it to LOG.md: seconds, memory of all processes together, the median of the
ratios of each pair of runs, and how many tissue px differ from one forward pass over the whole image in fp32.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("", "kernels")]

import numpy as np  # noqa: E402

from benchmarks import networks, reference  # noqa: E402
from benchmarks.engine import in_precision, synthetic  # noqa: E402
from benchmarks.measure import INPUTS, LOG, Cost, cost_of, median, table, wsi_seg  # noqa: E402
from benchmarks.peers import PEERS, interpreter  # noqa: E402
from wsi_seg.card import ModelCard  # noqa: E402
from wsi_seg.infer import ModelSpec, read_card  # noqa: E402
from wsi_seg.output.label_store import open_result  # noqa: E402

HEADER = (
    "program",
    "wall s",
    "CPU s",
    "peak MB, all processes",
    "wall: peer / wsi-seg",
    "CPU: peer / wsi-seg",
    "differs, % of tissue px",
)
PRECISIONS = ("fp32", "bf16", "int8")


@dataclass(frozen=True)
class Work:
    """What every program is asked to do."""

    slide: Path
    model: Path
    """Of the precision asked for; beside its original where it is another file."""
    weights: Path
    card: ModelCard
    tile: int
    overlap: int
    precision: str


@dataclass(frozen=True)
class Program:
    """One row of the table: a command that leaves a label map, and how to read that."""

    name: str
    command: list[str]
    out: Path
    labels: Callable[[Path], Any]
    """Level 0, sliced like an array (height, width)."""

    def run(self) -> Cost:
        """From nothing to a finished label map; raises CalledProcessError."""
        remove(self.out)
        return cost_of(self.command, ROOT)


def peer(name: str, python: Path, work: Work) -> Program:
    """A script of `benchmarks.peers` in its own environment."""
    out = INPUTS / f"{name}{PEERS[name].suffix}"
    words = {
        **{"slide": work.slide, "model": work.model, "weights": work.weights, "out": out},
        **{"mean": work.card.mean[0], "std": work.card.std[0], "tile": work.tile, "overlap": work.overlap},
        **{"threads": len(os.sched_getaffinity(0)), "precision": work.precision},
    }
    options = [str(word) for key, value in words.items() for word in (f"--{key}", value)]
    return Program(name, [str(python), "-m", f"benchmarks.peers.{name}", *options], out, read_array)


def ours(name: str, work: Work, *tiling: object) -> Program:
    """Our program on level 0, whatever resolution the slide states."""
    out = INPUTS / "wsi-seg.seg.zarr"
    level_0 = ("--mpp", work.card.mpp, "--no-skip")
    # The program of another precision is found beside its original, under the original's name.
    command = wsi_seg("run", work.slide, "--out", out, "--model", original(work.model), *level_0, *tiling,
                      "--precision", work.precision, "--quiet")  # fmt: skip
    return Program(name, command, out, lambda path: open_result(path).labels(0))


def read_array(path: Path) -> Any:
    """A peer's label map, lazily: .npy, level 0 of a TIFF, or the predictions of a Zarr group."""
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r")
    import tifffile
    import zarr

    if path.suffix == ".zarr":
        return zarr.open_group(path, mode="r")["predictions"]
    return zarr.open_array(tifffile.imread(path, aszarr=True, level=0), mode="r")


def compared(programs: list[Program], judged: Callable[[], Any], repeats: int) -> list[tuple[str, ...]]:
    """Rows of the table. Programs take turns; the first one is the peer that the others are measured against.

    `judged` answers the reference when all runs are over, so that making it disturbs none.
    """
    costs: dict[str, list[Cost]] = {program.name: [] for program in programs}
    kept: dict[str, Path] = {}
    for _ in range(repeats):
        for program in programs:
            costs[program.name].append(program.run())
            if program.name not in kept:
                kept[program.name] = program.out.with_name(f"kept-{len(kept)}-{program.out.name}")
                remove(kept[program.name])
                program.out.rename(kept[program.name])
    labels, first = judged(), costs[programs[0].name]
    rows = []
    for program in programs:
        differs = reference.disagreement(labels, program.labels(kept[program.name]))
        rows.append(_row(program.name, costs[program.name], None if program is programs[0] else first, differs))
        remove(kept[program.name])
    return rows


def _row(name: str, own: list[Cost], peers: list[Cost] | None, differs: float) -> tuple[str, ...]:
    ratios = ["–", "–"]
    if peers is not None:
        pairs = list(zip(peers, own, strict=True))
        ratios = [
            f"{median([theirs.wall_s / cost.wall_s for theirs, cost in pairs]):.2f}",
            f"{median([theirs.cpu_s / cost.cpu_s for theirs, cost in pairs]):.2f}",
        ]
    return (
        name,
        f"{median([cost.wall_s for cost in own]):.1f}",
        f"{median([cost.cpu_s for cost in own]):.1f}",
        f"{max(cost.tree_mb for cost in own):.0f}",
        *ratios,
        f"{differs:.4f}",
    )


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there, and what an unfinished run of ours has left of it."""
    for old in (path, path.with_name(path.name + ".partial")):
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)


def network_of(name: str, tile: int) -> Path:
    """The model asked for, written anew: identity or unet."""
    INPUTS.mkdir(parents=True, exist_ok=True)
    if name == "identity":
        return networks.identity(INPUTS / f"identity-{tile}.onnx", tile)
    return networks.unet(INPUTS / f"unet16-{tile}.onnx", networks.UnetShape(16, 4, tile_size=tile))


def original(model: Path) -> Path:
    """The fp32 file of a model in any precision."""
    return model.with_name(model.name.replace(".int8.onnx", ".onnx"))


def judge(work: Work) -> Any:
    """What the fp32 network says of the whole slide, (height, width) uint8; made once per slide and model."""
    model, state = original(work.model), work.slide.stat()
    of_slide = f"{work.slide.resolve()} {state.st_size} {state.st_mtime_ns}".encode()
    key = of_slide + model.read_bytes() + Path(reference.__file__).read_bytes()
    path = INPUTS / f"judged-{hashlib.sha256(key).hexdigest()[:16]}.npy"
    if not path.exists():
        reference.judged_labels(work.slide, reference.Network(model, work.card), path)
    return np.load(path, mmap_mode="r")


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 1 where a program fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, choices=PEERS)
    parser.add_argument("--model", default="unet", choices=("identity", "unet"))
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS)
    parser.add_argument("--side", type=int, default=6144, help="side of the synthetic slide, px")
    parser.add_argument("--slide", type=Path, help="a slide instead; level 0 is used as it is")
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--overlap", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--python", type=Path, help="the peer's interpreter; default: of its environment")
    parser.add_argument("--log", type=Path, default=LOG)
    asked = parser.parse_args(arguments)
    python = asked.python or interpreter(asked.peer)
    if asked.precision not in PEERS[asked.peer].precisions:
        parser.error(f"{asked.peer} knows {', '.join(PEERS[asked.peer].precisions)}, not {asked.precision}")
    if not python.exists():
        parser.error(f"{python} is not there: python -m benchmarks.peers.setup {asked.peer}")

    slide = (asked.slide or synthetic(asked.side)).resolve()
    model = network_of(asked.model, asked.tile)
    weights = networks.save_weights(model, model.with_suffix(".npz"))
    card = read_card(ModelSpec(str(model)))
    work = Work(slide, in_precision(model, asked.precision, slide), weights, card, asked.tile, asked.overlap,
                asked.precision)  # fmt: skip
    programs = [
        peer(asked.peer, python, work),
        ours("wsi-seg, the same tiles", work, "--tile", asked.tile, "--overlap", asked.overlap),
        ours("wsi-seg, twice as large tiles", work, "--tile", 2 * asked.tile, "--overlap", asked.overlap),
        ours("wsi-seg, as it chooses: exact", work),
    ]
    try:
        rows = compared(programs, lambda: judge(work), asked.repeats)
    except subprocess.CalledProcessError as error:
        print(f"exit {error.returncode}: {' '.join(map(str, error.cmd))}\n{error.output}", file=sys.stderr)
        return 1
    name = f"{asked.side:,}² px" if asked.slide is None else slide.name
    tiling = f"tile {asked.tile}, overlap {asked.overlap}, median of {asked.repeats}"
    title = f"{asked.peer} and wsi-seg: {asked.model}, {asked.precision}, {name}, {tiling}"
    print(table(title, HEADER, rows, asked.log))
    return 0


if __name__ == "__main__":
    sys.exit(main())
