"""What a user may ask of a run, in one value; every field has the default of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

DEFAULT_MODEL = "nuclei"


@dataclass(frozen=True, slots=True)
class Scheduler:
    """A Dask scheduler that runs already."""

    address: str
    """`tls://HOST:PORT`, or `tcp://HOST:PORT` on this machine."""
    tls_ca: Path | None = None
    """Certificates as PEM files; None: as Dask's own configuration says."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    plain_tcp: bool = False
    """Speak without encryption to another machine."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of `run` and `plan`."""

    model: str = DEFAULT_MODEL
    """Built-in name, path of an exported program, or `module:factory`."""
    more_models: tuple[str, ...] = ()
    """Models of an ensemble besides `model`: probabilities are averaged."""
    model_weights: tuple[float, ...] = ()
    """How much each model of an ensemble counts, `model` first; empty: all the same."""
    tta: str = "none"
    """Copies of each tile whose predictions are averaged: none, flips, rotations or d4."""
    tta_scales: str = "1"
    """Scales of these copies, with commas."""
    weights: Path | None = None
    """safetensors file for `module:factory`."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """Card fields given by the user; they win over the model's own."""
    runtime: str = "auto"
    precision: str = "auto"
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`; auto is a GPU where one answers and a runtime can use it."""
    trust_engine: bool = False
    """Load a TensorRT engine file, which is executable code."""
    cuda_graphs: bool = False
    """On torch and a GPU: record the network once and replay it."""
    blend: str = "auto"
    """Where tiles are blended and labelled: `auto`, `host`, or `device`, which is where the model runs."""
    slide_mpp: float | None = None
    """µm per px of level 0, over what the slide says."""
    reader: str = "auto"
    decode: str = "exact"
    """`exact`, or `fast`: JPEG tiles decoded at 1/2, 1/4 or 1/8 where the model is that much coarser than they are."""
    tile: int | None = None
    begun_with_tile: int | None = None
    """Of a run that is resumed: the tile size it chose where `tile` is None, from memory that may be another by now."""
    overlap: int | None = None
    """px shared by neighbouring tiles; None: from the measured halo."""
    window: str = "auto"
    batch: int | None = None
    block: int | None = None
    workers: int | None = None
    """Blocks worked on at once in this process; None: the cores this process may use."""
    memory_bytes: int | None = None
    """Budget of the process; None: 80 % of the container's or machine's limit."""
    skip_background: bool = True
    roi: Path | None = None
    probabilities: bool = False
    full_hash: bool = False
    """Record a SHA-256 of all bytes of the slide, so that any change of it can be told later."""
    scheduler: Scheduler | None = None
    """A Dask scheduler; None: threads of this process."""
    overwrite: bool = False
    """Replace a finished result."""
    restart: bool = False
    """Discard a half-done result instead of resuming it."""
    min_object: Mapping[str, float] = field(default_factory=dict)
    """µm² by class name, or "" for all but the first class: smaller objects are removed."""
    fill_holes: Mapping[str, float] = field(default_factory=dict)
    """µm² by class name, or "" for all but the first class: smaller holes are filled."""
    crf: Mapping[str, float] | None = None
    """`radius_um`, `iterations`, `colour`, `weight` of the CRF, each with a default; None: no CRF."""
    lazy_bytes: int | None = None
    """Set by `open_mask`: memory for labels of predicted blocks. Tiles and blocks are then small and runtimes are not
    measured, for a first view is to be there soon. None: a run."""
    flat_tiff: bool = False
    """For TIFF results: the pyramid in the main chain, so that OpenSlide sees every level."""

    def for_anywhere(self) -> RunOptions:
        """The same with absolute paths, for a process that works in another folder."""
        return replace(
            self,
            model=_absolute(self.model),
            more_models=tuple(map(_absolute, self.more_models)),
            weights=None if self.weights is None else self.weights.absolute(),
            roi=None if self.roi is None else self.roi.absolute(),
        )


def _absolute(model: str) -> str:
    """A path made absolute; the name of a built-in, or of a module, as it is."""
    return str(Path(model).absolute()) if Path(model).exists() else model
