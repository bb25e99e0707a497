"""The folder of a training run: its files, who may write, and the state that a run goes on from.

Owns the file names, the lock, the comparison of configurations and the checkpoint's form. Knows no network: a state is
a dictionary of tensors and plain values, loaded without unpickling code.
"""

from __future__ import annotations

import fcntl
import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from wsi_seg.errors import CheckpointError, ConfigError, OutputExistsError
from wsi_seg.output.durable import json_bytes, mapped_errors, sweep, write_durably
from wsi_seg.train.config import TrainConfig, differing_keys, read_config, to_yaml

FORMAT = 1
"""Version of the state's form; another one is not read."""

FREE_KEYS = ("data.workers", "device", "threads", "licence", "training_data", "description")
"""Keys that may change between two starts of one run: they move no weight."""

_NAMES = (
    "config.yaml", "last.pt", "best.safetensors", "model.onnx", "card.json", "log.csv", "curves.png", "predictions.png",
    "summary.json",
)  # fmt: skip


class RunFolder:
    """Files of one run below `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.state, self.weights = path / "config.yaml", path / "last.pt", path / "best.safetensors"
        self.program, self.card, self.summary = path / "model.onnx", path / "card.json", path / "summary.json"
        self.log, self.curves, self.pictures = path / "log.csv", path / "curves.png", path / "predictions.png"
        self.events = path / "tensorboard"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out while the `with` lasts. Raises OutputExistsError, WriteError."""
        if self.path.exists() and not self.path.is_dir():
            raise OutputExistsError(f"{self.path} is a file", rule="a run is a folder", remedy="give another --out")
        with mapped_errors(self.path, 0):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise OutputExistsError(f"another process trains in {self.path}", remedy="give another --out") from error
        try:
            sweep(self.path)
            yield
        finally:
            os.close(handle)

    def claim(self, config: TrainConfig, *, resume: bool) -> None:
        """Make the folder this configuration's: an earlier run of it goes on, without `resume` any is removed.

        Raises OutputExistsError for a folder that is no run or a config.yaml of somebody else, CheckpointError for a
        run of another configuration.
        """
        if not self.config.is_file():
            if strangers := sorted(path.name for path in self.path.iterdir()):
                rule = f"it holds {strangers[0]} and no config.yaml"
                raise OutputExistsError(f"{self.path} is no training run", rule=rule, remedy="give another --out")
        elif self.state.is_file():
            if resume:
                self._compare(config)
        elif not self._wrote_config():  # a run that left no state has nothing that another configuration could harm
            rule = "a run keeps its own configuration under that name"
            raise OutputExistsError(f"{self.config} is not of a run", rule=rule, remedy="give another --out")
        if not resume:
            self._clear()
        write_durably(self.config, to_yaml(config).encode())

    def read_state(self) -> dict[str, Any] | None:
        """The state that the run left, or None. Raises CheckpointError."""
        if not self.state.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.state, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"cannot read {self.state}: {error}", remedy="--restart starts over") from error
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            rule = f"this version reads format {FORMAT}"
            raise CheckpointError(f"{self.state} has another form", rule=rule, remedy="--restart starts over")
        return state

    def write_state(self, state: dict[str, Any]) -> None:
        """Replace the state, at once and for good. Raises WriteError."""
        buffer = io.BytesIO()
        torch.save({**state, "format": FORMAT}, buffer)
        write_durably(self.state, buffer.getvalue())

    def write_summary(self, content: dict[str, Any]) -> None:
        """Write the summary, the last file of a finished run. Raises WriteError."""
        write_durably(self.summary, json_bytes(content))

    def _wrote_config(self) -> bool:
        """Whether config.yaml is as a run writes it: every key, in order."""
        try:
            return self.config.read_bytes() == to_yaml(read_config(self.config)).encode()
        except (ConfigError, OSError):
            return False

    def _compare(self, config: TrainConfig) -> None:
        differing = [row for row in differing_keys(read_config(self.config), config) if row[0] not in FREE_KEYS]
        if differing:
            key, there, asked = differing[0]
            more = f" (and {len(differing) - 1} more keys)" if len(differing) > 1 else ""
            raise CheckpointError(
                f"{self.path} holds a run with {key} {there!r}, asked is {asked!r}{more}",
                rule="a run goes on only with the configuration it began with",
                remedy="give another --out, or --restart to discard that run",
            )

    def _clear(self) -> None:
        for name in _NAMES:
            (self.path / name).unlink(missing_ok=True)
        if self.events.is_dir():
            for path in self.events.glob("events.out.tfevents.*"):
                path.unlink()
