"""Training runs of the article's claims: which configuration, where it is kept, what goes at once.

A run is `wsi-seg train` in a process of its own with one thread. Owns scheduling and reading of what a run wrote.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.claims.datasets import IMAGE_MPP, IMAGE_PX, Datasets
from benchmarks.measure import wsi_seg


@dataclass(frozen=True, slots=True)
class Setting:
    """How large the experiment is."""

    name: str
    side: int
    """Side of an image as the network sees it, px."""
    width: int
    depth: int
    epochs: int
    batch_size: int
    n_seeds: int
    n_few_seeds: int
    """Seeds of the claims that need many runs."""
    few_patches: int
    """Patches per epoch where only a share of the cases has labels, so that both sides take as many steps."""
    swin: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"


SMALL = Setting("small", 96, 8, 3, 10, 8, 3, 2, 240, {"width": 24, "depth": 2, "window": 4})
LARGE = Setting("large", 224, 32, 4, 60, 16, 3, 3, 480, {"width": 48, "depth": 3, "window": 7}, "cuda")


@dataclass(frozen=True, slots=True)
class Run:
    """A finished training run."""

    folder: Path

    @property
    def summary(self) -> dict[str, Any]:
        """What the run wrote about itself."""
        content: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return content


class Lab:
    """Trains what is asked for, each configuration and seed once, a few at a time; measures alone."""

    def __init__(self, setting: Setting, datasets: Datasets, folder: Path, processes: int) -> None:
        self.setting, self.datasets, self.folder = setting, datasets, folder
        self._free = threading.Semaphore(processes)
        self._processes = processes
        self._measuring = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def network(self, **options: Any) -> dict[str, Any]:
        """Options of the network of this setting, with changes."""
        return {"architecture": "unet", "width": self.setting.width, "depth": self.setting.depth} | options

    def seeds(
        self,
        name: str,
        network: dict[str, Any] | None = None,
        changes: dict[str, Any] | None = None,
        n: int | None = None,
    ) -> list[Run]:
        """The runs of one configuration, one per seed, in order of the seeds."""
        with ThreadPoolExecutor(n or self.setting.n_seeds) as pool:
            return list(
                pool.map(lambda seed: self._run(name, seed, network, changes), range(n or self.setting.n_seeds))
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold every slot, so that nothing trains while something is timed."""
        with self._measuring, ExitStack() as stack:
            for _ in range(self._processes):
                stack.enter_context(self._free)
            yield

    def _run(self, name: str, seed: int, network: dict[str, Any] | None, changes: dict[str, Any] | None) -> Run:
        key = f"{name}-{seed}"
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        folder = self.folder / key
        with lock:
            if not (folder / "summary.json").exists():
                self._train(key, folder, self._config(key, seed, network or {}, changes or {}))
        return Run(folder)

    def _train(self, key: str, folder: Path, config: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{key}.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        with self._free:
            print(f"train {key}", file=sys.stderr, flush=True)
            one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            with (self.folder / f"{key}.log").open("w") as log:
                subprocess.run(
                    wsi_seg("train", path, "--out", folder), check=True, stdout=log, stderr=log, env=os.environ | one
                )

    def _config(self, key: str, seed: int, network: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        setting = self.setting
        data: dict[str, Any] = {"train": [self.datasets.training()], "validation": [self.datasets.validation()]}
        config: dict[str, Any] = {
            "name": key, "classes": ["background", "gland"], "mpp": IMAGE_MPP * IMAGE_PX / setting.side,
            "patch_size": setting.side, "tile_size": 512, "data": data, "model": self.network(**network),
            "augment": {"flip": True, "rotate90": True}, "batch_size": setting.batch_size, "epochs": setting.epochs,
            "optimiser": {"lr": 2e-3, "warmup_steps": 50}, "seed": seed, "device": setting.device, "threads": 1,
        }  # fmt: skip
        for section, value in changes.items():
            config[section] = config[section] | value if isinstance(config.get(section), dict) else value
        return config
