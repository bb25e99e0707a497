"""The best network of a run folder: written, read back, and built from a configuration.

Owns how a configuration becomes a network. Knows no loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsi_seg.errors import CheckpointError, ConfigError
from wsi_seg.model.building import build_network
from wsi_seg.model.network import Network
from wsi_seg.model.weights import BEST, load_weights, write_weights
from wsi_seg.output.durable import mapped_errors, publish, sync_file, temporary_beside
from wsi_seg.train.config import TrainConfig, read_config


@dataclass(frozen=True, slots=True)
class Trained:
    """A network with the configuration it was trained by."""

    network: Network
    """In eval mode, without gradients, on the CPU."""
    config: TrainConfig


def make_network(config: TrainConfig) -> Network:
    """A freshly initialised network, drawn from torch's global generator. Raises ConfigError."""
    options = config.model.model_dump(exclude={"architecture"})
    network = build_network(config.model.architecture, len(config.classes), **options)
    stride = network.output_stride
    for name, side in (("patch_size", config.patch_size), ("tile_size", config.tile_size)):
        if side % stride:
            below, above = side // stride * stride, (side // stride + 1) * stride
            remedy = f"use {below} or {above}" if below else f"use {above}"
            rule = f"it must be a multiple of the network's output stride {stride}"
            raise ConfigError(f"{name} {side}", rule=rule, remedy=remedy)
    return network


def start_network(config: TrainConfig) -> tuple[Network, list[str]]:
    """The network that training begins with, and what is worth knowing of it. Raises ConfigError, CheckpointError."""
    network = make_network(config)
    if config.transfer is None:
        return network, []
    loaded = load_weights(network, config.transfer.weights, config.transfer.part)
    notes = [f"{len(loaded.taken)} tensors taken from {config.transfer.weights}"]
    if loaded.left_out:
        notes.append(f"{len(loaded.left_out)} tensors start afresh, {loaded.left_out[0]} first")
    if loaded.unused:
        notes.append(f"{len(loaded.unused)} tensors of that file are not used, {loaded.unused[0]} first")
    return network, notes


def write_trained(network: Network, path: Path) -> None:
    """Write the weights, at once and for good. Raises WriteError."""
    with mapped_errors(path, 0), temporary_beside(path) as temp:
        write_weights(network.state_dict(), temp)
        sync_file(temp)
        publish(temp, path)


def read_trained(folder: Path) -> Trained:
    """The best network of a run folder. Raises CheckpointError, ConfigError."""
    if not (folder / "config.yaml").is_file() or not (folder / BEST).is_file():
        remedy = "give the --out folder of a finished `wsi-seg train`"
        raise CheckpointError(f"{folder} is no run folder", rule=f"it holds config.yaml and {BEST}", remedy=remedy)
    config = read_config(folder / "config.yaml")
    network = make_network(config)
    load_weights(network, folder)
    return Trained(network.eval().requires_grad_(False), config)
