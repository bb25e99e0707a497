"""The embedded default model: its numbers, its export, and what it sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from wsi_seg.card import METADATA_KEY, ModelCard, named_classes  # noqa: E402
from wsi_seg.model.he_stain import CARD, EOSIN, HAEMATOXYLIN, HeStain, unmixing_matrix  # noqa: E402
from wsi_seg.model.onnx_export import export_onnx  # noqa: E402

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "wsi_seg/infer/builtin/he-stain.onnx"
SLIDE = ROOT.parent / "shared/data/slides/cmu-1-small-region/cmu-1-small-region.svs"


def predict(pixels: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 -> (N, 3, H, W)."""
    with torch.inference_mode():
        return HeStain()(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255).numpy()


def patch(colour: tuple[int, int, int], side: int = 32) -> np.ndarray:
    return np.full((1, side, side, 3), colour, np.uint8)


def test_unmixing_recovers_the_amounts_of_stain() -> None:
    unit = [np.array(stain) / np.linalg.norm(stain) for stain in (HAEMATOXYLIN, EOSIN)]
    density = 1.5 * unit[0] + 0.4 * unit[1]
    np.testing.assert_allclose(density @ unmixing_matrix(), [1.5, 0.4, 0.0], atol=1e-12)


def test_the_network_is_the_formula_in_float64() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    amounts = np.pad(-np.log((pixels[0] + 1.0) / 256) @ unmixing_matrix(), ((2, 2), (2, 2), (0, 0)))
    ramp = np.exp(-((np.arange(5) - 2.0) ** 2) / 2)
    window = np.outer(ramp, ramp) / np.outer(ramp, ramp).sum()
    views = np.lib.stride_tricks.sliding_window_view(amounts, (5, 5), (0, 1))
    h, e, _ = np.einsum("yxcij,ij->cyx", views, window)
    logits = np.stack([4 - 16 * h - 16 * e, 0 * h, 6 * h - 1.5 * e - 11.7])
    expected = np.exp(logits - logits.max(0)) / np.exp(logits - logits.max(0)).sum(0)
    np.testing.assert_allclose(predict(pixels)[0], expected, atol=2e-5)


@pytest.mark.parametrize(
    ("colour", "label"),
    [((255, 255, 255), 0), ((240, 240, 240), 0), ((204, 96, 134), 1), ((225, 150, 190), 1), ((70, 45, 100), 2)],
    ids=["paper white", "glass", "collagen", "pale eosin", "nucleus"],
)
def test_plain_colours(colour: tuple[int, int, int], label: int) -> None:
    assert (predict(patch(colour)).argmax(1)[0, 4:-4, 4:-4] == label).all()


def test_the_halo_of_the_card_is_the_reach_of_a_pixel() -> None:
    base = patch((200, 120, 170))
    changed = base.copy()
    changed[0, 16, 16] = 0
    rows = np.flatnonzero((predict(base) != predict(changed)).any((0, 1, 3)))
    assert (rows[0], rows[-1]) == (16 - CARD.halo, 16 + CARD.halo)


def test_the_shipped_program_is_this_module() -> None:
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    stored = {entry.key: entry.value for entry in onnx.load(SHIPPED).metadata_props}[METADATA_KEY]
    assert ModelCard.from_json(stored, "shipped") == CARD
    session = ort.InferenceSession(str(SHIPPED), providers=["CPUExecutionProvider"])
    for shape in ((1, 64, 64, 3), (3, 48, 80, 3)):
        pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
        image = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32) / 255
        np.testing.assert_allclose(session.run(None, {"image": image})[0], predict(pixels), atol=1e-6)


def test_the_shipped_program_names_no_machine() -> None:
    content = SHIPPED.read_bytes()
    assert len(content) < 10_000
    assert b".py" not in content
    assert b"site-packages" not in content


def test_an_export_keeps_stride_and_card(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.MaxPool2d(4), torch.nn.Upsample(scale_factor=4)).eval()
    card = ModelCard("net", 0.5, named_classes(["a", "b"]), 64, output_stride=4)
    export_onnx(net, card, tmp_path / "net.onnx")
    stored = {entry.key: entry.value for entry in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert ModelCard.from_json(stored[METADATA_KEY], "net") == card
    session = ort.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).random((1, 3, 32, 96), np.float32)
    with torch.inference_mode():
        expected = net(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(session.run(None, {"image": image})[0], expected, atol=1e-6)


def test_a_real_slide_has_glass_stroma_and_nuclei() -> None:
    if not SLIDE.is_file():
        pytest.skip(f"no {SLIDE.name} in ../shared/data/slides")
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(SLIDE) as slide:
        glass, dermis, basal = (
            np.array(slide.read_region(corner, 0, (128, 128)).convert("RGB"))[None]
            for corner in ((1700, 100), (900, 1200), (1120, 1140))
        )
    shares = [np.bincount(predict(tile).argmax(1).ravel(), minlength=3) / 128**2 for tile in (glass, dermis, basal)]
    assert shares[0][0] == 1
    assert shares[1][1] > 0.8
    assert shares[1][2] < 0.1
    assert 0.1 < shares[2][2] < 0.5
