"""What is refused before the model has predicted a tile: no user waits for a measurement to learn of a typing error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.prepare import prepare
from wsi_seg.errors import GridError, MemoryBudgetError, UsageError, WsiSegError
from wsi_seg.infer.predictor import ProgramPredictor
from wsi_seg.slide import ArraySlide


@pytest.fixture
def slide() -> ArraySlide:
    return ArraySlide(np.full((600, 700, 3), 200, np.uint8), mpp=0.5)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"window": "cosinus"}, GridError),
        ({"block": 300}, GridError),
        ({"overlap": 7}, GridError),
        ({"overlap": 500, "tile": 512}, GridError),
        ({"tile": 0}, UsageError),
        ({"blend": "gpu"}, UsageError),
        ({"fill_holes": {"nonsense": 5.0}}, UsageError),
        ({"roi": Path("nowhere.geojson")}, WsiSegError),
        ({"tile": 8192, "batch": 64, "workers": 2, "memory_bytes": 10**9}, MemoryBudgetError),
    ],
)
def test_before_anything_is_predicted(
    slide: ArraySlide, wrong: dict[str, Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(*_: object) -> None:
        raise AssertionError("the model was asked")

    monkeypatch.setattr(ProgramPredictor, "predict", predict)
    with pytest.raises(error):
        prepare(slide, RunOptions(**{"model": "identity", **wrong}))
