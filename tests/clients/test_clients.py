"""Clients outside Python give the labels of the predictor, byte by byte."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.models_of_others import zoo
from wsi_seg.card import METADATA_KEY, ModelCard, named_classes
from wsi_seg.infer import ModelSpec, builtin_models, load_predictor

HERE = Path(__file__).parent
SLIDE = Path(__file__).parents[3] / "shared/data/slides/cmu-1-small-region/cmu-1-small-region.svs"
SIZE = (192, 256)
TIMEOUT_S = 120

Run = Callable[[Path, Path, Path], None]
"""Runs a client: model, pixels, labels to write."""


@pytest.fixture(scope="module")
def tile() -> NDArray[np.uint8]:
    """Epidermis and dermis at 0.5 um/px, (192, 256, 3)."""
    if not SLIDE.is_file():
        pytest.skip(f"no {SLIDE.name} in ../shared/data/slides")
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(SLIDE) as slide:
        return np.array(slide.read_region((800, 1000), 0, SIZE[::-1]).convert("RGB"))


def client_labels(run: Run, model: Path, tile: NDArray[np.uint8], folder: Path) -> NDArray[np.uint8]:
    pixels, labels = folder / "tile.rgb", folder / "labels.raw"
    pixels.write_bytes(tile.tobytes())
    run(model, pixels, labels)
    return np.frombuffer(labels.read_bytes(), np.uint8).reshape(tile.shape[:2])


def own_labels(model: Path, tile: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Labels, and where they hang on the last bits of a softmax or sigmoid that the client computes itself."""
    predictor = load_predictor(ModelSpec(str(model), runtime="onnxruntime"))
    probabilities = predictor.predict(tile[None])[0]
    if predictor.n_channels == 1:
        return probabilities[0] >= predictor.card.threshold, np.zeros(tile.shape[:2], bool)
    second, first = np.sort(probabilities, axis=0)[-2:]
    tied = (first - second < 1e-6) & (predictor.card.activation != "probabilities")
    return probabilities.argmax(0), tied


def assert_same(got: NDArray[np.uint8], own: tuple[NDArray[Any], NDArray[np.bool_]]) -> None:
    expected, tied = own
    np.testing.assert_array_equal(got[~tied], expected[~tied])
    assert (got != expected).mean() < 1e-4


def called(*command: object) -> None:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def card(**changes: Any) -> ModelCard:
    return ModelCard("m", 0.5, named_classes(["a", "b", "c"]), 64, halo=0).replaced(**changes)


def carrying(content: onnx.ModelProto, own: ModelCard, folder: Path) -> Path:
    onnx.helper.set_model_props(content, {METADATA_KEY: own.to_json()})
    onnx.save(content, folder / "model.onnx")
    return folder / "model.onnx"


def one_channel(folder: Path) -> Path:
    nodes, tensors = zoo.linear("x", "t")
    tensors.append(zoo.integers("first", 0))
    nodes.append(onnx.helper.make_node("Gather", ["t", "first"], ["g"], axis=1))
    nodes.append(onnx.helper.make_node("Sigmoid", ["g"], ["y"]))
    content = zoo.model(nodes, tensors, {"x": (zoo.FLOAT, zoo.IMAGE)}, {"y": (zoo.FLOAT, ("N", 1, "H", "W"))})
    return carrying(content, card(classes=named_classes(["no", "yes"]), threshold=0.8), folder)


def with_none_of_them(folder: Path) -> Path:
    own = card(classes=named_classes(["none", "a", "b", "c"]), threshold=0.7, std=(0.9, 0.8, 1.1))
    return carrying(zoo.chain(("Sigmoid", {})), own, folder)


def channels_last(folder: Path) -> Path:
    own = card(layout="NHWC", channels="BGR", mean=(0.7, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    return carrying(zoo.turned(True, True), own, folder)


def logits_and_a_card_beside(folder: Path) -> Path:
    onnx.save(zoo.chain(), folder / "model.onnx")
    (folder / "card.json").write_text(card(activation="softmax", mean=(0.7, 0.5, 0.6)).to_json())
    return folder / "model.onnx"


def named_output(folder: Path) -> Path:
    return carrying(zoo.two_outputs(), card(output="classes"), folder)


MODELS: dict[str, Callable[[Path], Path]] = {
    "nuclei": lambda folder: builtin_models()["nuclei"],
    "he-stain": lambda folder: builtin_models()["he-stain"],
    "one channel and a threshold": one_channel,
    "independent classes and none of them": with_none_of_them,
    "channels last, blue first": channels_last,
    "logits, the card beside them": logits_and_a_card_beside,
    "two outputs": named_output,
}


@pytest.fixture(scope="module")
def node() -> Run:
    if shutil.which("node") is None:
        pytest.skip("node is not here: the Node client cannot be tried")
    if not (HERE / "node/node_modules/onnxruntime-node").is_dir():
        pytest.skip("onnxruntime-node is not installed (make test does it where npm can): the client cannot be tried")
    return lambda model, pixels, labels: called("node", HERE / "node/segment.mjs", model, pixels, *SIZE[::-1], labels)


@pytest.mark.parametrize("name", MODELS)
def test_the_node_client_gives_the_same_label_map(
    name: str, node: Run, tile: NDArray[np.uint8], tmp_path: Path
) -> None:
    model = MODELS[name](tmp_path)
    own = own_labels(model, tile)
    assert 0.01 < (own[0] == own[0].flat[0]).mean() < 0.99
    assert_same(client_labels(node, model, tile, tmp_path), own)


@pytest.fixture(scope="module")
def csharp(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The C# client over the stand-in for ONNX Runtime."""
    if shutil.which("mcs") is None or shutil.which("mono") is None:
        pytest.skip("no C# compiler here (Debian: mono-mcs, mono-runtime): the C# client cannot be compiled")
    program = tmp_path_factory.mktemp("csharp") / "client.exe"
    sources = HERE / "csharp/Program.cs", HERE / "csharp/stand_in/OnnxRuntime.cs"
    called("mcs", "-langversion:7", "-r:System.Runtime.Serialization", f"-out:{program}", *sources)
    return lambda model, pixels, labels: called("mono", program, model, pixels, *SIZE[::-1], labels)


CARDS = {
    "as it is": card(),
    "normalised, blue first": card(channels="BGR", mean=(0.7, 0.5, 0.6), std=(0.2, 0.25, 0.3), activation="softmax"),
    "channels last": card(layout="NHWC", activation="sigmoid", mean=(0.8, 0.6, 0.7)),
    "independent classes and none of them": card(
        classes=named_classes(["none", "a", "b", "c"]), threshold=0.6, mean=(0.5,) * 3, activation="sigmoid"
    ),
}


@pytest.mark.parametrize("inside", [True, False], ids=["card inside", "card beside"])
@pytest.mark.parametrize("name", CARDS)
def test_the_csharp_client_gives_the_same_label_map(
    name: str, inside: bool, csharp: Run, tile: NDArray[np.uint8], tmp_path: Path
) -> None:
    own = CARDS[name]
    dims = ("N", 3, "H", "W") if own.layout == "NCHW" else ("N", "H", "W", 3)
    same = [onnx.helper.make_node("Identity", ["x"], ["y"])]
    model = carrying(zoo.model(same, [], {"x": (zoo.FLOAT, dims)}, {"y": (zoo.FLOAT, dims)}), own, tmp_path)
    own_result = own_labels(model, tile)
    model.with_name("model.onnx.metadata" if inside else "card.json").write_text(own.to_json())
    assert len(np.unique(own_result[0])) > 1
    assert_same(client_labels(csharp, model, tile, tmp_path), own_result)
