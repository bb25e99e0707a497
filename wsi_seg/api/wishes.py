"""Options of a run by name, as Python passes them, into the one value that the engine takes.

Owns the names: those of the command line with `_` for `-`, and the fields of `RunOptions` and of a model's card. Values
that the engine itself checks (a window, a runtime) pass through; here only their type is looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from wsi_seg.card import SegmentationClass, named_classes
from wsi_seg.engine.options import RunOptions, Scheduler
from wsi_seg.engine.sizes import parse_bytes
from wsi_seg.errors import UsageError

Reading = tuple[str, Callable[[Any], Any]]
"""What a value must be, in words, and what makes the engine's value of it, or raises TypeError or ValueError."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError
    return int(value.__index__())


def _number(value: Any) -> float:
    if isinstance(value, bool | str):
        raise TypeError
    return float(value)


def _path(value: Any) -> Path:
    return Path(os.fspath(value))


def _pixels(value: Any) -> int | None:
    return None if value == "auto" else _whole(value)


def _bytes(value: Any) -> int:
    return parse_bytes(value) if isinstance(value, str) else parse_bytes(str(_whole(value)))


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(map(_number, value))


def _scales(value: Any) -> str:
    return value if isinstance(value, str) else ",".join(f"{_number(scale):g}" for scale in value)


def _triple(value: Any) -> tuple[float, ...]:
    values = _numbers(value) if isinstance(value, Sequence) or hasattr(value, "__len__") else (_number(value),)
    if len(values) not in (1, 3):
        raise ValueError
    return values if len(values) == 3 else values * 3


def _areas(value: Any) -> dict[str, float]:
    areas = value if isinstance(value, Mapping) else {"": value}
    read = {_text(name): _number(area) for name, area in areas.items()}
    if not all(0 <= area < float("inf") for area in read.values()):
        raise ValueError
    return read


def _classes(value: Any) -> tuple[SegmentationClass, ...]:
    if isinstance(value, str):
        return named_classes(value.split(","))
    if isinstance(value, Mapping):
        return tuple(SegmentationClass(name, colour) for name, colour in value.items())
    return tuple(c if isinstance(c, SegmentationClass) else named_classes([_text(c)])[0] for c in value)


def _crf(value: Any) -> dict[str, float] | None:
    if isinstance(value, Mapping):
        return {_text(name): _number(number) for name, number in value.items()}
    return {} if _flag(value) else None


_TEXT: Reading = ("a text", _text)
_FLAG: Reading = ("True or False", _flag)
_WHOLE: Reading = ("a whole number", _whole)
_NUMBER: Reading = ("a number", _number)
_PATH: Reading = ("a path", _path)
_AREAS: Reading = ("an area in um2 that is not below 0, or a mapping of such by class name", _areas)

_FIELDS: Mapping[str, tuple[str, Reading]] = {
    **{
        name: (name, _TEXT) for name in ("runtime", "precision", "device", "blend", "reader", "decode", "window", "tta")
    },
    **{name: (name, _FLAG) for name in ("probabilities", "full_hash", "trust_engine", "cuda_graphs")},
    **{name: (name, _FLAG) for name in ("overwrite", "restart", "skip_background")},
    **{name: (name, _WHOLE) for name in ("tile", "batch", "block", "workers")},
    **{name: (name, _PATH) for name in ("weights", "roi")},
    **{name: (name, _AREAS) for name in ("min_object", "fill_holes")},
    "model_weights": ("model_weights", ("numbers, one per model", _numbers)),
    "tta_scales": ("tta_scales", ("numbers, or a text of such with commas", _scales)),
    "overlap": ("overlap", ("a whole number of px, or 'auto'", _pixels)),
    "slide_mpp": ("slide_mpp", _NUMBER),
    "memory_bytes": ("memory_bytes", ("bytes, or a text such as '8G'", _bytes)),
    "crf": ("crf", ("True, False, or its parameters by name", _crf)),
    # As the command line calls them.
    "mpp": ("slide_mpp", _NUMBER),
    "skip": ("skip_background", _FLAG),
    "batch_size": ("batch", _WHOLE),
    "memory": ("memory_bytes", ("bytes, or a text such as '8G'", _bytes)),
}
"""Name of an option -> the field of `RunOptions` that it sets."""

_CARD: Mapping[str, tuple[str, Reading]] = {
    "model_mpp": ("mpp", _NUMBER),
    "classes": ("classes", ("names, `name=#rrggbb`, or a mapping of colours by name", _classes)),
    "mean": ("mean", ("a number or three", _triple)),
    "std": ("std", ("a number or three", _triple)),
    **{name: (name, _TEXT) for name in ("activation", "channels", "layout", "output")},
    **{name: (name, _WHOLE) for name in ("output_stride", "halo")},
    "threshold": ("threshold", _NUMBER),
}
"""Name of an option -> the field of the model's card that it states."""

