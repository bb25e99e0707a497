"""Slides and models that are not as usual, each compared with one forward of the whole canvas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks import networks
from tests.engine.runs import SMALL, Runs, labels_of
from wsi_seg.card import METADATA_KEY, ModelCard, named_classes
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.prepare import prepare
from wsi_seg.geometry import Box, Mpp
from wsi_seg.slide import ArraySlide
from wsi_seg.slide.canvas import read_canvas


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overviews take half the time of such small runs, and are not looked at here."""
    monkeypatch.setattr("wsi_seg.engine.target._overview", lambda *_: b"picture")


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth colours, so that neighbouring classes differ and resampling keeps them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    fine = rng.integers(0, 40, (height, width, 3), dtype=np.uint8)
    return (coarse.repeat(16, 0).repeat(16, 1)[:height, :width] // 2 + fine).astype(np.uint8)


def canvas_of(slide: Any, plan: Any) -> NDArray[np.uint8]:
    """The canvas, read in one piece; it must be that of exact area means but for rounding (float32 sums, 1 of 255)."""
    scale = plan.scale
    level = slide.read_region(Box(0, 0, *slide.levels[scale.level].size), scale.level)
    y, x = scale.level_origin
    rows = shares(scale.canvas_size[0], scale.factor[0], level.shape[0] - y)
    columns = shares(scale.canvas_size[1], scale.factor[1], level.shape[1] - x)
    means = np.moveaxis(rows @ np.moveaxis(level[y:, x:].astype(np.float64), 2, 0) @ columns.T, 0, 2)
    canvas = read_canvas(slide, scale, Box(0, 0, *scale.canvas_size), plan.card.background)
    assert np.abs(canvas - means).max() <= 0.51
    return canvas


def shares(n: int, factor: float, n_source: int) -> NDArray[np.float64]:
    """Share of each source px in each of n means, (n, n_source): overlaps of intervals, those off the end left out."""
    start = np.arange(n)[:, None] * factor
    source = np.arange(n_source)[None]
    overlap = np.clip(np.minimum(start + factor, source + 1) - np.maximum(start, source), 0, None)
    return overlap / overlap.sum(1, keepdims=True)


def naive_labels(slide: Any, **options: Any) -> NDArray[Any]:
    """Labels of the canvas predicted whole, padded as the tiles are."""
    prepared = prepare(slide, RunOptions(**{**SMALL, **options}))
    plan, card = prepared.plan, prepared.plan.card
    height, width = plan.scale.canvas_size
    pad, (rows, columns) = plan.grid.pad, plan.grid.shape
    end = plan.grid.tile_box(rows - 1, columns - 1)
    padded = np.empty((1, end.y1 + pad, end.x1 + pad, 3), np.uint8)
    padded[:] = card.background
    padded[0, pad : pad + height, pad : pad + width] = canvas_of(slide, plan)
    probabilities = prepared.predictor.predict(padded)[0, :, pad : pad + height, pad : pad + width]
    prepared.predictor.close()
    quantised = np.rint(probabilities.astype(np.float64) * 65535)
    if len(quantised) == 1:
        return quantised[0] >= np.rint(card.threshold * 65535)
    return quantised.argmax(0)


def assert_as_naive(run: Runs, slide: Any, **options: Any) -> NDArray[Any]:
    labels = labels_of(run(slide, **options))[0]
    np.testing.assert_array_equal(labels, naive_labels(slide, **options))
    return labels


def small_model(
    path: Path, card: ModelCard, weight: NDArray[np.float32], *, layout: str = "NCHW", last: str = ""
) -> str:
    """A 1 x 1 convolution of the given weight (C, 3), in either layout, and an activation."""
    nodes, source = [], "image"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]))
        source = "planes"
    nodes.append(helper.make_node("Conv", [source, "w"], ["y0"], kernel_shape=[1, 1]))
    if last:
        nodes.append(helper.make_node(last, ["y0"], ["y1"]))
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [nodes[-1].output[0]], ["t"], perm=[0, 2, 3, 1]))
    shape = ["N", "H", "W"]
    axes = (
        [[*shape, 3], [*shape, len(weight)]] if layout == "NHWC" else [["N", 3, "H", "W"], ["N", len(weight), "H", "W"]]
    )
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, axis)
        for name, axis in zip(("image", nodes[-1].output[0]), axes, strict=True)
    ]
    weights = [numpy_helper.from_array(weight.reshape(*weight.shape, 1, 1).astype(np.float32), "w")]
    graph = helper.make_graph(nodes, "small", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return str(path)


def card_of(n: int, **fields: Any) -> ModelCard:
    return ModelCard("small", 0.5, named_classes([f"c{i}" for i in range(n)]), 128, halo=0, **fields)


class TestSlides:
    @pytest.mark.parametrize("window", ["crop", "cosine"])
    def test_bounds_and_resampling(self, run: Runs, null_model: str, window: str) -> None:
        slide = ArraySlide(noise(700, 900), mpp=0.37)
        slide.bounds = Box(53, 101, 640, 871)
        labels = assert_as_naive(run, slide, model=null_model, overlap=32, window=window)
        assert labels.shape == (round(587 * 0.37 / 0.5), round(770 * 0.37 / 0.5))

    def test_bounds_reach_the_outputs(self, run: Runs, null_model: str) -> None:
        slide = ArraySlide(noise(400, 500), mpp=0.5)
        slide.bounds = Box(64, 32, 400, 500)
        result = run(slide, model=null_model)
        assert result.spec.l0_offset == (64, 32)
        assert_as_naive(run, slide, model=null_model)

    @pytest.mark.parametrize("mpp", [Mpp(0.25, 0.5), Mpp(0.5, 0.21), Mpp(0.31, 0.47)])
    def test_anisotropic(self, run: Runs, null_model: str, mpp: Mpp) -> None:
        slide = ArraySlide(noise(500, 700), mpp=mpp)
        labels = assert_as_naive(run, slide, model=null_model, overlap=16)
        assert abs(labels.shape[0] * 0.5 - 500 * mpp.y) < 1
        assert abs(labels.shape[1] * 0.5 - 700 * mpp.x) < 1

    def test_enlarged(self, run: Runs, null_model: str) -> None:
        assert_as_naive(run, ArraySlide(noise(200, 300), mpp=0.8), model=null_model, overlap=16, window="linear")

    def test_coarser_level_is_read(self, run: Runs, null_model: str) -> None:
        whole = noise(800, 1200)
        slide = ArraySlide(whole, np.ascontiguousarray(whole[1::2, ::2]), mpp=0.2)
        assert prepare(slide, RunOptions(model=null_model)).plan.scale.level == 1
        assert_as_naive(run, slide, model=null_model, overlap=32)

    def test_model_coarser_than_every_level(self, run: Runs, null_model: str) -> None:
        slide = ArraySlide(noise(900, 1300), mpp=0.05)
        assert labels_of(run(slide, model=null_model))[0].shape == (90, 130)
        assert_as_naive(run, slide, model=null_model)

    @pytest.mark.parametrize("size", [(40, 30), (129, 127), (128, 128), (1, 600)])
    def test_tile_larger_than_the_slide(self, run: Runs, unet: str, size: tuple[int, int]) -> None:
        assert_as_naive(run, ArraySlide(noise(*size), mpp=0.5), model=unet, tile=256)

    def test_all_white_without_skipping(self, run: Runs, null_model: str) -> None:
        labels = assert_as_naive(run, ArraySlide(np.full((300, 400, 3), 255, np.uint8), mpp=0.5), model=null_model)
        assert len(np.unique(labels)) == 1

    def test_roi_on_a_resampled_slide_with_bounds(self, run: Runs, tmp_path: Path, null_model: str) -> None:
        """GeoJSON counts from the corner of the bounds, in level-0 px, as QuPath does."""
        slide = ArraySlide(noise(800, 1000), mpp=0.3)
        slide.bounds = Box(100, 60, 800, 1000)
        roi = tmp_path / "roi.json"
        roi.write_text('{"type": "Polygon", "coordinates": [[[50, 30], [700, 30], [700, 400], [50, 600], [50, 30]]]}')
        labels = labels_of(run(slide, model=null_model, roi=roi))[0]
        ys, xs = (np.mgrid[: labels.shape[0], : labels.shape[1]] + 0.5) * (0.5 / 0.3)
        inside = (xs > 50) & (xs < 700) & (ys > 30) & (ys < 600 - (xs - 50) * 200 / 650)
        np.testing.assert_array_equal(labels != 255, inside)
        np.testing.assert_array_equal(labels[inside], naive_labels(slide, model=null_model)[inside])


class TestModels:
    SLIDE = ArraySlide(noise(330, 460, seed=2), mpp=0.5)

    def test_300_classes(self, run: Runs, tmp_path: Path) -> None:
        model = str(networks.null(tmp_path / "many.onnx", n_classes=300, tile_size=64))
        result = run(self.SLIDE, model=model, overlap=16)
        labels = labels_of(result)[0]
        assert labels.dtype == np.uint16
        assert labels.max() > 255
        np.testing.assert_array_equal(labels, naive_labels(self.SLIDE, model=model, overlap=16))
        assert all(set(np.unique(level)) <= set(np.unique(labels)) for level in labels_of(result))

    def test_300_classes_not_analysed(self, run: Runs, tmp_path: Path) -> None:
        slide = ArraySlide(np.full((300, 400, 3), 255, np.uint8), mpp=0.5)
        report = run.report(slide, model="constant:255/300", skip_background=True)
        assert report.summary.analysed_mm2 == 0
        everything = run.report(slide, model="constant:255/300")
        assert everything.summary.classes[255].n_pixels == 300 * 400

    def test_255_classes_leave_one_value(self, run: Runs) -> None:
        result = run(self.SLIDE, model="constant:254/255")
        assert labels_of(result)[0].dtype == np.uint8
        assert (labels_of(result)[0] == 254).all()
        assert labels_of(run(self.SLIDE, model="constant:255/256"))[0].dtype == np.uint16

    @pytest.mark.parametrize("threshold", [0.5, 0.62])
    @pytest.mark.parametrize("stored", ["", "Sigmoid"])
    def test_one_channel_with_a_threshold(self, run: Runs, tmp_path: Path, threshold: float, stored: str) -> None:
        card = card_of(2, activation="probabilities" if stored else "sigmoid", threshold=threshold, mean=(0.3,) * 3)
        weight = np.array([[4.0, -3.0, 1.0]], np.float32)
        model = small_model(tmp_path / "one.onnx", card, weight, last=stored)
        labels = assert_as_naive(run, self.SLIDE, model=model, overlap=32, window="linear")
        assert set(np.unique(labels)) == {0, 1}

    @pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
    def test_channel_order_and_layout(self, run: Runs, tmp_path: Path, layout: str) -> None:
        """The network returns its input: class 0 is where the first channel that it sees is the largest."""
        for channels in ("RGB", "BGR"):
            card = card_of(3, channels=channels, layout=layout)
            model = small_model(tmp_path / f"{channels}.onnx", card, np.eye(3, dtype=np.float32), layout=layout)
            seen = self.SLIDE.read_region(Box(0, 0, 330, 460), 0)[..., :: 1 if channels == "RGB" else -1]
            labels = labels_of(run(self.SLIDE, model=model, overlap=32))[0]
            np.testing.assert_array_equal(labels, seen.argmax(2))

    def test_normalisation_of_the_user_wins(self, run: Runs, tmp_path: Path) -> None:
        model = small_model(tmp_path / "n.onnx", card_of(3, activation="softmax"), np.eye(3, dtype=np.float32))
        labels = labels_of(run(self.SLIDE, model=model, card={"mean": (0.9, 0.0, 0.0)}))[0]
        seen = self.SLIDE.read_region(Box(0, 0, 330, 460), 0) / 255 - (0.9, 0, 0)
        assert (labels == seen.argmax(2)).mean() > 0.999, "but for ties"

    def test_huge_halo(self, run: Runs, tmp_path: Path) -> None:
        """A halo of 107 px with tiles of 64: the tile grows, the labels are exact."""
        shape = networks.UnetShape(base_channels=2, depth=4, tile_size=64)
        model = str(networks.unet(tmp_path / "deep.onnx", shape))
        assert networks.unet_halo(4) == 107
        slide = ArraySlide(noise(500, 600, seed=4), mpp=0.5)
        assert_as_naive(run, slide, model=model, tile=None)

    def test_a_fixed_tile_too_small_for_the_halo_is_announced(self, run: Runs, tmp_path: Path) -> None:
        shape = networks.UnetShape(base_channels=2, depth=4, tile_size=64)
        model = str(networks.unet(tmp_path / "deep.onnx", shape))
        report = run.report(self.SLIDE, model=model, tile=128)
        assert any("not exact" in note for note in report.notes)
