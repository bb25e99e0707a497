"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import networks
from tests.engine.runs import Runs
from tests.whole_runs import quick_runs, tmp_path

__all__ = ["quick_runs", "tmp_path"]


@pytest.fixture
def run(tmp_path: Path) -> Runs:
    """Runs a slide with small tiles and blocks and opens the result."""
    return Runs(tmp_path)


@pytest.fixture(scope="session")
def unet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A U-Net with two poolings, halo 23 px, output stride 4."""
    shape = networks.UnetShape(base_channels=4, depth=2, tile_size=128)
    return str(networks.unet(tmp_path_factory.mktemp("models") / "unet.onnx", shape))


@pytest.fixture(scope="session")
def null_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A 1 x 1 convolution to three classes."""
    return str(networks.null(tmp_path_factory.mktemp("models") / "null.onnx", tile_size=128))
