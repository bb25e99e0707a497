"""Weights from a file into a network, by name and shape, never running code; where this room imports safetensors.

Owns what files are understood and what must fit. Knows no training state beyond where the weights are in it.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from wsi_seg.errors import CheckpointError
from wsi_seg.model.network import Network

BEST = "best.safetensors"
"""Name of the weights inside a run folder."""
ENCODER = "encoder."
"""Prefix of the encoder's tensors in every network."""
_WRAPPERS = ("module.", "_orig_mod.", "network.", "model.")
"""Prefixes that DistributedDataParallel, torch.compile and wrapping modules put before every name."""
_NESTED = ("network", "model", "state_dict", "model_state_dict", "weights")
"""Keys under which checkpoints keep their tensors."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of loading weights: names of tensors of the network, and of the file."""

    taken: tuple[str, ...]
    """Set from the file."""
    left_out: tuple[str, ...]
    """Of the part asked for, but absent from the file or of another shape there: they keep their values."""
    unused: tuple[str, ...] = ()
    """In the file only."""


def load_weights(network: Network, path: Path, part: Literal["all", "encoder"] = "all") -> Loaded:
    """Set the weights of `network`, or of its encoder, from `path`.

    `path` is a safetensors file, a run folder of ours, or a checkpoint that holds tensors only. Names must be those of
    the network; an encoder may also be named as torchvision names a ResNet. Only the head may be left out (another
    number of classes); anything else that does not fit raises CheckpointError, and then nothing was changed.
    """
    found = _aligned(read_weights(path))
    wanted = {name: value for name, value in network.state_dict().items() if part == "all" or name.startswith(ENCODER)}
    fitting = {
        name: found[name] for name, value in wanted.items() if name in found and found[name].shape == value.shape
    }
    left_out = tuple(name for name in wanted if name not in fitting)
    _check_fit(network, path, part, found, left_out)
    unused = tuple(sorted(set(found) - set(wanted)))
    if part == "encoder":
        unused = tuple(name for name in unused if name.startswith(ENCODER))
        _check_stages(path, unused, {_stage(name) for name in wanted})
    network.load_state_dict(fitting, strict=False)
    return Loaded(tuple(fitting), left_out, unused)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Name -> tensor on the CPU, as stored in `path`; see `load_weights`. Raises CheckpointError."""
    path = path / BEST if path.is_dir() else path
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of old pickle protocols; the file is judged below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        remedy = "save the state dict alone, best as safetensors"
        raise CheckpointError(
            f"{path} holds more than tensors", rule="code is never unpickled", remedy=remedy
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read weights {path}: {error.strerror or error}") from error
    except (safetensors.SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a file of weights: {_first_line(error)}") from error
    return _tensors(content, path)


def write_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write name -> tensor as safetensors; not atomic. Raises OSError."""
    path.write_bytes(
        safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    )


def _check_stages(path: Path, unused: tuple[str, ...], stages: set[str]) -> None:
    """A shallower network takes the first stages of an encoder, but none of them in part."""
    cut = [name for name in unused if _stage(name) in stages]
    if cut:
        raise CheckpointError(
            f"{path} holds more of {_stage(cut[0])} than this network has: {cut[0]} ({len(cut)} tensors in all)",
            rule="a stage of an encoder is taken whole",
            remedy="choose the variant that the weights were trained in",
        )


def _stage(name: str) -> str:
    """`encoder.layer1` of `encoder.layer1.0.conv1.weight`."""
    return ".".join(name.split(".")[:2])


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors in a checkpoint, at its top or one below."""
    if isinstance(content, Mapping):
        for candidate in (*(content.get(key) for key in _NESTED), content):
            if isinstance(candidate, Mapping) and candidate and all(isinstance(v, Tensor) for v in candidate.values()):
                return {str(name): value for name, value in candidate.items()}
    raise CheckpointError(f"{path} holds no mapping of names to tensors", rule=f"at its top or under {_NESTED}")


def _aligned(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names that networks use."""
    while found and (prefix := next((p for p in _WRAPPERS if all(name.startswith(p) for name in found)), "")):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    if "conv1.weight" in found and "layer1.0.conv1.weight" in found:  # torchvision's ResNet
        found = {ENCODER + name: value for name, value in found.items()}
    return found


def _check_fit(network: Network, path: Path, part: str, found: dict[str, Tensor], left_out: tuple[str, ...]) -> None:
    head = {id(value) for value in network.stages()[-1].state_dict(keep_vars=True).values()}
    own = network.state_dict(keep_vars=True)
    wrong = [
        name
        for name in left_out
        if (part == "encoder" or id(own[name]) not in head)
        and not (name.endswith("num_batches_tracked") and name not in found)  # files older than PyTorch 0.4.1
    ]
    if not wrong:
        return
    first = wrong[0]
    there = f"has shape {tuple(found[first].shape)} there" if first in found else "is not there"
    raise CheckpointError(
        f"{path} does not fit: {first} {tuple(own[first].shape)} {there} ({len(wrong)} tensors in all)",
        rule="every tensor but the head's must be there in its shape",
        remedy="give the architecture and options it was trained with" + (", or `part: encoder`" * (part == "all")),
    )
