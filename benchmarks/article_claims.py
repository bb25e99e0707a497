"""The article's figures beside ours, trained and measured here: `python benchmarks/article_claims.py [ROW …]`.

Trains on EBHI-Seg (gland against background) with the split that comes with it, once per configuration and seed, and
prints one table. Owns which runs a claim needs and how a claim is worked out from them; `wsi_seg.train` trains. Every
finished run is kept in the work folder, so a stopped command goes on where it was.

    python benchmarks/article_claims.py                     # all rows, the small setting: about an hour on two cores
    python benchmarks/article_claims.py distill semi        # some rows
    python benchmarks/article_claims.py --setting large     # 224 px, wider networks: for a GPU
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.claims.cost import checkpointing_cost, network_cost, step_seconds, tile_seconds
from benchmarks.claims.datasets import Datasets
from benchmarks.claims.runs import LARGE, SMALL, Lab, Run, Setting
from benchmarks.claims.scores import miou, score
from benchmarks.measure import INPUTS, table

Row = tuple[str, str, str]
"""Claim, the article's figure, ours."""


def unet_plus_plus(lab: Lab) -> list[Row]:
    """M5: U-Net++ against U-Net."""
    options = {"architecture": "unet++", "deep_supervision": True}
    plain, nested = lab.seeds("unet"), lab.seeds("unet++", options)
    a, b = network_cost(lab.network()), network_cost(lab.network(**options))
    with lab.alone():
        slower = step_seconds(lab, lab.network(**options)) / step_seconds(lab, lab.network())
    return [
        ("U-Net++: parameters against U-Net", "+200 %", f"{b.parameters / a.parameters - 1:+.0%}"),
        ("U-Net++: time of a training step", "2–3 ×", f"{slower:.1f} ×"),
        ("U-Net++: mIoU", "+3–5 points", _difference(nested, plain)),
    ]


def separable(lab: Lab) -> list[Row]:
    """M11: depthwise-separable convolutions."""
    light = lab.seeds("separable", {"separable": True}, n=lab.setting.n_few_seeds)
    plain = lab.seeds("unet")[: len(light)]
    a, b = network_cost(lab.network()), network_cost(lab.network(separable=True))
    with lab.alone():
        speed = {name: tile_seconds(plain[0], name) / tile_seconds(light[0], name) for name in ("torch", "openvino")}
    return [
        ("separable: parameters", "÷ 8", f"÷ {a.parameters / b.parameters:.1f}"),
        ("separable: multiply-adds", "÷ 8", f"÷ {a.macs / b.macs:.1f}"),
        ("separable: speed", "× 3", ", ".join(f"{name} × {ratio:.2f}" for name, ratio in speed.items())),
        ("separable: mIoU", "−2–3 points", _difference(light, plain)),
    ]


def distill(lab: Lab) -> list[Row]:
    """M12: a student with a quarter of the teacher's parameters."""
    wide = {"width": 2 * lab.setting.width}
    teacher = lab.seeds("teacher", wide, n=1)[0]
    section = {"distill": {"teacher": str(teacher.folder.resolve()), "temperature": 2.0, "weight": 0.5}}
    taught = lab.seeds("student", changes=section, n=lab.setting.n_few_seeds)
    alone = lab.seeds("unet")[: len(taught)]
    a, b = network_cost(lab.network(**wide)), network_cost(lab.network())
    with lab.alone():
        faster = tile_seconds(teacher, "openvino") / tile_seconds(taught[0], "openvino")
    share = f"{_mean(taught) / miou(teacher):.1%} (the same network alone {_mean(alone) / miou(teacher):.1%})"
    return [
        ("distillation: the student's share of the teacher's mIoU", "95 %", share),
        ("distillation: its share of the parameters", "30 %", f"{b.parameters / a.parameters:.0%}"),
        ("distillation: its speed (OpenVINO)", "2–3 ×", f"{faster:.1f} ×"),
        ("distillation: mIoU against the same network alone", "–", _difference(taught, alone)),
    ]


def checkpointing(lab: Lab) -> list[Row]:
    """M2: memory saved and time paid, at a size that hurts."""
    rows = []
    for name in ("unet", "unet++", "swin-unet", "resnet-unet"):
        with lab.alone():
            cost = checkpointing_cost(name)
        rows.append((f"checkpointing, {name}: peak memory of a step", "less", f"{cost.memory:.0%} of plain"))
        rows.append((f"checkpointing, {name}: time of a step", "more", f"{cost.time:.2f} ×"))
    return rows


def mixed_precision(lab: Lab) -> list[Row]:
    """M3: bf16 autocast against fp32."""
    half = lab.seeds("bf16", changes={"precision": "bf16"}, n=1)
    plain = lab.seeds("unet")[: len(half)]
    with lab.alone():
        faster = step_seconds(lab, lab.network()) / step_seconds(lab, lab.network(), "bf16")
    return [
        ("mixed precision (bf16): speed of a step on this machine", "faster", f"{faster:.2f} ×"),
        ("mixed precision (bf16): mIoU", "unchanged", _difference(half, plain)),
    ]


