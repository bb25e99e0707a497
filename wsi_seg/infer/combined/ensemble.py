"""Several models as one predictor: the weighted mean of their probabilities, and the card that they have in common.

Owns what members must agree in. Each member converts its input in its own way; only pixels go in and probabilities come
out. Knows no runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import ModelCard
from wsi_seg.errors import CardError, ModelLoadError
from wsi_seg.geometry import align_up
from wsi_seg.infer.combined.averaging import Mean
from wsi_seg.infer.predictor import FixedInput, check_batch
from wsi_seg.infer.protocol import Predictor, RuntimeFacts

_AGREED: dict[str, Callable[[ModelCard], Any]] = {
    "mpp": lambda card: card.mpp,
    "classes": lambda card: [entry.name for entry in card.classes],
    "background": lambda card: card.background,
    "threshold": lambda card: card.threshold,
}
"""Fields of the card in which all members are the same."""


class EnsemblePredictor:
    """A `Predictor` over several models."""

    def __init__(self, members: Sequence[Predictor], shares: Sequence[float]) -> None:
        """`shares` are above 0 and sum to 1. Raises CardError where the members do not fit together."""
        self._members, self._shares = tuple(members), tuple(shares)
        self.card = joint_card([member.card for member in members])
        self.n_channels = members[0].n_channels
        # Of the programs: the constant of a class that one of them lacks is no opinion, and is not averaged as one.
        _check_equal("output channels", self.card, [_own_channels(member) for member in members], _names(members))
        self.n_own_channels = _own_channels(members[0])
        self.fixed_input = _joint_input(members)
        side = self.fixed_input[1] or self.fixed_input[2]
        if side is not None:
            self.card = self.card.replaced(tile_size=side)
        self.facts = _joint_facts([member.facts for member in members])

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The mean probabilities (N, C, H, W) float32 of tiles (N, H, W, 3) uint8; see `Predictor.predict`."""
        check_batch(batch, self.card, self.fixed_input)
        mean = Mean((batch.shape[0], self.n_channels, *batch.shape[1:3]))
        for member, share in zip(self._members, self._shares, strict=True):
            mean.add(member.predict(batch), share)
        return mean.result()

    def close(self) -> None:
        """Release the members."""
        for member in self._members:
            member.close()


def joint_card(cards: Sequence[ModelCard]) -> ModelCard:
    """What all members promise together: largest tile and halo, least common stride. Raises CardError.

    An unknown halo of one is unknown for all. How a member's input is made stays its own: `channels`, `layout`, `mean`,
    `std` and `activation` are the first member's and mean nothing here.
    """
    names = [card.name for card in cards]
    for field, value in _AGREED.items():
        _check_equal(field, cards[0], [value(card) for card in cards], names)
    stride = lcm(*(card.output_stride for card in cards))
    halos = [card.halo for card in cards]
    known = [halo for halo in halos if halo is not None]
    return cards[0].replaced(
        name=" + ".join(names),
        tile_size=align_up(max(card.tile_size for card in cards), stride),
        halo=max(known) if len(known) == len(halos) else None,
        output_stride=stride,
        licence=" AND ".join(dict.fromkeys(card.licence for card in cards if card.licence)),
        training_data="; ".join(dict.fromkeys(card.training_data for card in cards if card.training_data)),
        description="The weighted mean of several models.",
        weights_sha256="",
        derived_from="",
    )


def _check_equal(field: str, card: ModelCard, values: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse the first member that differs from the first of all."""
    for name, value in zip(names, values, strict=True):
        if value != values[0]:
            raise CardError(
                f"models {card.name!r} and {name!r} differ in {field}: {_shown(values[0])} and {_shown(value)}",
                rule=f"the models of an ensemble agree in {', '.join(_AGREED)}, output channels and fixed input",
                remedy="run them one by one, or state the field where a card is wrong, e.g. --model-mpp, --classes",
            )


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _own_channels(member: Predictor) -> int:
    own: int = getattr(member, "n_own_channels", member.n_channels)
    return own


def _names(members: Sequence[Predictor]) -> list[str]:
    return [member.card.name for member in members]


def _joint_input(members: Sequence[Predictor]) -> FixedInput:
    """What the members demand together; None where none demands anything."""
    demands: list[int | None] = []
    for axis, field in enumerate(("fixed batch size", "fixed tile height", "fixed tile width")):
        demanding = [member for member in members if member.fixed_input[axis] is not None]
        values = [member.fixed_input[axis] for member in demanding]
        if demanding:
            _check_equal(field, demanding[0].card, values, _names(demanding))
        demands.append(values[0] if values else None)
    return demands[0], demands[1], demands[2]


def _joint_facts(facts: Sequence[RuntimeFacts]) -> RuntimeFacts:
    """What all members that have a runtime run on; constants have none and go with any."""
    running = [one for one in facts if one.runtime != "numpy"] or [facts[0]]
    for other in running[1:]:
        if other != running[0]:
            pair = (running[0], other)
            told = " and ".join(f"{one.runtime} {one.version} on {one.device} in {one.precision}" for one in pair)
            raise ModelLoadError(
                f"the members of an ensemble run on {told}",
                rule="one runtime, device and precision for all, which the result states",
                remedy="give --runtime and --precision, or export the models in the same way",
            )
    return running[0]
