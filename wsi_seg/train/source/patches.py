"""Patches for training and fields of view for validation, as tensors.

Owns the randomness: a patch is a pure function of (seed, epoch, its number), so threads, ranks and a resumed run draw
the same. Knows images and slides as fields only, and nothing of augmentation or of the network.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.card import named_classes
from wsi_seg.errors import AnnotationError, ConfigError
from wsi_seg.geometry import Box, ceil_div
from wsi_seg.train.config import ImageSource, Source, TrainConfig
from wsi_seg.train.source.fields import CellIndex, Field, Pair, tiles_of
from wsi_seg.train.source.image_source import PixelCache, open_images
from wsi_seg.train.source.read_ahead import read_ahead
from wsi_seg.train.source.sampling import Sampler, make_sampler
from wsi_seg.train.source.slide_source import open_field

CONTEXT = 64
"""Pixels around a tile of a larger field of view that `whole` shows to the network and leaves out of the scores."""
_EVEN_UP_TO = 4
"""Fields of at most this many patches a side are cut evenly; in larger ones patches lie around the drawn pixel."""
_INDEXERS = 2
"""Threads that index fields when a set is opened."""
_ORDER, _PATCH, _SPLIT = 0, 1, 2
"""What a random stream is for; keeps streams of one seed apart."""

_log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Patches and their labels."""

    images: torch.Tensor
    """uint8 (N, 3, P, P) RGB."""
    labels: torch.Tensor
    """int64 (N, P, P): class index, 255 ignored."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """What of the configuration decides about patches."""

    classes: tuple[str, ...]
    patch_size: int
    tile_size: int
    balance: float
    patches_per_epoch: int | None
    workers: int
    seed: int
    labelled: bool


class PatchSet:
    """Fields to draw patches from."""

    def __init__(
        self,
        sampling: Sampling,
        fields: Sequence[Field],
        indices: Sequence[CellIndex],
        sources: Sequence[int],
        weights: Sequence[float],
    ) -> None:
        """Field i has index i and is of source number `sources[i]`. Raises AnnotationError: nothing is labelled."""
        self._sampling, self._fields, self._indices = sampling, tuple(fields), tuple(indices)
        self._sources, self._weights = tuple(sources), tuple(weights)
        sampler = make_sampler(self._indices, self._sources, self._weights) if fields else None
        if sampler is None:
            raise AnnotationError(
                f"no labelled pixel in {_some([field.name for field in fields])}",
                rule=f"classes are {list(sampling.classes)}",
                remedy="check the annotations, and `names` of the slides",
            )
        self._sampler: Sampler = sampler

    @classmethod
    def open(cls, sources: Sequence[Source], config: TrainConfig, *, labelled: bool = True) -> PatchSet:
        """Find the fields of the sources and index their labels, which reads every label once.

        Without `labelled` no label is read: every pixel is ignored, and patches come from anywhere in the images and
        from the tissue of slides. Raises ConfigError, AnnotationError, SlideError, PlanError.
        """
        sampling = _sampling(config, labelled=labelled)
        cache = PixelCache()
        fields: list[Field] = []
        numbers: list[int] = []
        for number, source in enumerate(sources):
            if isinstance(source, ImageSource):
                found: list[Field] = [*open_images(source, config, cache, labelled=labelled)]
            else:
                found = [open_field(source, config, labelled=labelled)]
            fields += found
            numbers += [number] * len(found)
        indices = list(read_ahead(lambda field: field.index(), fields, _INDEXERS))
        opened = cls(sampling, fields, indices, numbers, [source.weight for source in sources])
        opened._warn()
        return opened

    def __len__(self) -> int:
        """Patches of an epoch before it is filled up to whole batches."""
        if self._sampling.patches_per_epoch is not None:
            return self._sampling.patches_per_epoch
        patch = self._sampling.patch_size**2
        areas = [float(index.labelled.sum()) * index.px_per_count for index in self._indices]
        return sum(ceil(area / patch) for area in areas)

    def n_batches(self, batch_size: int, world: int = 1) -> int:
        """Batches of one process in an epoch; every batch is full."""
        return ceil_div(len(self), batch_size * world)

    @property
    def cases(self) -> tuple[str, ...]:
        """Cases, sorted, each once."""
        return tuple(sorted({field.case for field in self._fields}))

    def describe(self) -> dict[str, Any]:
        """What the set holds, as plain values for logs: counts of fields and cases, and px by class."""
        px = self._sampler.px_by_class
        named = enumerate(self._sampling.classes)
        return {
            "fields": len(self._fields),
            "cases": len(self.cases),
            "patches_per_epoch": len(self),
            "labelled_px": {name: round(px.get(i, 0.0)) for i, name in named} if self._sampling.labelled else {},
        }

    def split(self, share: float, seed: int) -> tuple[PatchSet, PatchSet]:
        """(training, validation): `share` of the cases, at least one, drawn by `seed`, become validation.

        All fields of a case stay together. Raises ConfigError where there is a single case, AnnotationError where a
        part has no labelled pixel.
        """
        cases = self.cases
        if len(cases) < 2 or share <= 0:
            raise ConfigError(
                f"{share:g} of {len(cases)} case{'s' * (len(cases) != 1)} cannot be held out for validation",
                rule="cases are never divided, since patches of one patient are alike",
                remedy="name sources under data.validation, or tell cases apart by `case` or `case_pattern`",
            )
        n_held = min(max(1, round(share * len(cases))), len(cases) - 1)
        order = _random(seed, _SPLIT).permutation(len(cases))
        held = {cases[i] for i in order[:n_held]}
        inside = [field.case in held for field in self._fields]
        return self._part([not is_held for is_held in inside]), self._part(inside)

    def epoch(self, epoch: int, batch_size: int, rank: int = 0, world: int = 1, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on, for process `rank` of `world`.

        Together the processes draw what one process with batches `world` times as large would draw. Read ahead by the
        configured threads; close the iterator to end them. Raises AnnotationError, RegionReadError.
        """
        n_batches = self.n_batches(batch_size, world)
        order = _random(self._sampling.seed, _ORDER, epoch).permutation(n_batches * batch_size * world)

        def make(number: int) -> Batch:
            first = number * batch_size
            numbers = [(first + i) * world + rank for i in range(batch_size)]
            return _batch([self._patch(epoch, n, int(order[n]), order.size) for n in numbers])

        return read_ahead(make, range(start, n_batches), self._sampling.workers)

    def whole(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Every pixel that counts, once: (name of the field, images uint8 (1, 3, h, w), labels int64 (1, h, w)).

        Fields larger than the tile size come in tiles with `CONTEXT` px around them, whose labels are ignored; tiles
        without a label are left out. Raises AnnotationError, RegionReadError.
        """
        for name, pair in read_ahead(self._view, self._tiles(), self._sampling.workers):
            if pair is not None:
                yield name, *_batch([pair])

    def _tiles(self) -> Iterator[tuple[int, Box]]:
        for number, (field, index) in enumerate(zip(self._fields, self._indices, strict=True)):
            for box in tiles_of(field.size, self._sampling.tile_size):
                if index.meets(box):
                    yield number, box

    def _view(self, tile: tuple[int, Box]) -> tuple[str, Pair | None]:
        field, box = self._fields[tile[0]], tile[1]
        counting = field.read_labels(box)
        if self._sampling.labelled and (counting == IGNORE).all():
            return field.name, None
        around = Box(box.y0 - CONTEXT, box.x0 - CONTEXT, box.y1 + CONTEXT, box.x1 + CONTEXT)
        around = around.intersect(Box(0, 0, *field.size))
        pixels, labels = field.read(around)
        own = np.full_like(labels, IGNORE)
        own[box.slices((around.y0, around.x0))] = counting
        return field.name, (pixels, own)

    def _patch(self, epoch: int, number: int, stratum: int, n_strata: int) -> Pair:
        """Patch `number` of an epoch; where it may lie anywhere, it lies in its own stratum of the labelled area."""
        random = _random(self._sampling.seed, _PATCH, epoch, number)
        share, balanced, which = random.random(3)
        sampler, wanted = self._sampler, None
        if self._sampling.labelled and balanced < self._sampling.balance:
            present = sorted(sampler.by_class)
            wanted = present[int(which * len(present))]
            field_number, cell = sampler.by_class[wanted].at(share)
        else:
            field_number, cell = sampler.anywhere.at((stratum + share) / n_strata)
        field = self._fields[field_number]
        place = self._place(field, self._indices[field_number].box(cell), wanted, random)
        y, x = (
            self._start(px + (random.random() if wanted is None else 0.5), length, wanted)
            for px, length in zip(place, field.size, strict=True)
        )
        return field.read(Box.at(y, x, self._sampling.patch_size, self._sampling.patch_size))

    def _place(self, field: Field, cell: Box, wanted: int | None, random: np.random.Generator) -> tuple[int, int]:
        """A pixel (y, x) of a cell: of the class wanted, else a labelled one; its middle where there is none."""
        cell = cell.intersect(Box(0, 0, *field.size))
        n_px = cell.height * cell.width
        if self._sampling.labelled:
            labels = field.read_labels(cell).reshape(-1)
            fitting = np.flatnonzero(labels != IGNORE if wanted is None else labels == wanted)
            # The index of a slide is made of samples: a cell may hold nothing of the class at full resolution.
            found = int(fitting[random.integers(fitting.size)]) if fitting.size else n_px // 2 + cell.width // 2
        else:
            found = int(random.integers(n_px))
        y, x = divmod(min(found, n_px - 1), cell.width)
        return cell.y0 + y, cell.x0 + x

    def _start(self, place: float, length: int, wanted: int | None) -> int:
        """First px, on one axis, of the patch that shows point `place` of a field of `length`; inside it if it fits.

        Patches for a class have the px in their middle. Others, in small fields, lie so that every position is as
        likely as any other, which a patch around an evenly drawn px would not: it would stick to the border.
        """
        patch = self._sampling.patch_size
        if length <= patch:
            return -((patch - length) // 2)
        if wanted is None and length <= _EVEN_UP_TO * patch:
            return int(place * (length - patch + 1) / length)
        return min(max(0, int(place) - patch // 2), length - patch)

    def _part(self, chosen: list[bool]) -> PatchSet:
        kept = [i for i, is_chosen in enumerate(chosen) if is_chosen]
        return PatchSet(
            self._sampling,
            [self._fields[i] for i in kept],
            [self._indices[i] for i in kept],
            [self._sources[i] for i in kept],
            self._weights,
        )

    def _warn(self) -> None:
        if self._sampling.labelled:
            for number, name in enumerate(self._sampling.classes):
                if number not in self._sampler.by_class:
                    _log.warning("class %r has no labelled pixel in %s", name, _some([f.name for f in self._fields]))


def _sampling(config: TrainConfig, *, labelled: bool) -> Sampling:
    return Sampling(
        classes=tuple(entry.name for entry in named_classes(config.classes)),
        patch_size=config.patch_size,
        tile_size=config.tile_size,
        balance=config.data.balance,
        patches_per_epoch=config.data.patches_per_epoch,
        workers=config.data.workers,
        seed=config.seed,
        labelled=labelled,
    )


def _random(*key: int) -> np.random.Generator:
    """The random stream of a key: streams of different keys are independent, on every machine the same."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _batch(pairs: Sequence[Pair]) -> Batch:
    images: NDArray[np.uint8] = np.stack([pixels for pixels, _ in pairs]).transpose(0, 3, 1, 2)
    labels = np.stack([labels for _, labels in pairs])
    return Batch(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64)))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown or "no field"
