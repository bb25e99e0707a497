"""`wsi-seg train` against a plain loop of torch: glands in EBHI-Seg, the shared split by case.

Both train the same network on the same images for the same number of steps with the same optimiser, schedule, losses
and flips; the plain loop reads, crops, turns, learns and scores in its own few lines. Run it from the repository root:

    python benchmarks/train_reference.py ../shared/data/segmentation/ebhi-seg --steps 600 --threads 1

Prints the Dice of glands over all pixels of the validation cases for both, best epoch each, and the time of both.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from wsi_seg.model.building import build_network

STEPS_PER_EPOCH, BATCH, PATCH, WIDTH, DEPTH, LR = 60, 8, 96, 8, 3, 3e-3


def read_pairs(folder: Path, split: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images (3, 112, 112) in 0-1 and labels (112, 112): half of the stored resolution."""
    with (folder / "split.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    pairs = []
    for row in rows:
        image = Image.open(folder / row["image"]).convert("RGB").reduce(2)
        label = np.asarray(Image.open(folder / row["label"]).convert("L"))[1::2, 1::2] >= 128
        pairs.append((torch.tensor(np.array(image)).permute(2, 0, 1) / 255, torch.tensor(label).long()))
    return pairs


def draw(pairs: list[tuple[torch.Tensor, torch.Tensor]], dice: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of random crops, turned and mirrored."""
    images, labels = [], []
    for image, label in dice.sample(pairs, BATCH):
        y, x, turns, mirror = *(dice.randrange(112 - PATCH + 1) for _ in "yx"), dice.randrange(4), dice.random() < 0.5
        both = torch.cat([image, label[None].float()])[:, y : y + PATCH, x : x + PATCH].rot90(turns, (1, 2))
        both = both.flip(2) if mirror else both
        images.append(both[:3])
        labels.append(both[3].long())
    return torch.stack(images), torch.stack(labels)


def plain_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy and Dice."""
    p, truth = logits.softmax(1), functional.one_hot(labels, 2).permute(0, 3, 1, 2)
    dice = 2 * (p * truth).sum((0, 2, 3)) / (p + truth).sum((0, 2, 3)).clamp_min(1e-6)
    return functional.cross_entropy(logits, labels) + (1 - dice).mean()


def train_plainly(folder: Path, steps: int, seed: int) -> float:
    """Train and answer the best validation Dice over the epochs."""
    train, validation, dice = read_pairs(folder, "train"), read_pairs(folder, "val"), random.Random(seed)
    torch.manual_seed(seed)
    network = build_network("unet", 2, width=WIDTH, depth=DEPTH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: (1 + math.cos(math.pi * step / steps)) / 2)
    best = 0.0
    for step in range(steps):
        images, labels = draw(train, dice)
        optimiser.zero_grad()
        plain_loss(network((images - 0.5) / 0.25), labels).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % STEPS_PER_EPOCH == 0:
            network.eval()
            with torch.no_grad():
                found = [(network((i[None] - 0.5) / 0.25).argmax(1)[0], label) for i, label in validation]
            both = sum(int((p & label).sum()) for p, label in found)
            best = max(best, 2 * both / sum(int(p.sum() + label.sum()) for p, label in found))
            network.train()
    return best


def train_with_wsi_seg(folder: Path, steps: int, seed: int, threads: int) -> float:
    """The same by the command; answers the Dice that its summary states."""
    source = {"table": str((folder / "split.csv").resolve()), "mpp": 1.0, "encoding": "binary"}
    config = {
        "name": "ebhi-gland", "classes": ["background", "gland"], "mpp": 2.0, "patch_size": PATCH, "tile_size": 256,
        "data": {
            "train": [{**source, "where": {"split": "train"}}],
            "validation": [{**source, "where": {"split": "val"}}],
            "balance": 0, "patches_per_epoch": STEPS_PER_EPOCH * BATCH,
        },
        "model": {"width": WIDTH, "depth": DEPTH}, "optimiser": {"lr": LR}, "batch_size": BATCH,
        "epochs": steps // STEPS_PER_EPOCH, "seed": seed, "threads": threads, "device": "cpu",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        path = Path(out, "ebhi.yaml")
        path.write_text(json.dumps(config))  # JSON is YAML
        command = [sys.executable, "-m", "wsi_seg.cli", "train", str(path), "--out", f"{out}/run", "--json"]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
        return float(json.loads(ran.stdout)["scores"]["dice"]["gland"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="ebhi-seg, with its split.csv")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for seed in range(asked.seeds):
        for name, run in (
            ("plain loop", lambda s: train_plainly(asked.folder, asked.steps, s)),
            ("wsi-seg train", lambda s: train_with_wsi_seg(asked.folder, asked.steps, s, asked.threads)),
        ):
            began = time.monotonic()
            print(
                f"seed {seed}  {name:<14} Dice of glands {run(seed):.4f}  {time.monotonic() - began:.0f} s", flush=True
            )


if __name__ == "__main__":
    main()
