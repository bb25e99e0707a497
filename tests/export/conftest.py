"""What tests of exports share: the slide that judges, and the question."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import networks
from wsi_seg.export import ExportRequest
from wsi_seg.sample import write_synthetic

SIDE = 128


@pytest.fixture(scope="package")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "tissue.tif"
    write_synthetic(path, (1024, 1024), tissue_fraction=0.8)
    return path


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A small U-Net in fp32, by itself in a folder."""
    shape = networks.UnetShape(base_channels=4, depth=2, tile_size=SIDE, upsample="nearest")
    return networks.unet(tmp_path / "unet.onnx", shape)


def asked(program: Path | str, slide: Path, **options: object) -> ExportRequest:
    return ExportRequest(str(program), slides=(slide,), **{"n_tiles": 6, **options})  # type: ignore[arg-type]
