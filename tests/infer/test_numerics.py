"""The arithmetic: normalisation, channel order, layout and activation against a float64 oracle; parity of runtimes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from wsi_seg.card import ModelCard, named_classes
from wsi_seg.errors import CardError, PredictorError
from wsi_seg.infer import ModelSpec, agreement, load_predictor
from wsi_seg.infer.runtime.activation import activated
from wsi_seg.infer.runtime.pixels import PixelConversion

RUNTIMES = ("openvino", "onnxruntime")
MEAN, STD = (0.7, 0.5, 0.6), (0.2, 0.25, 0.3)


def oracle(batch: NDArray[np.uint8], card: ModelCard, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, H, W, 3) -> (N, C, H, W): written as the card's documentation says it."""
    pixels = batch[..., ::-1] if card.channels == "BGR" else batch
    values = (pixels / 255 - np.array(card.mean)) / np.array(card.std)
    logits = np.einsum("nhwc,kc->nkhw", values, weight)
    if card.activation == "softmax":
        power = np.exp(logits - logits.max(1, keepdims=True))
        return power / power.sum(1, keepdims=True)
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_every_convention_of_the_card_gives_the_oracles_values(
    affine: Callable[..., Path], tissue_like: Callable[..., np.ndarray], runtime: str, activation: str, layout: str,
    channels: str,
) -> None:  # fmt: skip
    weight = np.random.default_rng(0).normal(size=(4, 3))
    card = ModelCard(
        "m", 0.5, named_classes(["a", "b", "c", "d"]), 32, channels=channels, layout=layout, mean=MEAN, std=STD,
        activation=activation,
    )  # fmt: skip
    path = affine(weight, layout=layout, card=card)
    batch = tissue_like(2, 48)
    got = load_predictor(ModelSpec(str(path), runtime=runtime)).predict(batch)
    np.testing.assert_allclose(got, oracle(batch, card, weight), atol=2e-6)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_one_channel_with_a_threshold(affine: Callable[..., Path], runtime: str) -> None:
    card = ModelCard("m", 0.5, named_classes(["no", "yes"]), 32, activation="sigmoid")
    path = affine(np.array([[4.0, 0, 0]]), card=card)
    predictor = load_predictor(ModelSpec(str(path), runtime=runtime))
    assert predictor.n_channels == 1
    assert predictor.predict(np.full((1, 32, 32, 3), 255, np.uint8)).shape == (1, 1, 32, 32)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_logits_that_the_card_calls_probabilities_are_an_error_naming_activation(
    affine: Callable[..., Path], runtime: str
) -> None:
    card = ModelCard("m", 0.5, named_classes(["a", "b"]), 32)
    path = affine(np.array([[9.0, 0, 0], [0, -9.0, 0]]), card=card)
    with pytest.raises(PredictorError, match="--activation"):
        load_predictor(ModelSpec(str(path), runtime=runtime))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_nan_is_an_error_and_never_a_class(affine: Callable[..., Path], runtime: str) -> None:
    card = ModelCard("m", 0.5, named_classes(["a", "b"]), 32)
    path = affine(np.array([[np.nan, 0, 0], [0, 0.1, 0]]), card=card)
    with pytest.raises(PredictorError, match="finite"):
        load_predictor(ModelSpec(str(path), runtime=runtime))


def test_a_single_nan_pixel_is_found() -> None:
    from wsi_seg.infer.predictor import checked

    output = np.full((1, 2, 64, 64), 0.5, np.float32)
    output[0, 1, 63, 62] = np.nan
    with pytest.raises(PredictorError, match="finite"):
        checked(output, output.shape, ModelCard("m", 0.5, named_classes(["a", "b"])))


def test_rounding_beyond_one_is_clipped() -> None:
    from wsi_seg.infer.predictor import checked

    card = ModelCard("m", 0.5, named_classes(["a", "b"]))
    output = np.array([[[[1.001]], [[-0.001]]]], np.float32)
    output.flags.writeable = False
    assert checked(output, (1, 2, 1, 1), card).ravel().tolist() == [1.0, 0.0]


def test_runtimes_agree_on_a_unet(small_unet: Path, real_tiles: NDArray[np.uint8]) -> None:
    first, second = (load_predictor(ModelSpec(str(small_unet), runtime=runtime)) for runtime in RUNTIMES)
    result = agreement(first, second, real_tiles)
    assert result.max_abs < 1e-4
    assert result.argmax_agreement > 0.9999
    assert result.sufficient


def test_thread_and_stream_counts_do_not_change_a_bit(small_unet: Path, tissue_like: Callable[..., np.ndarray]) -> None:
    batch = tissue_like(4, 128)
    for runtime in RUNTIMES:
        results = [
            load_predictor(ModelSpec(str(small_unet), runtime=runtime, threads=threads, streams=streams)).predict(batch)
            for threads, streams in ((1, 1), (2, 1), (1, 2))
        ]
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0], results[2])


def test_agreement_counts_what_differs(affine: Callable[..., Path]) -> None:
    card = ModelCard("m", 0.5, named_classes(["a", "b"]), 32)
    same = load_predictor(ModelSpec(str(affine(np.array([[1.0, 0, 0], [0, 1.0, 0]]), card=card, name="a.onnx"))))
    other = load_predictor(ModelSpec(str(affine(np.array([[1.0, 0, 0], [0, 0.5, 0]]), card=card, name="b.onnx"))))
    tile = np.zeros((1, 32, 32, 3), np.uint8)
    tile[0, :8] = (100, 150, 0)  # a quarter of the rows: class b by the first, a by the second
    tile[0, 8:] = (100, 0, 0)
    result = agreement(same, other, tile)
    assert result.argmax_agreement == 0.75
    assert result.max_abs == pytest.approx(75 / 255)
    assert result.mean_abs == pytest.approx(75 / 255 / 8)
    assert not result.sufficient


@given(
    arrays(np.float32, (2, 3, 2, 2), elements=st.floats(-1e4, 1e4, width=32)), st.sampled_from(["softmax", "sigmoid"])
)
def test_activation_equals_float64(logits: NDArray[np.float32], activation: str) -> None:
    exact = logits.astype(np.float64)
    if activation == "softmax":
        power = np.exp(exact - exact.max(1, keepdims=True))
        expected = power / power.sum(1, keepdims=True)
    else:
        expected = 0.5 * (1 + np.tanh(exact / 2))
    np.testing.assert_allclose(activated(logits.copy(), activation), expected, atol=1e-6)


@settings(suppress_health_check=[HealthCheck.differing_executors])
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4), st.just(3))),
    st.sampled_from(["NCHW", "NHWC"]), st.sampled_from(["RGB", "BGR"]),
)  # fmt: skip
def test_pixel_conversion_equals_the_cards_formula(batch: NDArray[np.uint8], layout: str, channels: str) -> None:
    card = ModelCard("m", 0.5, named_classes(["a", "b"]), mean=MEAN, std=STD, layout=layout, channels=channels)
    pixels = batch[..., ::-1] if channels == "BGR" else batch
    expected = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    expected = expected.transpose(0, 3, 1, 2) if layout == "NCHW" else expected
    np.testing.assert_allclose(PixelConversion(card)(batch), expected, atol=1e-5)


def test_classes_must_match_the_output(affine: Callable[..., Path]) -> None:
    card = ModelCard("m", 0.5, named_classes(["a", "b"]), 32)
    path = affine(np.full((3, 3), 0.1), card=card)
    with pytest.raises(CardError, match=r"3 output channels but 2 classes \(a, b\)"):
        load_predictor(ModelSpec(str(path)))
