"""What a training run tells whoever watches.

Owns the events and their order: TrainingStarted, then per epoch StepDone and EpochDone, Note at any time. Knows no bar,
no file and no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainingStarted:
    """Everything is loaded and checked; the first step comes."""

    n_epochs: int
    n_steps: int
    """Steps per epoch."""
    n_parameters: int
    epoch: int
    """Epochs that an earlier run has done, from 0."""
    train: str
    """The training set in words."""
    validation: str
    """The validation set in words."""


@dataclass(frozen=True, slots=True)
class StepDone:
    """One step of the optimiser, or one that was skipped."""

    epoch: int
    step: int
    """Number in its epoch, from 1."""
    loss: float
    px_per_s: float
    """Pixels of patches of all processes per second, smoothed over the epoch."""


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch with its validation; its row of the log."""

    row: Mapping[str, float]
    is_best: bool


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth knowing that is no error."""

    text: str


Event = TrainingStarted | StepDone | EpochDone | Note
Listener = Callable[[Event], None]


def ignore(_: Event) -> None:
    """The listener that hears nothing."""
