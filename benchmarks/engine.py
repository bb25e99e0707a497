"""The engine end to end: `python -m benchmarks.engine [identity] [unet] [huge]`; prints tables and appends to LOG.md.

Inputs are synthetic and made at the first call. Every figure is of the whole process, start to finished result.

* identity: a model that returns its input, on 20,480 x 20,480 px: what reading, blending, pyramid and writing cost;
  against decoding alone on all cores, in turns.
* unet: a U-Net of 16 base channels, against the predictor alone on prepared batches, in turns.
* huge: 100,000 x 100,000 px, a 1 x 1 convolution: time and memory, against the plan's figure.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks import networks
from benchmarks.measure import INPUTS, LOG, Cost, cost_of, median, table, wsi_seg

AFTER_PREDICTION = ("blend", "label", "pyramid", "write")
"""Stages of a run's work that turn predictions into a result."""
_MODULE = (sys.executable, "-m")


def synthetic(side: int, seed: int = 0) -> Path:
    """A synthetic slide of side x side px, made once."""
    path = INPUTS / f"synthetic-{side}-{seed}.tif"
    if not path.exists():
        INPUTS.mkdir(parents=True, exist_ok=True)
        cost_of(wsi_seg("sample", path, "--synthetic", f"{side}x{side}", "--seed", seed))
    return path


def run(slide: Path, *options: object) -> tuple[Cost, dict[str, Any]]:
    """One run of the program; its cost and its summary."""
    out = INPUTS / "result.seg.zarr"
    for old in (out, out.with_name(out.name + ".partial")):
        shutil.rmtree(old, ignore_errors=True)
    cost = cost_of(wsi_seg("run", slide, "--out", out, "--json", *options))
    return cost, json.loads(cost.output)


def identity(side: int, repeats: int, log: Path = LOG) -> str:
    """Reading, blending, labelling, pyramid and writing, with a network that costs next to nothing."""
    slide, rows = synthetic(side), []
    for name, options in (
        ("overlap 64, cosine", ("--overlap", 64, "--window", "cosine")),
        ("overlap 64, auto (crop)", ("--overlap", 64)),
        ("overlap auto (0)", ()),
    ):
        costs, shares, working, limits = [], [], [], []
        for _ in range(repeats):
            limits.append(json.loads(cost_of([*_MODULE, "benchmarks.decoder_alone", str(slide)]).output)["mpx_per_s"])
            cost, summary = run(slide, "--model", "identity", "--no-skip", *options)
            costs.append(cost)
            working.append(summary["performance"]["seconds_working"])
            shares.append(side * side / 1e6 / cost.wall_s / limits[-1])
        rows.append(
            (
                *(name, *_figures(costs, side * side)),
                f"{side * side / 1e6 / median(working):.1f}",
                f"{median(limits):.0f}",
                f"{100 * median(shares):.0f} %",
            )
        )
    header = ("tiling", *_HEADER, "Mpx/s while working", "decoding alone, Mpx/s", "share of it, whole process")
    return table(f"identity model, {side:,}² px", header, rows, log)


def unet(side: int, repeats: int, precision: str, overlaps: list[int | None], log: Path = LOG) -> str:
    """Engine against predictor alone at the same tiles, in turns; overlap None: tiles as the plan chooses."""
    slide = synthetic(side)
    model = networks.unet(INPUTS / "unet16.onnx", networks.UnetShape(base_channels=16, depth=4, tile_size=512))
    in_precision(model, precision, slide)
    rows = []
    for overlap in overlaps:
        window = "crop" if overlap is None or overlap >= 2 * networks.unet_halo(4) else "cosine"
        name = "as the plan chooses: exact" if overlap is None else f"tile 512, overlap {overlap}, {window}"
        tiling = () if overlap is None else ("--tile", 512, "--overlap", overlap, "--window", window)
        options = ("--model", model, *tiling, "--precision", precision, "--no-skip")
        plan = json.loads(cost_of(wsi_seg("plan", slide, "--json", *options)).output)
        tile = plan["identity"]["grid"]["tile"]
        alone_command = [*_MODULE, "benchmarks.predictor_alone", str(slide), str(model), precision, str(tile)]
        pairs = []
        for _ in range(repeats):
            alone = json.loads(cost_of(alone_command).output)
            pairs.append(_against(alone, *run(slide, *options)))
        alone_rates, rates, whole, working, cpu, rest = (median(list(column)) for column in zip(*pairs, strict=True))
        rows.append(
            (
                f"{name}, tile {tile}" if overlap is None else name,
                f"{alone_rates * tile**2 / 1e6:.2f}",
                f"{rates * tile**2 / 1e6:.2f}",
                f"{side**2 / 1e6 / plan['selection']['n_predicted'] * rates:.2f}",
                *(f"{100 * share:.1f} %" for share in (whole, working, cpu)),
                f"{100 * rest:.2f} %",
            )
        )
    header = (
        "tiling",
        "predictor alone, Mpx of tiles/s",
        "engine",
        "slide Mpx/s",
        "ratio, whole process",
        "ratio, work only",
        "ratio in CPU seconds per tile, whole process",
        "blend, label, pyramid, write: share of the tasks",
    )
    return table(f"U-Net of 16 channels, {precision}, {side:,}² px", header, rows, log)


