"""The judge of label maps: crops are the whole forward pass, and what differs or is missing counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import openslide
import pytest

from benchmarks import networks, reference
from wsi_seg.infer import ModelSpec, read_card

SHAPE = networks.UnetShape(base_channels=4, depth=2, tile_size=128)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> reference.Network:
    model = networks.unet(tmp_path_factory.mktemp("model") / "unet.onnx", SHAPE)
    return reference.Network(model, read_card(ModelSpec(str(model))))


def whole(network: reference.Network, picture: np.ndarray) -> np.ndarray:
    """Labels of one forward pass; sides are multiples of the stride."""
    values = ((picture.astype(np.float32) / 255 - 0.5) / 0.25).transpose(2, 0, 1)[None]
    session = onnxruntime.InferenceSession(str(network.model), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": values})[0][0].argmax(axis=0)


def put_together(network: reference.Network, picture: np.ndarray, crop: int) -> np.ndarray:
    out = np.full(picture.shape[:2], 99, np.uint8)
    read = lambda y, x, h, w: picture[y : y + h, x : x + w]  # noqa: E731
    for y, x, labels, seen in network.labels(picture.shape[:2], read, crop):
        assert np.array_equal(seen, picture[y : y + labels.shape[0], x : x + labels.shape[1]])
        out[y : y + labels.shape[0], x : x + labels.shape[1]] = labels
    return out


def test_crops_are_the_whole_forward_pass(network: reference.Network) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (340, 212, 3), np.uint8)
    expected = whole(network, picture)
    assert len(np.unique(expected)) > 1
    assert (put_together(network, picture, 64) != expected).mean() < 1e-4  # sums in another order at a tie


def test_crops_with_too_little_around_them_are_not(network: reference.Network) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (340, 212, 3), np.uint8)
    short = reference.Network(network.model, network.card.replaced(halo=4))
    assert (put_together(short, picture, 64) != whole(network, picture)).mean() > 1e-3


def test_px_with_two_best_classes_are_not_judged(tmp_path: Path) -> None:
    model = networks.identity(tmp_path / "identity.onnx")
    network = reference.Network(model, read_card(ModelSpec(str(model))))
    picture = np.array([[[9, 5, 5], [5, 9, 5], [5, 9, 9], [9, 5, 9], [7, 7, 7]]], np.uint8)
    assert put_together(network, picture, 64).tolist() == [[0, 1, 255, 255, 255]]


def test_tissue_alone_is_judged_and_not_at_the_edge(
    network: reference.Network, small_slide: Path, tmp_path: Path
) -> None:
    judged = np.load(reference.judged_labels(small_slide, network, tmp_path / "judged.npy"))
    with openslide.OpenSlide(small_slide) as slide:
        picture = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    assert judged.shape == picture.shape[:2]
    assert (judged[: network.card.halo] == reference.NOT_JUDGED).all()
    inner = np.s_[200:-200, 200:-200]
    assert 0.3 < (judged[inner] != reference.NOT_JUDGED).mean() < 1
    glass = judged[inner] == reference.NOT_JUDGED
    assert picture[inner][glass].mean() > 225 > picture[inner][~glass].mean()


def test_a_cell_at_the_edge_is_judged_by_the_px_it_has() -> None:
    picture = np.full((20, 40, 3), 245, np.uint8)
    picture[16:, 32:] = (200, 120, 160)
    found = reference.tissue(picture)
    assert found[16:, 32:].all()
    assert found.sum() == 4 * 8


def test_what_differs_or_is_missing_counts() -> None:
    judged = np.array([[0, 1, 255], [2, 2, 255]], np.uint8)
    assert reference.disagreement(judged, np.array([[0, 1, 7], [2, 2, 7]])) == 0
    assert reference.disagreement(judged, np.array([[0, 0, 7], [2, 2, 7]])) == 25
    assert reference.disagreement(judged, np.array([[0, 1, 7]])) == 50
    assert reference.disagreement(judged, np.array([[0], [2]])) == 50
    assert reference.disagreement(judged, np.array([[0, 1, 9, 9], [2, 2, 9, 9], [1, 1, 1, 1]]), band=1) == 0
    with pytest.raises(ValueError, match="no px of tissue"):
        reference.disagreement(np.full((2, 2), 255, np.uint8), np.zeros((2, 2)))
