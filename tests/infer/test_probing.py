"""Halo, output stride and batch independence against networks whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import networks
from wsi_seg.card import ModelCard, named_classes
from wsi_seg.infer import (
    ModelSpec,
    Predictor,
    RuntimeFacts,
    batch_independent,
    load_predictor,
    measure_halo,
    measure_output_stride,
)  # fmt: skip

CARD = ModelCard("fake", 0.5, named_classes(["a", "b"]), 64)


class Fake:
    """A predictor made of a function of (N, H, W) floats in [0, 1]."""

    facts = RuntimeFacts("numpy", "0", "CPU", "fp32")
    fixed_input = (None, None, None)
    n_channels = 2

    def __init__(self, function: Callable[[NDArray[np.float32]], NDArray[np.float32]], stride: int = 1) -> None:
        self.function, self.card = function, CARD.replaced(output_stride=stride)

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        value = self.function(batch.mean(axis=3, dtype=np.float32) / 255).astype(np.float32)
        return np.stack([value, 1 - value], 1)

    def close(self) -> None: ...


def box_blur(radius: int) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    def blur(x: NDArray[np.float32]) -> NDArray[np.float32]:
        padded = np.pad(x.astype(np.float64), ((0, 0), (radius, radius), (radius, radius)))
        side = 2 * radius + 1
        return np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2)).mean((3, 4))

    return blur


def pool_and_repeat(side: int) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    def pool(x: NDArray[np.float32]) -> NDArray[np.float32]:
        n, h, w = x.shape
        coarse = x.reshape(n, h // side, side, w // side, side).max((2, 4))
        return coarse.repeat(side, 1).repeat(side, 2)

    return pool


@pytest.mark.parametrize("radius", [0, 1, 3, 10])
def test_the_halo_of_a_blur_is_its_radius(radius: int, tissue_like: Callable[..., np.ndarray]) -> None:
    assert measure_halo(Fake(box_blur(radius)), tissue_like(2, 64)) == radius


@pytest.mark.parametrize("side", [1, 2, 8])
def test_the_halo_of_pooling_is_what_the_far_pixel_sees(side: int, tissue_like: Callable[..., np.ndarray]) -> None:
    assert measure_halo(Fake(pool_and_repeat(side), side), tissue_like(2, 64)) == side - 1


@pytest.mark.parametrize(
    ("depth", "upsample", "side"), [(1, "transpose", 64), (2, "transpose", 128), (2, "nearest", 128)]
)
def test_the_halo_of_a_unet_is_its_receptive_field(
    depth: int, upsample: str, side: int, tmp_path: Path, tissue_like: Callable[..., np.ndarray]
) -> None:
    path = networks.unet(tmp_path / "u.onnx", networks.UnetShape(4, depth, 3, side, upsample))
    predictor = load_predictor(ModelSpec(str(path)))
    halo = measure_halo(predictor, tissue_like(3, side))
    assert halo is not None
    exact = networks.unet_halo(depth)
    assert exact <= halo <= exact + 2**depth - 1  # never too small; the grid's phases cost less than one stride
    assert measure_output_stride(predictor) == 2**depth


def test_the_measured_halo_makes_cropped_tiles_equal_the_whole(
    tmp_path: Path, tissue_like: Callable[..., np.ndarray]
) -> None:
    path = networks.unet(tmp_path / "u.onnx", networks.UnetShape(4, 2, 3, 128))
    predictor = load_predictor(ModelSpec(str(path)))
    whole = tissue_like(1, 256, seed=9)
    halo = measure_halo(predictor, tissue_like(3, 128))
    assert halo is not None
    tile = predictor.predict(whole[:, 64:192, 64:192])[0, :, halo : 128 - halo, halo : 128 - halo]
    inside = slice(64 + halo, 192 - halo)
    expected = predictor.predict(whole)[0, :, inside, inside]
    np.testing.assert_allclose(tile, expected, atol=1e-6)
    assert (tile.argmax(0) == expected.argmax(0)).all()


@pytest.mark.parametrize("function", [lambda x: x / (1 + x.mean((1, 2), keepdims=True)), box_blur(31)])
def test_an_unbounded_halo_is_none(
    function: Callable[[NDArray[np.float32]], NDArray[np.float32]], tissue_like: Callable[..., np.ndarray]
) -> None:
    assert measure_halo(Fake(function), tissue_like(2, 64)) is None


def test_a_tolerance_shortens_the_halo(tissue_like: Callable[..., np.ndarray]) -> None:
    def fading(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return 0.5 * x + 1e-9 * box_blur(6)(x)  # far pixels matter less than any tolerance

    wide = Fake(lambda x: fading(x.astype(np.float64)).astype(np.float64))
    assert measure_halo(wide, tissue_like(1, 64), tolerance=1e-3) == 0


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16])
def test_the_output_stride_is_measured(stride: int) -> None:
    assert measure_output_stride(Fake(pool_and_repeat(stride))) == stride


def test_a_little_leakage_from_the_border_does_not_hide_the_stride() -> None:
    pool = pool_and_repeat(4)
    assert measure_output_stride(Fake(lambda x: 0.9 * pool(x) + 1e-3 * x.mean((1, 2), keepdims=True))) == 4


def test_an_absolute_position_has_no_output_stride() -> None:
    def position(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return x * np.linspace(0, 1, x.shape[1], dtype=np.float32)[None, :, None]

    assert measure_output_stride(Fake(position)) is None


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_plain_networks_are_batch_independent(
    batch_size: int, small_unet: Path, tissue_like: Callable[..., np.ndarray]
) -> None:
    for runtime in ("openvino", "onnxruntime"):
        predictor: Predictor = load_predictor(ModelSpec(str(small_unet), runtime=runtime))
        assert batch_independent(predictor, tissue_like(3, 64), batch_size)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.clip(x - 1e-6 * x.mean(), 0, 1),
        lambda x: x * np.linspace(0.9, 1, len(x))[:, None, None],
        lambda x: x * np.resize([0.9, 1.0], len(x))[:, None, None],
    ],
    ids=["batch statistics", "position in the batch", "parity of the position"],
)
def test_dependence_on_the_batch_is_found(
    function: Callable[[NDArray[np.float32]], NDArray[np.float32]], tissue_like: Callable[..., np.ndarray]
) -> None:
    assert not batch_independent(Fake(function), tissue_like(3, 64), 4)


def test_a_tile_on_which_the_model_fails_is_no_dependence(tissue_like: Callable[..., np.ndarray]) -> None:
    tiles = tissue_like(3, 64)
    tiles[1, 5, 7] = 0
    assert batch_independent(Fake(lambda x: np.where(x == 0, np.nan, x)), tiles, 4)
    assert not batch_independent(Fake(lambda x: np.where(x == 0, np.nan, x - 1e-6 * x.mean())), tiles, 4)
