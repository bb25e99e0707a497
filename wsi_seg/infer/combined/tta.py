"""Test-time augmentation: a predictor whose answer is the mean over turned, flipped and rescaled copies of each tile.

Owns how a copy is made and how its prediction comes back. Turns and flips move pixels and interpolate nothing; the
sides of a tile are multiples of the output stride, so the network's down-sampling grid falls on itself and the halo
stays what it was. Scales are interpolated (`rescaling`): the halo grows as their filters reach, and the output stride
is multiplied by the denominators, so that every tile has the same phase at every scale and tiling still changes no
label. Copies are predicted one after the other, as many at once as the batch has tiles: memory grows by the sum, not by
their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import ModelCard
from wsi_seg.errors import CardError
from wsi_seg.geometry import align_up
from wsi_seg.infer.combined.augmentation import Augmentation, Turn
from wsi_seg.infer.combined.averaging import Mean
from wsi_seg.infer.combined.rescaling import reach_through, rescaled_maps, rescaled_pixels
from wsi_seg.infer.predictor import FixedInput, check_batch
from wsi_seg.infer.protocol import Predictor


class AugmentedPredictor:
    """A `Predictor` over others: one per scale, all of the same model."""

    def __init__(self, predictors: Sequence[Predictor], augmentation: Augmentation) -> None:
        """Raises CardError where the program's demands on its input forbid the augmentation."""
        first = predictors[0]
        check_augmentation(augmentation, first.fixed_input, first.card.name)
        self._predictors, self._augmentation = tuple(predictors), augmentation
        self.card = augmented_card(first.card, augmentation)
        self.facts = first.facts
        self.n_channels = first.n_channels
        self.n_own_channels: int = getattr(first, "n_own_channels", first.n_channels)
        self.fixed_input = first.fixed_input

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The mean probabilities (N, C, H, W) float32 of tiles (N, H, W, 3) uint8; see `Predictor.predict`."""
        check_batch(batch, self.card, self.fixed_input)
        maps = zip(self._predictors, self._augmentation.scales, strict=True)
        if len(self._predictors) == 1:
            return self._at_scale(batch, *next(maps))
        mean = Mean((batch.shape[0], self.n_channels, *batch.shape[1:3]))
        for predictor, scale in maps:
            mean.add(self._at_scale(batch, predictor, scale), 1.0)
        return mean.result()

    def close(self) -> None:
        """Release the members."""
        for predictor in self._predictors:
            predictor.close()

    def _at_scale(self, batch: NDArray[np.uint8], predictor: Predictor, scale: Fraction) -> NDArray[np.float32]:
        """The mean over the turns at one scale, at the batch's own size."""
        pixels = batch if scale == 1 else rescaled_pixels(batch, scale)
        turns = self._augmentation.turns
        if len(turns) == 1:
            maps = predictor.predict(pixels)
        else:
            mean = Mean((batch.shape[0], self.n_channels, *pixels.shape[1:3]))
            for turn in turns:
                mean.add(turned_back(predictor.predict(turned(pixels, turn)), turn), 1.0)
            maps = mean.result()
        return maps if scale == 1 else rescaled_maps(maps, 1 / scale)


def turned(batch: NDArray[np.uint8], turn: Turn) -> NDArray[np.uint8]:
    """A view of tiles (N, H, W, 3), flipped and then turned."""
    quarters, flip = turn
    return np.rot90(batch[:, :, ::-1] if flip else batch, quarters, axes=(1, 2))


def turned_back(maps: NDArray[np.float32], turn: Turn) -> NDArray[np.float32]:
    """A view of maps (N, C, H, W) of turned tiles, as the tiles lay before."""
    quarters, flip = turn
    maps = np.rot90(maps, -quarters, axes=(2, 3))
    return maps[..., ::-1] if flip else maps


def augmented_card(card: ModelCard, augmentation: Augmentation) -> ModelCard:
    """The contract of the augmented predictor: of the card, only stride, tile and halo can change."""
    if not augmentation.rescales:
        return card
    stride = card.output_stride * augmentation.step
    halo = card.halo
    if halo is not None:
        halo = max(reach_through(scale, halo) for scale in augmentation.scales)
    return card.replaced(output_stride=stride, tile_size=align_up(card.tile_size, stride), halo=halo)


def check_augmentation(augmentation: Augmentation, fixed: FixedInput, name: str) -> None:
    """Refuse what a program of fixed input cannot do. Raises CardError."""
    _, height, width = fixed
    if augmentation.rescales and (height, width) != (None, None):
        raise CardError(
            f"--tta-scales with model {name!r}, which takes tiles of {height or 'any'} x {width or 'any'} px only",
            rule="a copy at another scale is a tile of another size",
            remedy="leave --tta-scales out, or export the model with dynamic axes",
        )
    if height != width and any(quarters % 2 for quarters, _ in augmentation.turns):
        raise CardError(
            f"--tta {augmentation.kind} with model {name!r}, which takes tiles of {height or 'any'} x "
            f"{width or 'any'} px",
            rule="a tile that is turned by 90 degrees must fit as well",
            remedy="use --tta flips",
        )