def _against(alone: dict[str, float], cost: Cost, summary: dict[str, Any]) -> tuple[float, ...]:
    """Tiles/s alone and of the whole process, their ratio, that of the work, of CPU seconds, and the rest's share."""
    performance = summary["performance"]
    n_tiles, stages = performance["n_predicted"], performance["stages"]
    return (
        alone["tiles_per_s"],
        n_tiles / cost.wall_s,
        n_tiles / cost.wall_s / alone["tiles_per_s"],
        n_tiles / performance["seconds_working"] / alone["tiles_per_s"],
        alone["cpu_s_per_tile"] / (cost.cpu_s / n_tiles),
        sum(stages.get(name, 0.0) for name in AFTER_PREDICTION) / performance["seconds_of_tasks"],
    )


def in_precision(model: Path, precision: str, slide: Path) -> Path:
    """The file that holds the model in this precision: itself, or one calibrated on the slide, which lies beside it."""
    if precision != "int8":
        return model
    cost_of(wsi_seg("export", model, "--precision", "int8", "--calibrate", slide, "--mpp", 0.5, "--overwrite"))
    return model.with_suffix(".int8.onnx")


def huge(side: int, log: Path = LOG) -> str:
    """A whole slide of the largest size, null model: measured peak against the plan's."""
    slide = synthetic(side)
    model = networks.null(INPUTS / "null.onnx")
    options = ("--model", model, "--no-skip", "--overlap", 0, "--window", "crop", "--memory", "2G")
    plan = json.loads(cost_of(wsi_seg("plan", slide, "--json", *options)).output)
    cost, _ = run(slide, *options)
    planned_mb, per_gpx = plan["memory"]["total_bytes"] / 1e6, cost.wall_s / (side * side / 1e9)
    row = (*_figures([cost], side * side), f"{planned_mb:.0f}", f"{per_gpx:.1f}")
    return table(f"null model, {side:,}² px, --no-skip", (*_HEADER, "planned MB", "s per gigapixel"), [row], log)


_HEADER = ("wall s", "CPU s", "Mpx/s", "peak MB")


def _figures(costs: list[Cost], n_pixels: int) -> tuple[str, str, str, str]:
    wall_s = median([cost.wall_s for cost in costs])
    return (
        f"{wall_s:.1f}",
        f"{median([cost.cpu_s for cost in costs]):.1f}",
        f"{n_pixels / 1e6 / wall_s:.1f}",
        f"{max(cost.peak_mb for cost in costs):.0f}",
    )


def main() -> None:
    """Run the benchmarks asked for; by default identity and unet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", default=["identity", "unet"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", type=int, help="side of the slide, px")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--overlap", type=int, action="append", help="unet: only this overlap; may be repeated")
    asked = parser.parse_args()
    for which in asked.which:
        if which == "identity":
            print(identity(asked.side or 20_480, asked.repeats, asked.log))
        elif which == "unet":
            overlaps = asked.overlap or [64, 224, None]
            print(unet(asked.side or 10_240, asked.repeats, asked.precision, overlaps, asked.log))
        elif which == "huge":
            print(huge(asked.side or 100_000, asked.log))
        else:
            parser.error(f"{which!r} is not identity, unet or huge")


if __name__ == "__main__":
    main()
