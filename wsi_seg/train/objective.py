"""What a step minimises: the losses of one batch by name, of every method that the configuration asks for.

Owns how labels, teacher, unlabelled images and a target domain add up. Knows no optimiser, no file, no epoch loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isclose
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.card import named_classes
from wsi_seg.errors import ConfigError
from wsi_seg.model.network import Network
from wsi_seg.train.augmentation.augment import Augment
from wsi_seg.train.config import AugmentConfig, TrainConfig
from wsi_seg.train.method.consistency import consistency_loss, ramp_up
from wsi_seg.train.method.distillation import distillation_loss
from wsi_seg.train.method.domain import (
    FeatureDiscriminator,
    OutputDiscriminator,
    domain_schedule,
    feature_loss,
    output_loss,
)
from wsi_seg.train.method.ema import WeightAverage
from wsi_seg.train.method.losses import make_loss
from wsi_seg.train.source.patches import Batch
from wsi_seg.train.trained import Trained

RANDOM_LAYERS, AUGMENT, WEAK, STRONG, TARGET = range(5)
"""Uses of randomness within one moment."""

Normalise = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Material:
    """Pixels of one forward and backward pass, all uint8 (N, 3, P, P), on the device."""

    labelled: Batch
    unlabelled: Tensor | None = None
    target: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """Where in the run a pass is; everything random in it follows from this."""

    seed: int
    epoch: int
    batch: int
    """Number in its epoch, from 0."""
    rank: int
    n_epochs: int
    n_batches: int
    """Batches per epoch."""

    @property
    def epochs_done(self) -> float:
        """Epochs since the start, with fraction."""
        return self.epoch + self.batch / self.n_batches

    @property
    def progress(self) -> float:
        """Share of the whole run that is done, 0-1."""
        return self.epochs_done / self.n_epochs

    def number(self, use: int) -> int:
        """A seed below 2**63 of this moment; `use` tells several apart."""
        key = np.random.SeedSequence((self.seed, self.epoch, self.batch, self.rank, use)).generate_state(1, np.uint64)
        return int(key[0]) >> 1

    def generator(self, use: int) -> torch.Generator:
        """A generator on the CPU, seeded with `number`."""
        return torch.Generator().manual_seed(self.number(use))


class Networks(Protocol):
    """The networks of a run, as a learner holds them."""

    network: Network
    mean_teacher: WeightAverage | None
    discriminator: nn.Module | None


def normaliser(mean: Sequence[float], std: Sequence[float], device: torch.device) -> Normalise:
    """`(image - mean) / std` per channel, for images (N, 3, H, W) in 0-1."""
    shift, scale = (torch.tensor(values, device=device).reshape(1, 3, 1, 1) for values in (mean, std))
    return lambda image: (image - shift) / scale


class Objective:
    """The sum of all losses that a configuration asks for."""

    def __init__(self, config: TrainConfig, device: torch.device, teacher: Trained | None = None) -> None:
        """Raises ConfigError where loss terms or the teacher do not fit the classes."""
        self._config = config
        self._loss = make_loss(config.loss, len(config.classes))
        self._normalise = normaliser(config.mean, config.std, device)
        self._augment = Augment(config.augment, config.patch_size)
        turns = AugmentConfig(flip=config.augment.flip, rotate90=config.augment.rotate90)
        self._turn = Augment(turns, config.patch_size)
        if teacher is not None:
            _check_teacher(teacher, config)
            self._teacher = teacher.network.to(device)
            self._teacher_normalise = normaliser(teacher.config.mean, teacher.config.std, device)

    def __call__(self, networks: Networks, material: Material, moment: Moment) -> dict[str, Tensor]:
        """Losses by name, weighted, to be added up; differentiable."""
        config, network = self._config, networks.network
        images, labels = self._augment(material.labelled.images, material.labelled.labels, moment.generator(AUGMENT))
        features = network.encode(self._normalise(images))
        outputs = network.decode(features, (images.shape[2], images.shape[3]))
        losses = {"labels": torch.stack([self._loss(logits, labels) for logits in outputs]).mean()}
        if config.distill is not None:
            losses["labels"] = losses["labels"] * (1 - config.distill.weight)
            losses["teacher"] = config.distill.weight * self._of_teacher(images, labels, outputs)
        if config.semi is not None and material.unlabelled is not None:
            factor = config.semi.weight * ramp_up(moment.epochs_done, config.semi.ramp_epochs)
            losses["unlabelled"] = factor * self._of_unlabelled(networks, material.unlabelled, moment)
        if config.domain is not None and material.target is not None:
            losses["domain"] = self._of_domain(networks, (features[-1], outputs[0]), material.target, moment)
        return losses

    def _of_teacher(self, images: Tensor, labels: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """What keeps every output like the teacher's, who sees the same pixels."""
        assert self._config.distill is not None
        with torch.no_grad():
            teacher = self._teacher(self._teacher_normalise(images))
        temperature = self._config.distill.temperature
        return torch.stack([distillation_loss(y, teacher, temperature, labels) for y in outputs]).mean()

    def _of_unlabelled(self, networks: Networks, pixels: Tensor, moment: Moment) -> Tensor:
        """What keeps the strong view of unlabelled patches like the weak one.

        Both views show the same pixels in the same place: the weak one is turned only, the strong one is that one with
        the colours, blur and noise of the configuration.
        """
        assert self._config.semi is not None
        weak, shown = self._turn(pixels, _zeros(pixels), moment.generator(WEAK))
        strong = self._augment.photometric(weak, moment.generator(STRONG))
        teacher = networks.network if networks.mean_teacher is None else networks.mean_teacher.network
        with torch.no_grad(), evaluating(teacher):
            believed = teacher(self._normalise(weak))
        predicted = networks.network(self._normalise(strong))
        return consistency_loss(believed, predicted, self._config.semi.confidence, shown != IGNORE)

    def _of_domain(self, networks: Networks, source: tuple[Tensor, Tensor], pixels: Tensor, moment: Moment) -> Tensor:
        """What keeps a discriminator from telling target patches from labelled ones: `source` is (features, logits)."""
        domain, network = self._config.domain, networks.network
        assert domain is not None
        images, _ = self._augment(pixels, _zeros(pixels), moment.generator(TARGET))
        factor = domain.weight * domain_schedule(moment.progress, domain.steepness)
        features = network.encode(self._normalise(images))
        if domain.method == "features":
            return feature_loss(networks.discriminator, source[0], features[-1], factor)
        logits = network.decode(features, (images.shape[2], images.shape[3]))[0]
        return output_loss(networks.discriminator, source[1], logits, factor)


def make_discriminator(config: TrainConfig, network: Network) -> nn.Module | None:
    """The discriminator that domain adaptation needs, freshly initialised."""
    if config.domain is None:
        return None
    if config.domain.method == "features":
        return FeatureDiscriminator(network.feature_channels)
    return OutputDiscriminator(network.n_classes)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode while the `with` lasts; every part comes back to the mode it was in, frozen ones too."""
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _zeros(images: Tensor) -> Tensor:
    """Labels for patches that have none, so that augmentation tells which pixels left the patch."""
    return images.new_zeros((images.shape[0], *images.shape[2:]), dtype=torch.int64)


def _check_teacher(teacher: Trained, config: TrainConfig) -> None:
    there, here = (tuple(c.name for c in named_classes(names)) for names in (teacher.config.classes, config.classes))
    if there != here:
        raise ConfigError(f"the teacher's classes are {there}", rule=f"they must be those of this run: {here}")
    if not isclose(teacher.config.mpp, config.mpp, rel_tol=0.01):
        raise ConfigError(
            f"the teacher works at {teacher.config.mpp:g} um/px", rule=f"this run is at {config.mpp:g} um/px"
        )
