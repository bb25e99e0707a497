"""Options by name: none is missing, none is guessed, and each gives what the command line gives."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

from wsi_seg.api import wishes
from wsi_seg.api.wishes import KNOWN, wished
from wsi_seg.card import named_classes
from wsi_seg.cli.main import app
from wsi_seg.cli.run_options import run_options
from wsi_seg.engine.options import RunOptions, Scheduler
from wsi_seg.errors import UsageError, WsiSegError

APART = {"begun_with_tile", "flat_tiff", "lazy_bytes"}
"""Fields of `RunOptions` that are the engine's own, or of TIFF results."""
NOT_FOR_PYTHON = {"out", "tiff", "json", "quiet", "profile", "help", "slide"}


def test_every_field_of_the_options_can_be_set() -> None:
    reached = {field for field, _ in wishes._FIELDS.values()} | {"model", "more_models", "card", "scheduler"}
    assert {field.name for field in fields(RunOptions)} == reached | APART


def test_every_option_of_the_command_is_known() -> None:
    command = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    names = {name for p in command.params for name in p.opts if name.startswith("--")}
    python = {name.removeprefix("--").replace("-", "_") for name in names} - NOT_FOR_PYTHON
    assert python <= KNOWN | {"model"}


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"model": ["a.onnx", "b.onnx"], "model_weights": "0.7,0.3"},
        {"model": ["a.onnx", "b.onnx"], "model_weights": [0.7, 0.3]},
    ),
    ({"memory": "1.5GiB"}, {"memory": "1.5GiB"}),
    ({"memory": "2G"}, {"memory": 2_000_000_000}),
    ({"memory": "2G"}, {"memory_bytes": 2_000_000_000}),
    ({"mpp": 0.25, "skip": False}, {"mpp": 0.25, "skip": False}),
    ({"mpp": 0.25, "skip": False}, {"slide_mpp": 0.25, "skip_background": False}),
    ({"overlap": "64", "tile": 512, "batch_size": 2}, {"overlap": 64, "tile": 512, "batch": 2}),
    ({"overlap": "auto"}, {"overlap": "auto"}),
    ({"min_object": "20", "fill_holes": "5,tumour=500"}, {"min_object": 20, "fill_holes": {"": 5, "tumour": 500}}),
    ({"crf": True}, {"crf": True}),
    ({"crf": True, "crf_radius": 3.0, "crf_iterations": 2}, {"crf": {"radius_um": 3}, "crf_iterations": 2}),
    ({"tta": "d4", "tta_scales": "0.75,1"}, {"tta": "d4", "tta_scales": [0.75, 1]}),
    ({"roi": Path("a.geojson")}, {"roi": "a.geojson"}),
    ({"probabilities": True, "full_hash": True}, {"probabilities": True, "full_hash": True}),
]


@pytest.mark.parametrize(("command", "python"), CASES, ids=[str(python) for _, python in CASES])
def test_python_and_the_command_line_ask_for_the_same(command: dict[str, Any], python: dict[str, Any]) -> None:
    arguments = dict(python)
    assert wished(arguments.pop("model", "nuclei"), arguments) == run_options(**command)


def test_fields_of_the_card() -> None:
    stated = {"model_mpp": 0.5, "classes": ["other", "tumour=#ff0000"], "mean": 0.5, "std": (0.2, 0.3, 0.4), "halo": 9}
    expected = {
        "mpp": 0.5,
        "classes": named_classes(["other", "tumour=#ff0000"]),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.2, 0.3, 0.4),
        "halo": 9,
    }
    assert wished("m", stated).card == expected
    whole = {"mpp" if name == "model_mpp" else name: value for name, value in stated.items()}
    assert wished("m", {"card": whole}).card == expected
    assert wished("m", {"card": whole, "halo": 5}).card["halo"] == 5


def test_a_scheduler_by_address_or_whole() -> None:
    there = Scheduler("tls://h:1", tls_ca=Path("ca.pem"))
    assert wished("m", {"scheduler": "tls://h:1", "tls_ca": "ca.pem"}).scheduler == there
    assert wished("m", {"scheduler": there}).scheduler == there


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tiel": 512}, "unknown option 'tiel'; known: .*tile.*; did you mean tile?"),
    ({"flat_tiff": True}, "unknown option 'flat_tiff'"),
    ({"mpp": 0.5, "slide_mpp": 0.5}, "two names of one option"),
    ({"tile": "512"}, "tile='512'; a whole number"),
    ({"tile": True}, "tile=True; a whole number"),
    ({"tile": 1.5}, "tile=1.5; a whole number"),
    ({"skip": 0}, "skip=0; True or False"),
    ({"mpp": "0.5"}, "mpp='0.5'; a number"),
    ({"device": 0}, "device=0; a text"),
    ({"memory": "much"}, "'much'; a size above 0"),
    ({"memory": -1}, "'-1'; a size above 0"),
    ({"min_object": -1}, "min_object=-1; an area"),
    ({"min_object": float("nan")}, "min_object=nan; an area"),
    ({"crf_radius": 2}, "add crf=True"),
    ({"crf": "yes"}, "crf='yes'"),
    ({"mean": (1, 2)}, "a number or three"),
    ({"card": {"nothing": 1}}, "card fields \\['nothing'\\]; known"),
    ({"card": "card.json"}, "a mapping of card fields"),
    ({"tls_ca": "ca.pem"}, "without scheduler"),
    ({"scheduler": 8786}, "an address such as"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=[str(options) for options, _ in REFUSED])
def test_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        wished("m", options)


@pytest.mark.parametrize("model", [[], 5, [5], None])
def test_no_model(model: Any) -> None:
    with pytest.raises(UsageError, match="model="):
        wished(model, {})


@given(
    st.dictionaries(st.sampled_from(sorted(KNOWN)), st.none() | st.booleans() | st.integers() | st.text() | st.floats())
)
def test_whatever_is_passed_the_error_is_ours(options: dict[str, Any]) -> None:
    with suppress(WsiSegError):
        assert isinstance(wished("m", options), RunOptions)


def test_none_is_the_default() -> None:
    assert wished("nuclei", dict.fromkeys(KNOWN)) == RunOptions()
