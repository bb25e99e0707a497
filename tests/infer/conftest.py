"""Networks and tiles that the tests of this room share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks import networks
from wsi_seg.card import METADATA_KEY, ModelCard

SLIDE = Path(__file__).parents[3] / "shared/data/slides/cmu-1-small-region/cmu-1-small-region.svs"


def _tissue_like(n: int, side: int, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    image = np.full((n, side, side, 3), (220.0, 150.0, 190.0))
    for scale, strength in ((1, 8), (4, 25), (16, 40)):
        grain = rng.normal(size=(n, -(-side // scale), -(-side // scale), 3)) * strength
        image += grain.repeat(scale, 1).repeat(scale, 2)[:, :side, :side]
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def tissue_like() -> Callable[..., NDArray[np.uint8]]:
    """(n, side, side, 3) synthetic tiles."""
    return _tissue_like


@pytest.fixture(scope="session")
def real_tiles() -> NDArray[np.uint8]:
    """Three 256 px tiles of epidermis and dermis."""
    if not SLIDE.is_file():
        pytest.skip(f"no {SLIDE.name} in ../shared/data/slides")
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(SLIDE) as slide:
        corners = ((800, 1000), (1000, 1300), (700, 2000))
        tiles = [np.array(slide.read_region(corner, 0, (256, 256)).convert("RGB")) for corner in corners]
    return np.stack(tiles)


@pytest.fixture(scope="session")
def small_unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = networks.UnetShape(base_channels=4, depth=2, tile_size=64)
    return networks.unet(tmp_path_factory.mktemp("unet") / "unet.onnx", shape)


Affine = Callable[..., Path]


@pytest.fixture
def affine(tmp_path: Path) -> Affine:
    """Builder of per-pixel linear networks: `weight` (C, 3) and optional last operation, in either layout."""

    def build(
        weight: NDArray[np.float32],
        layout: str = "NCHW",
        last: str = "",
        card: ModelCard | None = None,
        dims: tuple[object, object, object] = ("N", "H", "W"),
        name: str = "affine.onnx",
    ) -> Path:
        n, h, w = dims
        channels = len(weight)
        if layout == "NCHW":
            ports = [n, 3, h, w], [n, channels, h, w]
            nodes = [helper.make_node("Conv", ["x", "weight"], ["y" if not last else "t"])]
            stored = weight.reshape(channels, 3, 1, 1)
        else:
            ports = [n, h, w, 3], [n, h, w, channels]
            nodes = [helper.make_node("MatMul", ["x", "weight"], ["y" if not last else "t"])]
            stored = np.ascontiguousarray(weight.T)
        if last:
            options = {"axis": 1 if layout == "NCHW" else 3} if last == "Softmax" else {}
            nodes.append(helper.make_node(last, ["t"], ["y"], **options))
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ports[0])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ports[1])]
        tensors = [numpy_helper.from_array(stored.astype(np.float32), "weight")]
        graph = helper.make_graph(nodes, "affine", inputs, outputs, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        if card is not None:
            helper.set_model_props(model, {METADATA_KEY: card.to_json()})
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return build
