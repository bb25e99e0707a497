"""Options that several commands have: written once as a function's parameters, added to the commands' signatures.

Owns the adding, and the options that complete a model's card. Knows no command.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from wsi_seg.card import named_classes
from wsi_seg.errors import UsageError

Command = Callable[..., Any]
CardFields = Mapping[str, Any]
"""Fields of a card that a user states, by name."""
WeightsOption = Annotated[Path | None, typer.Option(help="safetensors file for module:factory.")]


def with_options(make: Command, name: str) -> Callable[[Command], Command]:
    """Give a command the parameters of `make` in place of its parameter `name`, which receives the value they make.

    >>> def point(*, x: int = 0, y: int = 0) -> tuple[int, int]:
    ...     return x, y
    >>> @with_options(point, "place")
    ... def tell(*, place: tuple[int, int], loud: bool = False) -> str:
    ...     return f"{place}{'!' * loud}"
    >>> list(inspect.signature(tell).parameters), tell(y=2, loud=True)
    (['x', 'y', 'loud'], '(0, 2)!')
    """
    shared = inspect.signature(make).parameters

    def added(command: Command) -> Command:
        @wraps(command)
        def wrapped(**arguments: Any) -> Any:
            made = make(**{option: arguments.pop(option) for option in shared if option in arguments})
            return command(**{name: made}, **arguments)

        hints = get_type_hints(make, include_extras=True) | get_type_hints(command, include_extras=True)
        found: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            found += shared.values() if parameter.name == name else [parameter]
        parameters = [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in found]
        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapped

    return added


def card_options(
    *,
    model_mpp: Annotated[float | None, typer.Option(help="um per px the model was trained at.")] = None,
    classes: Annotated[str | None, typer.Option(help="Class names in index order: a,b=#ff0000,…")] = None,
    mean: Annotated[
        str | None,
        typer.Option(help="One number or three, in units of pixel / 255: 0.485,0.456,0.406."),
    ] = None,
    std: Annotated[str | None, typer.Option(help="Likewise; 1/255 = 0.0039215686 feeds 0-255.")] = None,
    activation: Annotated[
        str | None, typer.Option(help="probabilities, softmax or sigmoid: still to be applied.")
    ] = None,
    channels: Annotated[str | None, typer.Option(help="RGB or BGR.")] = None,
    layout: Annotated[str | None, typer.Option(help="NCHW or NHWC.")] = None,
    output_stride: Annotated[int | None, typer.Option(help="Total down-sampling of the network.")] = None,
    halo: Annotated[int | None, typer.Option(help="Context per side that an exact prediction needs, px.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="For one output channel, or independent ones: a class from here.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="The output to use, of a model that has several.")] = None,
) -> CardFields:
    """Fields of a card from the options that are given."""
    given = {
        "mpp": model_mpp,
        "classes": None if classes is None else named_classes(classes.split(",")),
        "mean": None if mean is None else _triple(mean, "--mean"),
        "std": None if std is None else _triple(std, "--std"),
        "activation": activation, "channels": channels, "layout": layout,
        "output_stride": output_stride, "halo": halo, "threshold": threshold, "output": output,
    }  # fmt: skip
    return {name: value for name, value in given.items() if value is not None}


def _triple(text: str, option: str) -> tuple[float, float, float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3):
        raise UsageError(f"{option} {text!r}", rule="one number, or three with commas", remedy="e.g. 0.485,0.456,0.406")
    return tuple(values * 3)[:3]  # type: ignore[return-value]
