"""Which layers of an int8 program stay in float so that it passes the gate: as few multiply-adds as will do.

Owns the search. A program whose layers are float for the most part is no int8 program: then the gate has failed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wsi_seg.export.quantisation import Layer, Quantiser

MAX_FLOAT_SHARE = 0.5
"""Of the multiply-adds; beyond, the calibration or the network does not suit int8."""

Passes = Callable[[bytes], bool]
Error = Callable[[bytes], float]


@dataclass(frozen=True, slots=True)
class Kept:
    """Layers left in float."""

    layers: tuple[Layer, ...]
    """The most sensitive one first."""
    share: float
    """Their share of the multiply-adds."""


def find_kept_layers(quantiser: Quantiser, passes: Passes, error: Error) -> Kept | None:
    """The shortest prefix of the layers, the most harmful first, that must stay in float; None where none helps.

    A layer's harm is the error of the program in which it alone is int8, per multiply-add. Prefixes are bisected, so
    about log2(n) programs are judged besides one per layer.
    """
    layers, total = quantiser.layers, sum(layer.macs for layer in quantiser.layers) or 1.0
    if passes(quantiser.quantised()):
        return Kept((), 0.0)
    names = [layer.name for layer in layers]
    harm = {
        layer.name: error(quantiser.quantised([name for name in names if name != layer.name])) / max(1.0, layer.macs)
        for layer in layers
    }
    ordered = sorted(layers, key=lambda layer: harm[layer.name], reverse=True)
    shares = [sum(layer.macs for layer in ordered[:n]) / total for n in range(len(ordered) + 1)]
    most = max(n for n, share in enumerate(shares) if share <= MAX_FLOAT_SHARE)

    def sound(n: int) -> bool:
        return passes(quantiser.quantised([layer.name for layer in ordered[:n]]))

    if not most or not sound(most):
        return None
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if sound(middle) else (middle + 1, high)
    return Kept(tuple(ordered[:high]), shares[high])
