"""What a plan is made from: facts about the slide and the program, and what the user asked for. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import ModelCard
from wsi_seg.errors import PlanError
from wsi_seg.geometry import Box, Level, Mpp
from wsi_seg.plan.postprocessing import PostWishes
from wsi_seg.plan.roi import Roi


@dataclass(frozen=True, slots=True)
class SlideFacts:
    """What the plan knows of a slide."""

    name: str
    """File name, for people; not part of a run's identity."""
    vendor: str
    """Format, for people."""
    levels: tuple[Level, ...]
    """Stored levels and reductions of them, finest first."""
    l0_mpp: Mpp | None
    """Resolution of level 0; None: not stated, which no plan accepts."""
    bounds: Box
    """Scanned box, level-0 px."""
    fingerprint: str
    """Hash of the content."""

    @property
    def l0_size(self) -> tuple[int, int]:
        """(height, width) of level 0."""
        return self.levels[0].size


@dataclass(frozen=True, slots=True)
class ProgramFacts:
    """What the plan knows of a loaded model, besides its card."""

    sha256: str
    """Hash of program and weights."""
    runtime: str
    """Library that runs it."""
    device: str
    """Device that it runs on."""
    precision: str
    """Precision that it really computes in."""
    n_channels: int
    """Channels of its output: one per class, or 1 with a threshold."""
    halo: int | None
    """Context per side that an exact prediction needs, measured or from the card; None: not known, or unbounded."""
    batch_independent: bool = False
    """True when a tile's prediction was shown not to depend on its neighbours in the batch."""
    augmentation: str = "none"
    """The copies of a tile whose predictions are averaged, in words."""
    members: tuple[ModelCard, ...] = ()
    """Cards of the models of an ensemble; empty for a single model."""
    libraries: Mapping[str, str] = field(default_factory=dict)
    """Versions of what decodes and predicts, by name."""

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "sha256": self.sha256,
            "runtime": self.runtime,
            "device": self.device,
            "precision": self.precision,
            "n_channels": self.n_channels,
            "halo": self.halo,
            "batch_independent": self.batch_independent,
            "augmentation": self.augmentation,
            "libraries": dict(self.libraries),
            "members": [card.name for card in self.members],
        }


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the user asked for; None or "auto": the plan chooses."""

    tile: int | None = None
    """Side of a tile."""
    overlap: int | str | None = "auto"
    """Px that neighbours share."""
    largest_tile: int | None = None
    """Side up to which an exact tiling may be enlarged to predict fewer px; None: it may not."""
    enlarged_tile: int | None = None
    """Side that an exact tiling is enlarged to, whether or not that pays; left alone where no enlargement has it."""
    window: str = "auto"
    """Weight window."""
    batch: int | None = None
    """Tiles per batch."""
    block: int | None = None
    """Side of a block."""
    n_workers: int = 1
    """Block tasks at a time in one process."""
    memory_bytes: int | None = None
    """Budget of one process; None: a share of the limit of the machine or container."""
    resident_bytes: int = 0
    """Interpreter, libraries and the loaded model, as measured."""
    workspace_bytes: int = 0
    """What one prediction call holds inside the runtime beyond that, as measured; every worker makes one at a time."""
    kept_bytes: int | None = None
    """Of a lazy mask, whose blocks are predicted as somebody looks at them: memory for their labels. None: a run."""
    skip: bool = True
    """False: tiles without tissue are analysed as well."""
    probabilities: bool = False
    """True: probabilities are stored besides labels."""
    post: PostWishes = field(default_factory=PostWishes)
    """What is done to labels after the prediction."""

    def __post_init__(self) -> None:
        for name in ("tile", "largest_tile", "enlarged_tile", "batch", "n_workers", "memory_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                option = {"n_workers": "workers", "memory_bytes": "memory"}.get(name, name)
                raise PlanError(
                    f"{option} {value}", rule="at least 1", remedy=f"give --{option} 1 or more, or leave it out"
                )


@dataclass(frozen=True, slots=True, eq=False)
class PlanRequest:
    """Everything that `make_plan` looks at."""

    slide: SlideFacts
    """The slide."""
    card: ModelCard
    """The model contract."""
    program: ProgramFacts
    """The loaded model."""
    options: PlanOptions = field(default_factory=PlanOptions)
    """The user's wishes."""
    thumbnail: NDArray[np.uint8] | None = None
    """The whole slide, uint8 (h, w, 3) RGB; needed to skip background."""
    roi: Roi | None = None
    """Regions of interest; None: the whole slide."""
