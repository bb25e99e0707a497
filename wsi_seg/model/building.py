"""A network by the name of its architecture; the only place that lists them.

Owns which options an architecture has and their ranges. Knows no training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from wsi_seg.errors import UsageError
from wsi_seg.model.network import Network
from wsi_seg.model.resnet_unet import DEEPEST, ResNetUNet, ResNetUNetOptions
from wsi_seg.model.swin_unet import SwinUNet, SwinUNetOptions
from wsi_seg.model.unet import UNet, UNetOptions
from wsi_seg.model.unet_plus_plus import UNetPlusPlus, UNetPlusPlusOptions

ARCHITECTURES: dict[str, tuple[Callable[[int, Any], Network], type[Any]]] = {
    "unet": (UNet, UNetOptions),
    "unet++": (UNetPlusPlus, UNetPlusPlusOptions),
    "swin-unet": (SwinUNet, SwinUNetOptions),
    "resnet-unet": (ResNetUNet, ResNetUNetOptions),
}
"""Name -> network and its options."""

CHOICES: dict[str, tuple[object, ...]] = {
    "stem_stride": (1, 2, 4),
    "down": ("pool", "stride"),
    "up": ("resize", "transposed"),
    "odd_sizes": ("pad", "overlap", "fit"),
    "resnet_layers": (18, 34),
}
"""Options of few values."""


def build_network(architecture: str, n_classes: int, **options: Any) -> Network:
    """A freshly initialised network; `options` are the fields of the architecture's options class.

    An option that only other architectures have may be given at its default, so that one table of all options serves
    every architecture. Raises UsageError for anything else it does not know, and for values out of range.
    """
    if architecture not in ARCHITECTURES:
        raise UsageError(f"architecture {architecture!r}", rule=f"one of {', '.join(ARCHITECTURES)}")
    if n_classes < 1:
        raise UsageError(f"n_classes {n_classes}", rule="at least 1")
    make, kind = ARCHITECTURES[architecture]
    own = defaults(kind)
    for name, value in options.items():
        _check(architecture, own, name, value)
    return make(n_classes, kind(**{name: value for name, value in options.items() if name in own}))


def defaults(options: type[Any]) -> dict[str, Any]:
    """Field -> default of an options class.

    >>> defaults(UNetOptions)["depth"]
    4
    """
    return {field.name: field.default for field in fields(options)}


def _check(architecture: str, own: dict[str, Any], name: str, value: Any) -> None:
    if name not in own:
        others = {name: default for _, kind in ARCHITECTURES.values() for name, default in defaults(kind).items()}
        if name in others and value == others[name]:
            return
        raise UsageError(f"{architecture} has no option {name}={value!r}", rule=f"it has {', '.join(own)}")
    if name in CHOICES and value not in CHOICES[name]:
        raise UsageError(f"{name} {value!r} of {architecture}", rule=f"one of {', '.join(map(str, CHOICES[name]))}")
    if name == "dropout" and not 0 <= value <= 1:
        raise UsageError(f"dropout {value}", rule="a share, 0 … 1")
    if name in ("width", "depth", "window") and value < 1:
        raise UsageError(f"{name} {value}", rule="at least 1")
    if architecture == "resnet-unet" and name == "depth" and value > DEEPEST:
        raise UsageError(f"depth {value} of resnet-unet", rule=f"at most {DEEPEST}: a ResNet has four layers")