_CRF: Mapping[str, tuple[str, Reading]] = {
    f"crf_{option}": (name, _NUMBER)
    for option, name in {
        "radius": "radius_um",
        "iterations": "iterations",
        "colour": "colour",
        "weight": "weight",
    }.items()
}
_SCHEDULER: Mapping[str, tuple[str, Reading]] = {
    **{name: (name, _PATH) for name in ("tls_ca", "tls_cert", "tls_key")},
    "plain_tcp": ("plain_tcp", _FLAG),
}
_WHOLE_VALUES = ("card", "scheduler")

KNOWN = frozenset({*_FIELDS, *_CARD, *_CRF, *_SCHEDULER, *_WHOLE_VALUES})
"""Every option there is."""
FLAGS = frozenset(name for name, (_, reading) in (*_FIELDS.items(), *_SCHEDULER.items()) if reading is _FLAG) | {"crf"}
"""Those that are True or False."""

ModelName = str | os.PathLike[str]


def wished(model: ModelName | Sequence[ModelName], given: Mapping[str, Any]) -> RunOptions:
    """The options of a run.

    Args:
        model: built-in name, path of a program or of a training's folder, `module:factory`; several for an ensemble.
        given: options by name; None stands for the default.

    Raises:
        UsageError: an unknown name, two names of one thing, or a value of another kind.

    >>> wished("nuclei", {"memory": "2G", "mpp": 0.25, "classes": ["other", "tumour"]}).memory_bytes
    2000000000
    """
    options = {name: value for name, value in given.items() if value is not None}
    _refuse_unknown(options)
    values: dict[str, Any] = dict(_read(options, _FIELDS))
    first, *more = _models(model)
    crf = dict(_read(options, _CRF))
    if crf:
        if values.get("crf") is None:
            raise UsageError("a crf_… option without crf", remedy="add crf=True")
        values["crf"] = {**values["crf"], **crf}
    return RunOptions(
        model=first, more_models=tuple(more), card=_card(options), scheduler=_scheduler(options), **values
    )


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in KNOWN:
            close = get_close_matches(name, KNOWN, 1)
            raise UsageError(
                f"unknown option {name!r}",
                rule=f"known: {', '.join(sorted(KNOWN))}",
                remedy=f"did you mean {close[0]}?" if close else "",
            )


def _read(options: Mapping[str, Any], table: Mapping[str, tuple[str, Reading]]) -> Iterator[tuple[str, Any]]:
    """The fields that are named, with the values read."""
    named: dict[str, str] = {}
    for option, (field, (rule, read)) in table.items():
        if option not in options:
            continue
        if field in named:
            raise UsageError(f"{named[field]} and {option}", rule="they are two names of one option")
        named[field] = option
        try:
            yield field, read(options[option])
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{option}={options[option]!r}"[:200], rule=rule) from error


def _models(model: ModelName | Sequence[ModelName]) -> list[str]:
    names = [model] if isinstance(model, str | os.PathLike) else model
    if not isinstance(names, list | tuple) or not names or not all(isinstance(n, str | os.PathLike) for n in names):
        raise UsageError(f"model={model!r}", rule="a name, a path, or several of these for an ensemble")
    return [os.fspath(name) for name in names]


def _card(options: Mapping[str, Any]) -> dict[str, Any]:
    """Stated fields of the card: those of `card`, then the single ones."""
    whole = options.get("card", {})
    if not isinstance(whole, Mapping):
        raise UsageError(f"card={whole!r}"[:200], rule="a mapping of card fields by name")
    stated = {("model_mpp" if name == "mpp" else name): value for name, value in whole.items()}
    if unknown := sorted(set(stated) - set(_CARD)):
        raise UsageError(f"card fields {unknown}", rule=f"known: {', '.join(sorted(_CARD))}")
    return dict(_read(stated, _CARD)) | dict(_read(options, _CARD))


def _scheduler(options: Mapping[str, Any]) -> Scheduler | None:
    tls, where = dict(_read(options, _SCHEDULER)), options.get("scheduler")
    if where is None:
        if tls:
            raise UsageError(f"{sorted(tls)} without scheduler", remedy="add scheduler='tls://HOST:PORT'")
        return None
    if isinstance(where, Scheduler):
        return where
    if not isinstance(where, str):
        raise UsageError(f"scheduler={where!r}"[:200], rule="an address such as 'tls://HOST:PORT'")
    return Scheduler(where, **tls)
