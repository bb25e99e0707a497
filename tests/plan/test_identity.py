"""The run id follows the values, and a difference is told by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_seg.plan import differing_fields, run_identity
from wsi_seg.plan.identity import canonical_json

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
FIELDS = st.dictionaries(st.text(min_size=1), VALUES, max_size=5)


@given(FIELDS)
def test_the_id_does_not_depend_on_order_and_survives_a_file(fields: dict[str, object]) -> None:
    turned = dict(reversed(fields.items()))
    assert run_identity(fields) == run_identity(turned) == run_identity(json.loads(json.dumps(fields)))
    assert len(run_identity(fields)) == 64


@given(FIELDS, FIELDS)
def test_ids_differ_exactly_when_the_json_does(first: dict[str, object], second: dict[str, object]) -> None:
    assert (run_identity(first) == run_identity(second)) == (canonical_json(first) == canonical_json(second))


@given(FIELDS)
def test_nothing_differs_from_itself(fields: dict[str, object]) -> None:
    assert differing_fields(fields, json.loads(json.dumps(fields))) == []


STORED = {"grid": {"tile": 512, "overlap": 64}, "roi": None, "batch": 8, "scale": {"factor": [1.0, 1.0]}}
CASES = [
    ({"grid": {"tile": 1024, "overlap": 64}}, ["grid.tile: 512, now 1024"]),
    ({"grid": {"tile": 1024, "overlap": 96}}, ["grid.overlap: 64, now 96", "grid.tile: 512, now 1024"]),
    ({"roi": "ab"}, ['roi: null, now "ab"']),
    ({"scale": {"factor": (1.0, 2.0)}}, ["scale.factor: [1.0, 1.0], now [1.0, 2.0]"]),
    ({"scale": {}}, ["scale: absent, now {}", "scale.factor: [1.0, 1.0], now absent"]),
    ({"new": True}, ["new: absent, now true"]),
    ({"scale": {"factor": (1.0, 1.0)}}, []),
]


@pytest.mark.parametrize(("change", "told"), CASES)
def test_differences_are_named_with_both_values(change: dict[str, object], told: list[str]) -> None:
    assert differing_fields(STORED, {**STORED, **change}) == told


def test_long_values_are_told_by_hash_and_still_differ() -> None:
    (told,) = differing_fields({"bits": "0" * 1000}, {"bits": "0" * 999 + "1"})
    assert len(told) < 160
    old, new = told.removeprefix("bits: ").split(", now ")
    assert old != new


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_float_that_is_not_finite_has_no_identity(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        run_identity({"a": value})
