"""A run that blends where the model runs writes the bytes of one that blends on the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.runs import Runs, pixels_of, shard_bytes
from wsi_seg.errors import UsageError
from wsi_seg.slide import ArraySlide

pytest.importorskip("torch")


@pytest.mark.parametrize(
    "options",
    [
        {"window": "cosine", "probabilities": True},
        {"window": "crop", "block": 512, "workers": 1, "min_object": {"": 20.0}},
    ],
)
def test_same_bytes(run: Runs, small_slide: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    from wsi_seg.infer.device_blend import TorchSums

    slide = ArraySlide(np.ascontiguousarray(pixels_of(small_slide)[200:620, 300:800]), mpp=0.5)
    options = {"model": "wsi_seg.model.he_stain:HeStain", "runtime": "torch", "device": "cpu", "overlap": 32, **options}
    host = run(slide, **options, blend="host")
    added: list[bool] = []
    add = TorchSums.add_prediction
    monkeypatch.setattr(TorchSums, "add_prediction", lambda *args: added.append(True) or add(*args))
    device = run(slide, **options, blend="device")
    assert added
    assert shard_bytes(device) == shard_bytes(host)


def test_a_predictor_that_cannot(run: Runs, small_slide: Path) -> None:
    with pytest.raises(UsageError, match="--blend device"):
        run(small_slide, model="constant:1/2", blend="device")
