"""The pixels of a run: labelled, validation, unlabelled and target sets, dealt out step by step.

Owns how many steps an epoch has and which batches meet in one. A pure function of (configuration, epoch, step, rank).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from wsi_seg.errors import ConfigError
from wsi_seg.geometry import ceil_div
from wsi_seg.train.config import Source, TrainConfig
from wsi_seg.train.distributed import Group
from wsi_seg.train.objective import Material, Moment, Normalise
from wsi_seg.train.source.patches import Batch, PatchSet


@dataclass(frozen=True, slots=True)
class Supply:
    """All sets of a run, for one process of its group."""

    config: TrainConfig
    group: Group
    train: PatchSet
    validation: PatchSet | None
    unlabelled: PatchSet | None
    target: PatchSet | None

    @property
    def n_batches(self) -> int:
        """Batches of this process in an epoch."""
        return self.train.n_batches(self.config.batch_size, self.group.world)

    @property
    def n_steps(self) -> int:
        """Steps of the optimiser in an epoch; the last one may have fewer batches than `accumulate`."""
        return ceil_div(self.n_batches, self.config.optimiser.accumulate)

    def steps(self, epoch: int, first: int) -> Iterator[list[tuple[Material, Moment]]]:
        """Batches of every step of an epoch from number `first` on, on the group's device."""
        start, size, group = first * self.config.optimiser.accumulate, self.config.batch_size, self.group
        labelled = self.train.epoch(epoch, size, group.rank, group.world, start=start)
        unlabelled = self._endless(self.unlabelled, epoch * self.n_batches + start)
        target = self._endless(self.target, epoch * self.n_batches + start)
        with _closing(labelled), _closing(unlabelled), _closing(target):
            step: list[tuple[Material, Moment]] = []
            for number, batch in enumerate(labelled, start):
                moment = Moment(self.config.seed, epoch, number, group.rank, self.config.epochs, self.n_batches)
                images, labels = (part.to(group.device, non_blocking=True) for part in batch)
                step.append((Material(Batch(images, labels), next(unlabelled), next(target)), moment))
                if len(step) == self.config.optimiser.accumulate or number == self.n_batches - 1:
                    yield step
                    step = []

    def plain_batches(self, normalise: Normalise) -> Iterator[Tensor]:
        """Training patches as they are, normalised, on the CPU, without end: what statistics are re-estimated on."""
        epoch = 0
        while True:
            with _closing(self.train.epoch(epoch, self.config.batch_size)) as batches:
                for batch in batches:
                    yield normalise(batch.images.float() / 255)
            epoch += 1

    def example(self) -> NDArray[np.uint8]:
        """A field of view (H, W, 3) RGB: of validation where there is one."""
        with _closing((self.validation or self.train).whole()) as fields:
            _, images, _ = next(fields)
        return np.ascontiguousarray(images[0].permute(1, 2, 0).numpy())

    def notes(self) -> Iterator[str]:
        """What is allowed about the sets and yet seldom meant."""
        shared = sorted(set(self.train.cases) & set(() if self.validation is None else self.validation.cases))
        if shared:
            more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
            yield (
                f"case {shared[0]!r}{more} stands in both data.train and data.validation: the scores are too good, "
                "unless different cases merely have the same name"
            )

    def describe(self) -> tuple[str, str]:
        """The training and the validation set in words."""
        return _told(self.train), "none" if self.validation is None else _told(self.validation)

    def _endless(self, patches: PatchSet | None, number: int) -> Iterator[Tensor | None]:
        """Images of batch `number` of an unending row of epochs, and of all that follow; None where there is no set."""
        size, group = self.config.batch_size, self.group
        while patches is None:
            yield None
        n = patches.n_batches(size, group.world)
        while True:
            with _closing(patches.epoch(number // n, size, group.rank, group.world, start=number % n)) as batches:
                for batch in batches:
                    number += 1
                    yield batch.images.to(group.device, non_blocking=True)


def open_supply(config: TrainConfig, group: Group) -> Supply:
    """Open every set that the configuration names. Raises ConfigError, AnnotationError, SlideError, PlanError."""
    train, validation = PatchSet.open(config.data.train, config), None
    if config.data.validation:
        validation = PatchSet.open(config.data.validation, config)
    elif config.data.validation_share:
        train, validation = train.split(config.data.validation_share, config.seed)

    _check_validation(validation, config)

    def unlabelled(sources: list[Source] | None) -> PatchSet | None:
        return None if sources is None else PatchSet.open(sources, config, labelled=False)

    semi, domain = (part.sources if part else None for part in (config.semi, config.domain))
    return Supply(config, group, train, validation, unlabelled(semi), unlabelled(domain))


def _check_validation(validation: PatchSet | None, config: TrainConfig) -> None:
    """Refuse a set by which no epoch is better than another: the first one would be kept as the best."""
    if validation is None or config.score == "loss":
        return
    first, *others = validation.describe()["labelled_px"].values()
    if not any(others):
        raise ConfigError(
            f"validation holds {first} px of the first class and none of any other",
            rule=f"score {config.score} is the mean over the classes but the first",
            remedy="hold out other cases (data.validation, seed), or choose by `score: loss`",
        )


def _closing(batches: Any) -> Any:
    """Ends the threads that read ahead of an iterator when the `with` ends; iterators of `PatchSet` are generators."""
    return closing(batches)


def _told(patches: PatchSet) -> str:
    facts = patches.describe()
    px = ", ".join(f"{name} {count / 1e6:.1f}" for name, count in facts["labelled_px"].items())
    counts = (f"{n} {word}{'s' * (n != 1)}" for word, n in (("field", facts["fields"]), ("case", facts["cases"])))
    return f"{' of '.join(counts)}; Mpx labelled: {px}"
