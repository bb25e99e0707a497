"""The engine end to end: `python -m benchmarks.engine [identity] [unet] [huge]`; prints tables and appends to LOG.md.

Inputs are synthetic and made at the first call. Every figure is of the whole process, start to finished result.

* identity: a model that returns its input, on 20,480 x 20,480 px: what reading, blending, pyramid and writing cost.
* unet: a U-Net of 16 base channels, against the predictor alone on prepared batches, in turns.
* huge: 100,000 x 100,000 px, a 1 x 1 convolution: time and memory, against the plan's figure.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from benchmarks import networks
from benchmarks.measure import INPUTS, Cost, cost_of, median, table, wsi_seg


def synthetic(side: int, seed: int = 0) -> Path:
    """A synthetic slide of side x side px, made once."""
    path = INPUTS / f"synthetic-{side}-{seed}.tif"
    if not path.exists():
        INPUTS.mkdir(parents=True, exist_ok=True)
        cost_of(wsi_seg("sample", path, "--synthetic", f"{side}x{side}", "--seed", seed))
    return path


def run(slide: Path, *options: object) -> tuple[Cost, dict[str, object]]:
    """One run of the program; its cost and its summary."""
    out = INPUTS / "result.seg.zarr"
    for old in (out, out.with_name(out.name + ".partial")):
        shutil.rmtree(old, ignore_errors=True)
    cost = cost_of(wsi_seg("run", slide, "--out", out, "--json", *options))
    return cost, json.loads(cost.output)


def identity(side: int, repeats: int) -> str:
    """Reading, blending, labelling, pyramid and writing, with a network that costs next to nothing."""
    slide, rows = synthetic(side), []
    for name, options in (
        ("overlap 64, cosine", ("--overlap", 64, "--window", "cosine")),
        ("overlap 64, auto (crop)", ("--overlap", 64)),
        ("overlap auto (0)", ()),
    ):
        costs = [run(slide, "--model", "identity", "--no-skip", *options)[0] for _ in range(repeats)]
        rows.append((name, *_figures(costs, side * side)))
    return table(f"identity model, {side:,}² px, tile 512", ("tiling", *_HEADER), rows)


def unet(side: int, repeats: int, precision: str, overlaps: list[int]) -> str:
    """Engine against predictor alone, in turns; both in tiles per second."""
    slide = synthetic(side)
    model = networks.unet(INPUTS / "unet16.onnx", networks.UnetShape(base_channels=16, depth=4, tile_size=512))
    rows = []
    for overlap in overlaps:
        window = "crop" if overlap >= 2 * networks.unet_halo(4) else "cosine"
        ratios, inner, cpu_ratios, engine_rates, alone_rates = [], [], [], [], []
        for _ in range(repeats):
            measured = json.loads(cost_of(_predictor_command(slide, model, precision)).output)
            alone = measured["tiles_per_s"]
            options = ("--overlap", overlap, "--window", window, "--precision", precision, "--no-skip")
            cost, summary = run(slide, "--model", model, "--tile", 512, *options)
            n_tiles = sum(summary["tiles"].values())  # type: ignore[attr-defined]
            engine_rates.append(n_tiles / cost.wall_s)
            alone_rates.append(alone)
            ratios.append(engine_rates[-1] / alone)
            cpu_ratios.append(measured["cpu_s_per_tile"] / (cost.cpu_s / n_tiles))
            inner.append(n_tiles / summary["performance"]["seconds_working"] / alone)  # type: ignore[index]
        rows.append(
            (
                f"overlap {overlap}, {window}",
                f"{median(alone_rates):.2f}",
                f"{median(engine_rates):.2f}",
                f"{100 * median(ratios):.1f} %",
                f"{100 * median(inner):.1f} %",
                f"{100 * median(cpu_ratios):.1f} %",
            )
        )
    header = (
        "tiling",
        "predictor alone, tiles/s",
        "engine, tiles/s",
        "ratio, whole process",
        "ratio, work only",
        "ratio in CPU seconds per tile, whole process",
    )
    return table(f"U-Net of 16 channels, {precision}, {side:,}² px, tile 512", header, rows)


def _predictor_command(slide: Path, model: Path, precision: str) -> list[str]:
    import sys

    return [sys.executable, "-m", "benchmarks.predictor_alone", str(slide), str(model), precision]


def huge(side: int) -> str:
    """A whole slide of the largest size, null model: measured peak against the plan's."""
    slide = synthetic(side)
    model = networks.null(INPUTS / "null.onnx")
    options = ("--model", model, "--no-skip", "--overlap", 0, "--window", "crop", "--memory", "2G")
    plan = json.loads(cost_of(wsi_seg("plan", slide, "--json", *options)).output)
    cost, _ = run(slide, *options)
    row = (*_figures([cost], side * side), f"{plan['memory']['total_bytes'] / 1e6:.0f}")
    return table(f"null model, {side:,}² px, --no-skip", (*_HEADER, "planned MB"), [row])


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
    parser.add_argument("--overlap", type=int, action="append", help="unet: only this overlap; may be repeated")
    asked = parser.parse_args()
    for which in asked.which:
        if which == "identity":
            print(identity(asked.side or 20_480, asked.repeats))
        elif which == "unet":
            print(unet(asked.side or 10_240, asked.repeats, asked.precision, asked.overlap or [64, 224]))
        elif which == "huge":
            print(huge(asked.side or 100_000))
        else:
            parser.error(f"{which!r} is not identity, unet or huge")


if __name__ == "__main__":
    main()
