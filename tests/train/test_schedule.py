"""Learning rates: where they start, peak and end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_seg.train.config import OptimiserConfig
from wsi_seg.train.schedule import learning_rate


def rates(total: int, **options: object) -> list[float]:
    optimiser = OptimiserConfig(**options)  # type: ignore[arg-type]
    return [learning_rate(step, total, optimiser) for step in range(total)]


@given(
    total=st.integers(1, 300),
    name=st.sampled_from(["cosine", "one-cycle", "constant"]),
    warm_up=st.integers(0, 400),
)
def test_a_rate_rises_once_and_falls_once_within_0_and_1(total: int, name: str, warm_up: int) -> None:
    values = rates(total, schedule=name, warmup_steps=warm_up)
    top = values.index(max(values))
    assert all(0 < value <= 1 for value in values)
    assert values[: top + 1] == sorted(values[: top + 1])
    assert values[top:] == sorted(values[top:], reverse=True)


def test_cosine_is_one_half_in_the_middle_and_nearly_zero_at_the_end() -> None:
    values = rates(1000)
    assert values[0] == 1
    assert values[500] == pytest.approx(0.5)
    assert values[-1] < 1e-5
    assert learning_rate(5000, 1000, OptimiserConfig()) == pytest.approx(0)


@pytest.mark.parametrize("name", ["cosine", "constant"])
def test_warm_up_is_linear_and_reaches_the_peak(name: str) -> None:
    values = rates(100, schedule=name, warmup_steps=4)
    assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_one_cycle_peaks_at_three_tenths() -> None:
    values = rates(101, schedule="one-cycle")
    assert values[0] == pytest.approx(0.04)
    assert max(range(101), key=values.__getitem__) in (30, 31)
    assert max(values) == pytest.approx(1, abs=1e-3)
    assert values[-1] == pytest.approx(4e-6)