def semi(lab: Lab) -> list[Row]:
    """M15: 5, 10 and 25 % of the images with labels (whole cases), the others without.

    Both sides change colours: what makes the strong view strong must not be what the gain is due to.
    """
    rows, n = [], lab.setting.n_few_seeds
    colours = {"stain": 0.25, "brightness": 0.1, "contrast": 0.3, "gamma": [0.7, 1.4], "blur": 1.0, "noise": 0.03}
    for percent, method in ((5, "consistency"), (10, "consistency"), (10, "mean teacher"), (25, "consistency")):
        labelled, rest = lab.datasets.share(percent)
        few_labels = {"train": [labelled], "patches_per_epoch": lab.setting.few_patches}
        data = {"data": few_labels, "augment": colours}
        section = {"sources": [rest], "mean_teacher": method != "consistency", "ramp_epochs": lab.setting.epochs / 3}
        few = lab.seeds(f"few-labels-{percent}", changes=data, n=n)
        more = lab.seeds(f"semi-{method.replace(' ', '-')}-{percent}", changes=data | {"semi": section}, n=n)
        rows.append((f"semi-supervised ({method}), {percent} % labelled: mIoU", "gain", _difference(more, few)))
    return rows


def domain(lab: Lab) -> list[Row]:
    """M16: another stain, labels only in the old one."""
    unlabelled, target = lab.datasets.shifted()
    source_only = lab.seeds("unet")[: lab.setting.n_few_seeds]
    before = [score(run, target) for run in source_only]
    here = f"{_mean(source_only):.3f} → {mean(before):.3f}"
    rows = [("shifted stain, trained on the source only: mIoU, source → target", "–", here)]
    for method in ("features", "outputs"):
        section = {"domain": {"sources": [unlabelled], "method": method}}
        runs = lab.seeds(f"domain-{method}", changes=section, n=len(source_only))
        after = [score(run, target) for run in runs]
        rows.append((f"domain adaptation ({method}): mIoU on the target", "gain", _points(after, before)))
    return rows


def recalibration(lab: Lab) -> list[Row]:
    """M18: statistics re-estimated on unlabelled images of the target."""
    unlabelled, target = lab.datasets.shifted()
    runs = lab.seeds("unet")
    before = [score(run, target) for run in runs]
    after = [score(run, target, recalibrate_on=unlabelled) for run in runs]
    return [("BN recalibration on the shifted stain: mIoU", "recovers", _points(after, before))]


def swin(lab: Lab) -> list[Row]:
    """M7: the transformer on the same data."""
    tokens = lab.seeds("swin-unet", {"architecture": "swin-unet"} | lab.setting.swin, n=lab.setting.n_few_seeds)
    plain = lab.seeds("unet")[: len(tokens)]
    return [("Swin-Unet: mIoU against U-Net, no pretraining", "–", _difference(tokens, plain))]


ROWS: dict[str, Callable[[Lab], list[Row]]] = {
    "unet++": unet_plus_plus, "separable": separable, "distill": distill, "checkpointing": checkpointing,
    "amp": mixed_precision, "semi": semi, "domain": domain, "recalibration": recalibration, "swin": swin,
}  # fmt: skip


def _mean(runs: list[Run]) -> float:
    return mean(miou(run) for run in runs)


def _difference(runs: list[Run], reference: list[Run]) -> str:
    return _points([miou(run) for run in runs], [miou(run) for run in reference])


def _points(after: list[float], before: list[float]) -> str:
    """`+1.2 points (0.812 → 0.824; 3 seeds, sd 0.4)`, differences taken seed by seed."""
    gains = [100 * (b - a) for a, b in zip(before, after, strict=True)]
    spread = f", sd {stdev(gains):.1f}" if len(gains) > 1 else ""
    seeds = "1 seed" if len(gains) == 1 else f"{len(gains)} seeds"
    return f"{mean(gains):+.1f} points ({mean(before):.3f} → {mean(after):.3f}; {seeds}{spread})"


def main() -> None:
    """Train what is missing, then print and log the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all when none is named")
    parser.add_argument("--setting", choices=("small", "large"), default="small")
    parser.add_argument(
        "--ebhi", type=Path, default=Path("../shared/data/segmentation/ebhi-seg"), help="folder of split.csv"
    )
    parser.add_argument("--work", type=Path, default=INPUTS / "article")
    parser.add_argument("--processes", type=int, default=2, help="runs at the same time, one thread each")
    parser.add_argument("--few-seeds", type=int, help="seeds of the claims that need many runs; else the setting's")
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - set(ROWS):
        parser.error(f"no row {sorted(unknown)}; there are {sorted(ROWS)}")
    setting: Setting = SMALL if arguments.setting == "small" else LARGE
    if arguments.few_seeds:
        setting = replace(setting, n_few_seeds=arguments.few_seeds)
    folder = arguments.work / setting.name
    lab = Lab(setting, Datasets(arguments.ebhi, folder / "data"), folder, arguments.processes)
    names = arguments.rows or list(ROWS)
    with ThreadPoolExecutor(len(names)) as pool:  # rows wait for one another's runs; `Lab` decides what goes at once
        rows = [row for result in pool.map(lambda name: ROWS[name](lab), names) for row in result]
    print(table(f"The article's claims, setting {setting.name}", ("claim", "article", "here"), rows))
    (lab.folder / "table.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
