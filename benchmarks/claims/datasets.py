"""Parts and variants of EBHI-Seg for the article's claims; owns tables and stained copies on disk, trains nothing."""

from __future__ import annotations

import csv
import random
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Source = dict[str, Any]
"""A source as `data.train` of the training configuration takes it."""

IMAGE_PX = 224
IMAGE_MPP = 0.25
"""EBHI-Seg states 400x only; 0.25 µm/px is what that usually means. Only ratios matter here."""


@dataclass(frozen=True, slots=True)
class Datasets:
    """EBHI-Seg in `ebhi` (with its split.csv); what is derived goes to `work`."""

    ebhi: Path
    work: Path

    def training(self) -> Source:
        """The training cases with labels."""
        return self._source(self._table("train", self._rows("train")))

    def validation(self) -> Source:
        """The validation cases."""
        return self._source(self._table("val", self._rows("val")))

    def share(self, percent: int) -> tuple[Source, Source]:
        """(labelled, unlabelled): whole cases, drawn once, holding about `percent` of the training images."""
        rows = self._rows("train")
        cases = sorted({row["case"] for row in rows})
        random.Random(7).shuffle(cases)
        chosen: set[str] = set()
        for case in cases:
            if sum(row["case"] in chosen for row in rows) >= len(rows) * percent / 100:
                break
            chosen.add(case)
        labelled = [row for row in rows if row["case"] in chosen]
        rest = [row for row in rows if row["case"] not in chosen]
        return (
            self._source(self._table(f"labelled-{percent}", labelled)),
            self._source(self._table(f"unlabelled-{percent}", rest)),
        )

    def shifted(self) -> tuple[Source, Source]:
        """(training images without use of labels, validation) as another scanner and stain would show them."""
        return tuple(self._source(self._shifted_table(split)) for split in ("train", "val"))  # type: ignore[return-value]

    def _rows(self, split: str) -> list[dict[str, str]]:
        with (self.ebhi / "split.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        folder = self.ebhi.resolve()
        return [row | {"image": str(folder / row["image"]), "label": str(folder / row["label"])} for row in rows]

    def _shifted_table(self, split: str) -> Path:
        folder = self.work / "shifted"
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for row in self._rows(split):
            path = (folder / Path(row["image"]).name).with_suffix(".png")
            if not path.exists():
                beside = path.with_suffix(f".{threading.get_ident()}.png")
                Image.fromarray(another_stain(np.asarray(Image.open(row["image"]).convert("RGB")))).save(beside)
                beside.replace(path)  # rows are worked out at the same time
            rows.append(row | {"image": str(path.resolve())})
        return self._table(f"shifted-{split}", rows)

    def _table(self, name: str, rows: list[dict[str, str]]) -> Path:
        self.work.mkdir(parents=True, exist_ok=True)
        path = self.work / f"{name}.csv"
        beside = path.with_suffix(f".{threading.get_ident()}")
        with beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        beside.replace(path)  # a run may be reading it
        return path

    def _source(self, table: Path) -> Source:
        return {"table": str(table.resolve()), "encoding": "binary", "mpp": IMAGE_MPP}


def another_stain(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h, w, 3) RGB as a much bluer, weaker eosin and a yellowish lamp would give it: another laboratory.

    Haematoxylin and eosin are unmixed in optical density (Ruifrok and Johnston 2001), scaled, and mixed with turned
    stain vectors.
    """
    stains = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
    turned = np.array([[0.80, 0.56, 0.22], [0.25, 0.87, 0.42], [0.268, 0.570, 0.776]])
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    density = -np.log((image.astype(np.float64) + 1) / 256)
    amounts = density @ np.linalg.inv(stains) * np.array([1.35, 0.55, 1.0])
    light = np.exp(-np.maximum(amounts @ turned, 0)) * np.array([1.0, 0.97, 0.86])
    return (np.clip(light, 0, 1) * 255).round().astype(np.uint8)
