"""Which layers stay in float: the most harmful ones, no more than are needed, never the most of the network."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from wsi_seg.export.quantisation import Layer
from wsi_seg.export.sensitivity import MAX_FLOAT_SHARE, find_kept_layers


class Harmful:
    """A quantiser whose programs are the names of their int8 layers, and whose error is the sum of their harm."""

    def __init__(self, harm: dict[str, float], macs: dict[str, float] | None = None) -> None:
        self.harm = harm
        self.layers = [Layer(name, (macs or {}).get(name, 1.0)) for name in harm]
        self.judged = 0

    def quantised(self, kept: Collection[str] = ()) -> bytes:
        return ",".join(name for name in self.harm if name not in kept).encode()

    def error(self, program: bytes) -> float:
        self.judged += 1
        return sum(self.harm[name] for name in program.decode().split(",") if name)


def search(harm: dict[str, float], limit: float, macs: dict[str, float] | None = None) -> list[str] | None:
    quantiser = Harmful(harm, macs)
    kept = find_kept_layers(quantiser, lambda program: quantiser.error(program) <= limit, quantiser.error)  # type: ignore[arg-type]
    return None if kept is None else [layer.name for layer in kept.layers]


def test_nothing_is_kept_where_nothing_has_to_be() -> None:
    assert search({"a": 0.1, "b": 0.2}, 1.0) == []


def test_the_most_harmful_stay_and_no_more() -> None:
    harm = {f"layer{i}": 0.1 for i in range(12)} | {"worst": 5.0, "bad": 2.0}
    assert search(harm, 1.5) == ["worst", "bad"]
    assert search(harm, 3.5) == ["worst"]


def test_harm_counts_per_multiply_add() -> None:
    harm, macs = {"large": 3.0, "small": 2.0, "rest": 0.0}, {"large": 8.0, "small": 1.0, "rest": 11.0}
    assert search(harm, 3.5, macs) == ["small"]
    assert search(harm, 2.5, macs) == ["small", "large"]  # only the large one would do, but small ones go first


def test_a_program_that_is_mostly_float_is_no_int8_program() -> None:
    assert search({f"layer{i}": 1.0 for i in range(10)}, 1.0) is None
    assert search({f"layer{i}": 1.0 for i in range(10)}, 10 * (1 - MAX_FLOAT_SHARE)) is not None


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_search_is_logarithmic(n: int) -> None:
    quantiser = Harmful({f"layer{i}": float(i) for i in range(32)})
    limit = sum(range(32 - n))
    kept = find_kept_layers(quantiser, lambda program: quantiser.error(program) <= limit, quantiser.error)  # type: ignore[arg-type]
    assert kept is not None
    assert len(kept.layers) == n
    assert quantiser.judged <= 32 + 7
