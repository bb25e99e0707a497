"""Every habit of other people's models either runs right, on both runtimes, or is refused by a sentence that helps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.models_of_others import zoo
from tests.whole_runs import Program
from wsi_seg.card import named_classes
from wsi_seg.errors import CardError, ModelError, ModelLoadError, PredictorError
from wsi_seg.infer import CardOverrides, ModelSpec, load_predictor, measure_halo, model_notes, model_sha256
from wsi_seg.infer.program import onnx_file
from wsi_seg.sample import write_synthetic

RUNTIMES = ("openvino", "onnxruntime")
SIDE = 64
NAMES = ["a", "b", "c"]
PADDLE = Path(__file__).parent

Floats = NDArray[np.float64]
Oracle = Callable[[NDArray[np.uint8]], Floats]


def soft(batch: NDArray[np.uint8]) -> Floats:
    power = np.exp(zoo.logits(batch))
    return power / power.sum(1, keepdims=True)


def sigmoid(batch: NDArray[np.uint8]) -> Floats:
    return 1 / (1 + np.exp(-zoo.logits(batch)))


def votes(batch: NDArray[np.uint8]) -> Floats:
    return np.eye(3)[zoo.logits(batch).argmax(1)].transpose(0, 3, 1, 2)


def none_before(batch: NDArray[np.uint8]) -> Floats:
    values = sigmoid(batch)
    return np.concatenate([np.full_like(values[:, :1], (round(0.6 * 65535) - 1) / 65535), values], axis=1)


def with_coarse_part(step: int, share: float) -> Oracle:
    def expected(batch: NDArray[np.uint8]) -> Floats:
        fine = zoo.logits(batch)
        n, c, h, w = fine.shape
        mean = fine.reshape(n, c, h // step, step, w // step, step).mean((3, 5))
        power = np.exp(fine + share * mean.repeat(step, 2).repeat(step, 3))
        return power / power.sum(1, keepdims=True)

    return expected


def normalised(batch: NDArray[np.uint8]) -> Floats:
    fine = zoo.logits(batch)
    power = np.exp((fine - fine.mean((2, 3), keepdims=True)) / np.sqrt(fine.var((2, 3), keepdims=True) + 1e-5))
    return power / power.sum(1, keepdims=True)


def excited(batch: NDArray[np.uint8]) -> Floats:
    fine = zoo.logits(batch)
    power = np.exp(fine / (1 + np.exp(-fine.mean((2, 3), keepdims=True))))
    return power / power.sum(1, keepdims=True)


@dataclass(frozen=True)
class Habit:
    """A model, what is stated of it, and what it is to answer."""

    build: Callable[[Path], onnx.ModelProto]
    expected: Oracle = soft
    stated: dict[str, Any] = field(default_factory=dict)
    stride: int = 1
    tolerance: float = 2e-6
    notes: str = ""
    runtimes: tuple[str, ...] = RUNTIMES


SOFTMAX, ARGMAX = ("Softmax", {"axis": 1}), ("ArgMax", {"axis": 1, "keepdims": 0})
KEPT = ("ArgMax", {"axis": 1, "keepdims": 1})
RAW: dict[str, Any] = {"mean": None, "std": None}
INT32, INT64 = onnx.TensorProto.INT32, onnx.TensorProto.INT64
MORE = {"classes": named_classes(["none", *NAMES]), "threshold": 0.6}

RUNS: dict[str, Habit] = {
    "weights in a file beside it": Habit(lambda at: zoo.outside(zoo.chain(SOFTMAX), at)),
    "weights in a folder below, with offset and length": Habit(
        lambda at: zoo.outside(zoo.chain(SOFTMAX), at, "below/w.bin", offset=0, length=36)
    ),
    "everything in a file beside it, the scales of a Resize too": Habit(
        lambda at: zoo.all_outside(zoo.multiples_of(32), at), with_coarse_part(32, 0.2), {"tile_size": 128}, stride=32
    ),
    "and the same as constants": Habit(
        lambda at: zoo.all_outside(zoo.multiples_of(32), at, constants=True), with_coarse_part(32, 0.2),
        {"tile_size": 128}, stride=32,
    ),
    "the axes of a reduction in a file beside it": Habit(
        lambda at: zoo.all_outside(zoo.squeeze_excite("ReduceMean"), at), excited, tolerance=1e-5,
        notes="looks at whole tiles (ReduceMean)",
    ),
    "a fixed tile and batch": Habit(
        lambda at: zoo.chain(SOFTMAX, image=(2, 3, SIDE, SIDE), result=(2, 3, SIDE, SIDE)), stated={"tile_size": None}
    ),
    "channels last in and out": Habit(lambda at: zoo.turned(True, True)),
    "channels last, in only": Habit(lambda at: zoo.turned(True, False)),
    "channels last, out only": Habit(lambda at: zoo.turned(False, True)),
    "logits of classes that exclude each other": Habit(lambda at: zoo.chain(), stated={"activation": "softmax"}),
    "logits of classes that may overlap": Habit(
        lambda at: zoo.chain(), sigmoid, {"activation": "sigmoid"}, notes="however improbable; name one class more"
    ),
    "overlapping classes and none of them": Habit(
        lambda at: zoo.chain(("Sigmoid", {})), none_before, MORE, notes="or 'none' where all are below 0.6"
    ),
    "overlapping logits and none of them": Habit(
        lambda at: zoo.chain(), none_before, {**MORE, "activation": "sigmoid"}, notes="may overlap"
    ),
    "several outputs of which one is named": Habit(lambda at: zoo.two_outputs(), stated={"output": "classes"}),
    "axes with odd names": Habit(
        lambda at: zoo.chain(SOFTMAX, image=("unk__6", 3, "s.0", "s.0"), result=("o:1", 3, "DynamicDimension.3", "?"))
    ),
    "axes of size -1": Habit(lambda at: zoo.chain(SOFTMAX, image=(-1, 3, -1, -1), result=(-1, 3, -1, -1))),
    "axes that have no name": Habit(
        lambda at: zoo.chain(SOFTMAX, image=(None, None, None, None), result=(None,) * 4), stated={"layout": "NCHW"}
    ),
    "raw uint8": Habit(lambda at: zoo.of_bytes(False), stated=RAW),
    "raw uint8, and std as a rounded number": Habit(
        lambda at: zoo.of_bytes(False), stated={"mean": (0.0,) * 3, "std": (0.0039217,) * 3}
    ),
    "raw uint8, blue first": Habit(
        lambda at: zoo.of_bytes(False), lambda batch: soft(batch[..., ::-1]), {**RAW, "channels": "BGR"}
    ),
    "raw uint8, channels last": Habit(lambda at: zoo.of_bytes(True), stated=RAW),
    "half precision in and out": Habit(
        lambda at: zoo.chain(SOFTMAX, kind=zoo.HALF, gives=zoo.HALF), tolerance=4e-3
    ),
    "class indices, int64, without a channel axis": Habit(
        lambda at: zoo.chain(ARGMAX, gives=INT64, result=("N", "H", "W")), votes, notes="vote"
    ),
    "class indices, int32, with a channel axis": Habit(
        lambda at: zoo.chain(KEPT, ("Cast", {"to": INT32}), gives=INT32, result=("N", 1, "H", "W")), votes, notes="vote"
    ),
    "class indices, int64, channel axis last": Habit(
        lambda at: zoo.chain(KEPT, ("Transpose", {"perm": [0, 2, 3, 1]}), gives=INT64, result=("N", "H", "W", 1)),
        votes, notes="vote",
    ),
    "class indices as float": Habit(
        lambda at: zoo.chain(KEPT, ("Cast", {"to": zoo.FLOAT}), result=("N", 1, "H", "W")), votes, notes="vote"
    ),
    "sides that are a multiple of 32": Habit(
        lambda at: zoo.multiples_of(32), with_coarse_part(32, 0.2), {"tile_size": 128}, stride=32
    ),
    "such sides, hardly visible in the values": Habit(
        lambda at: zoo.multiples_of(32, 1e-6), with_coarse_part(32, 1e-6), {"tile_size": 128}, stride=32
    ),
    "instance norm": Habit(
        lambda at: zoo.instance_norm(), normalised, {"output_stride": 1}, tolerance=1e-5,
        notes="looks at whole tiles (InstanceNormalization)",
    ),
    "squeeze and excite": Habit(
        lambda at: zoo.squeeze_excite(), excited, tolerance=1e-5, notes="looks at whole tiles (GlobalAveragePool)"
    ),
    "squeeze and excite by a reduction": Habit(
        lambda at: zoo.squeeze_excite("ReduceMean"), excited, tolerance=1e-5, notes="looks at whole tiles (ReduceMean)"
    ),
    "an operator that the file defines": Habit(
        lambda at: zoo.strange_operator("my.own", local=True),
        lambda batch: soft(batch) ** 2 / (soft(batch) ** 2).sum(1, keepdims=True), runtimes=("auto", "onnxruntime"),
    ),
    "an operator of ONNX Runtime alone": Habit(
        lambda at: zoo.contributed_operator(), stated={"tile_size": None}, runtimes=("auto", "onnxruntime")
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tiles of tissue at 0.5 um/px, 170 x 100 px."""
    path = tmp_path_factory.mktemp("slide") / "tiny.tif"
    write_synthetic(path, (100, 170), mpp=0.5, seed=3, tissue_fraction=0.7)
    return path


def saved(build: Callable[[Path], onnx.ModelProto], folder: Path) -> str:
    onnx.save(build(folder), folder / "model.onnx")
    return str(folder / "model.onnx")


def stated(changes: dict[str, Any]) -> CardOverrides:
    facts = {
        "mpp": 0.5, "classes": named_classes(NAMES), "mean": (0.0,) * 3, "std": (1.0,) * 3, "tile_size": SIDE, **changes
    }  # fmt: skip
    return CardOverrides(**facts)


@pytest.mark.parametrize("name", RUNS)
def test_it_runs_right(name: str, tmp_path: Path, tissue_like: Callable[..., np.ndarray]) -> None:
    habit = RUNS[name]
    path = saved(habit.build, tmp_path)
    for runtime in habit.runtimes:
        predictor = load_predictor(ModelSpec(path, runtime=runtime, card=stated(habit.stated)))
        assert predictor.card.output_stride == habit.stride
        batch = tissue_like(2 if habit.runtimes == RUNTIMES else 1, predictor.card.tile_size)
        np.testing.assert_allclose(predictor.predict(batch), habit.expected(batch), atol=habit.tolerance)


@pytest.mark.parametrize("name", RUNS)
def test_it_runs_over_a_slide(name: str, tmp_path: Path, tiny_slide: Path, wsi_seg: Program) -> None:
    habit = RUNS[name]
    path = saved(habit.build, tmp_path)
    left = wsi_seg(
        "run",
        tiny_slide,
        "--out",
        tmp_path / "x.seg.zarr",
        *options(path, {"output_stride": habit.stride, **habit.stated}),
    )
    assert left.code == 0, left.err
    report = json.loads(left.out)
    assert set(report["tiles"]) >= {"done"}
    assert report["tiles"]["done"] == sum(report["tiles"].values())
    assert habit.notes in " ".join(report["notes"])
    assert ("looks at whole tiles" in " ".join(report["notes"])) == ("whole tiles" in habit.notes)


def options(path: str, stated: dict[str, Any]) -> list[Any]:
    """What is stated of a model as options of the command line."""
    facts = {"mean": (0.0,), "std": (1.0,), "tile_size": SIDE, "output_stride": 1, **stated}
    names = ",".join(entry.name for entry in facts.pop("classes", named_classes(NAMES)))
    words = {"tile_size": "--tile", "output_stride": "--output-stride"}
    given: list[Any] = ["--model", path, "--model-mpp", "0.5", "--classes", names, "--no-skip", "--json"]
    for key, value in facts.items():
        text = ",".join(str(part) for part in value) if isinstance(value, tuple) else value
        given += [] if value is None else [words.get(key, f"--{key}"), text]
    return given


@dataclass(frozen=True)
class Refusal:
    """A model, what is stated of it, and the parts of the sentence that it is refused with."""

    build: Callable[[Path], onnx.ModelProto]
    words: tuple[str, ...]
    stated: dict[str, Any] = field(default_factory=dict)
    error: type[ModelError] = ModelLoadError


def lying(dims: tuple[int, ...]) -> Callable[[Path], onnx.ModelProto]:
    def build(at: Path) -> onnx.ModelProto:
        content = zoo.chain(SOFTMAX)
        content.graph.initializer[0].ClearField("dims")
        content.graph.initializer[0].dims.extend(dims)
        return content

    return build


LIE = ("has 36 bytes for FLOAT", "as many values as its dimensions say", "fetch it again")
BESIDE = ("keeps weights in 'weights.bin'", "plain file in the folder of the program", "save the model as one file")

REFUSED: dict[str, Refusal] = {
    "several outputs": Refusal(
        lambda at: zoo.two_outputs(),
        ("several outputs: coarse (?, 3, ?, ?), classes (?, 3, ?, ?)", "never guessed", "--output"),
    ),
    "an output that is not there": Refusal(
        lambda at: zoo.two_outputs(), ("has no output 'main'; it has coarse (?, 3, ?, ?), classes",), {"output": "main"}
    ),
    "several inputs": Refusal(
        lambda at: zoo.two_inputs(), ("has 2 inputs: x (?, 3, ?, ?), factor (1)", "as constants inside the program")
    ),
    "an answer at a quarter of the resolution": Refusal(
        lambda at: zoo.coarse(), ("at 1/4 of the resolution", "functional.interpolate"), error=PredictorError
    ),
    "tiles that are not square": Refusal(
        lambda at: zoo.chain(SOFTMAX, image=(1, 3, 64, 128)),
        ("takes 128 x 64 px (width x height) only", "tiles are square", "dynamic height and width"),
        {"tile_size": None},
    ),
    "a card that contradicts the fixed tile": Refusal(
        lambda at: zoo.chain(SOFTMAX, image=(1, 3, 128, 128)),
        ("tile_size 64", "takes exactly 128 px", "state tile_size 128"), error=CardError,
    ),
    "a tile that no memory holds": Refusal(
        lambda at: zoo.chain(SOFTMAX, image=(1, 3, 2**20, 2**20)),
        ("batches of 1 x 1048576 x 1048576 px", "with smaller ones"), {"tile_size": None},
    ),
    "a batch that no memory holds": Refusal(  # of the card's tiles: the program itself demands only their number
        lambda at: zoo.chain(SOFTMAX, image=(2**16 - 1, 3, "H", "W")),
        ("batches of 65535 x 64 x 64 px", "33554432 in a batch of several", "with smaller ones"),
    ),
    "one grey channel": Refusal(
        lambda at: zoo.chain(SOFTMAX, image=("N", 1, "H", "W")),
        ("whose input is (?, 1, ?, ?)", "takes RGB images"), {"layout": "NCHW"}, CardError,
    ),
    "the other layout than stated": Refusal(
        lambda at: zoo.turned(True, True), ("layout NCHW", "give --layout NHWC"), {"layout": "NCHW"}, CardError
    ),
    "double precision": Refusal(
        lambda at: zoo.chain(SOFTMAX, kind=onnx.TensorProto.DOUBLE),
        ("is float64", "programs take float32, float16, uint8", "export it so"),
    ),
    "raw uint8 and a mean": Refusal(
        lambda at: zoo.of_bytes(False), ("takes pixels as they are", "leave mean and std out"), {"mean": (0.5,) * 3},
        CardError,
    ),
    "a softmax after a softmax": Refusal(
        lambda at: zoo.chain(SOFTMAX), ("whose program ends in Softmax", "use activation probabilities"),
        {"activation": "softmax"}, CardError,
    ),
    "a sigmoid after an argmax": Refusal(
        lambda at: zoo.chain(ARGMAX, gives=INT64, result=("N", "H", "W")),
        ("whose program ends in ArgMax", "use activation probabilities"), {"activation": "sigmoid"}, CardError,
    ),
    "logits that are called probabilities": Refusal(
        lambda at: zoo.chain(),
        ("gave values", "--activation softmax for classes that exclude each other", "--activation sigmoid for"),
        {"activation": "probabilities"}, PredictorError,
    ),
    "a class more than a softmax has": Refusal(
        lambda at: zoo.chain(SOFTMAX), ("3 output channels but 4 classes", "--classes with 3 names"), MORE, CardError
    ),
    "two classes fewer than sigmoids": Refusal(
        lambda at: zoo.chain(("Sigmoid", {})),
        ("give --classes with 3 names, or 4 of which the first means none of them",),
        {"classes": named_classes(["a", "b"])}, CardError,
    ),
    "class indices beyond the classes": Refusal(
        lambda at: zoo.chain(ARGMAX, gives=INT64, result=("N", "H", "W")),
        ("gives the class index 2", "there are 2 classes", "a name for every index"),
        {"classes": named_classes(["a", "b"])}, PredictorError,
    ),
    "integers that are no indices": Refusal(
        lambda at: zoo.chain(("Cast", {"to": INT32}), gives=INT32),
        ("gives integers of shape (1, 3, 64, 64)", "with probabilities as its output"), error=PredictorError,
    ),
    "sides that do not suit it": Refusal(
        lambda at: zoo.multiples_of(32), ("fails on tiles of 80 x 80 px", "of 32 or 64", "--output-stride 32"),
        {"tile_size": 80, "output_stride": 1}, PredictorError,
    ),
    "an operator of a foreign library": Refusal(
        lambda at: zoo.strange_operator("mmdeploy"),
        ("the custom operators mmdeploy.Twice", "foreign code is never loaded", "standard ONNX operators"),
    ),
    "weights that are missing": Refusal(
        lambda at: unlinked(zoo.outside(zoo.chain(SOFTMAX), at), at / "weights.bin"), BESIDE
    ),
    "weights that are cut off": Refusal(lambda at: zoo.outside(zoo.chain(SOFTMAX), at, offset=8), LIE[1:]),
    "weights that begin before their file": Refusal(lambda at: zoo.outside(zoo.chain(SOFTMAX), at, offset=-4), LIE[1:]),
    "weights longer than they say": Refusal(lambda at: zoo.outside(zoo.chain(SOFTMAX), at, length=32), LIE[1:]),
    "dimensions beyond the values": Refusal(lying((3, 3, 1, 2)), LIE),
    "dimensions beyond any memory": Refusal(lying((2**40, 2**40)), LIE),
    "dimensions below zero": Refusal(lying((-3, -3)), LIE),
}  # fmt: skip


def unlinked(content: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    path.unlink()
    return content


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_a_sentence(name: str, runtime: str, tmp_path: Path) -> None:
    refusal = REFUSED[name]
    path = saved(refusal.build, tmp_path)
    with pytest.raises(refusal.error) as caught:
        load_predictor(ModelSpec(path, runtime=runtime, card=stated(refusal.stated)))
    assert [part for part in refusal.words if part not in str(caught.value)] == []
    assert caught.value.remedy


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_for_a_slide_and_nothing_is_left(
    name: str, tmp_path: Path, tiny_slide: Path, wsi_seg: Program
) -> None:
    refusal = REFUSED[name]
    path = saved(refusal.build, tmp_path)
    before = set(tmp_path.iterdir())
    left = wsi_seg("run", tiny_slide, "--out", tmp_path / "x.seg.zarr", *options(path, refusal.stated))
    assert left.code in (1, 2)
    assert left.err.startswith("error: ")
    assert "\n  try:  " in left.err
    assert set(tmp_path.iterdir()) == before


def test_a_file_beyond_two_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)  # a hole: takes no space
    with pytest.raises(ModelLoadError, match=r"has 3\.2 GB.*external data beside it"):
        load_predictor(ModelSpec(str(path)))


@pytest.mark.parametrize(("asked", "said"), [(("--tile", 128), "--tile 128"), (("--batch", 3), "--batch-size 3")])
def test_options_that_contradict_a_fixed_program_are_refused(
    asked: tuple[Any, ...], said: str, tmp_path: Path, tiny_slide: Path, wsi_seg: Program
) -> None:
    habit = RUNS["a fixed tile and batch"]
    left = wsi_seg("plan", tiny_slide, *options(saved(habit.build, tmp_path), habit.stated), *asked)
    assert left.code == 2
    assert f"error: {said}\n" in left.err
    assert "takes exactly" in left.err
    assert "leave" in left.err


def test_the_plan_follows_a_fixed_program(tmp_path: Path, tiny_slide: Path, wsi_seg: Program) -> None:
    habit = RUNS["a fixed tile and batch"]
    plan = wsi_seg("plan", tiny_slide, *options(saved(habit.build, tmp_path), habit.stated), "--halo", 24)
    identity = json.loads(plan.out)["identity"]
    assert identity["batch"] == 2
    assert identity["grid"]["tile"] == SIDE, "not enlarged for its halo: it takes no other"


REDUCED: dict[str, tuple[str, dict[str, Any], bool]] = {
    "height and width as an attribute": ("ReduceMax", {"axes": [2, 3]}, True),
    "counted from the end": ("ReduceMax", {"axes": [-1, -2]}, True),
    "channels as an attribute": ("ReduceMax", {"axes": [1]}, False),
    "height alone": ("ReduceMax", {"axes": [2]}, False),
    "everything": ("ReduceMax", {}, True),
    "layer norm from the channels on": ("LayerNormalization", {"axis": 1}, True),
    "layer norm of rows": ("LayerNormalization", {"axis": -1}, False),
    "global pooling": ("GlobalMaxPool", {}, True),
}


@pytest.mark.parametrize("name", REDUCED)
def test_what_looks_at_whole_tiles_is_found_in_the_graph(name: str, tmp_path: Path) -> None:
    operator, attributes, wide = REDUCED[name]
    content = zoo.chain((operator, attributes))
    content.opset_import[0].version = 17  # the last with axes as an attribute
    if operator == "LayerNormalization":
        content.graph.node[-1].input.append("t0.bias")
    onnx.save(content, tmp_path / "m.onnx")
    assert onnx_file.read_signature(tmp_path / "m.onnx").tile_wide == ((operator,) if wide else ())


def test_large_weights_stay_outside(tmp_path: Path) -> None:
    """They may be larger than what a message of protobuf can hold."""
    content = zoo.multiples_of(4)
    nodes = content.graph.node
    nodes[-1].input[0] = "w"
    nodes.insert(len(nodes) - 1, onnx.helper.make_node("Add", ["s", "large"], ["w"]))
    large = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    content.graph.initializer.append(onnx.numpy_helper.from_array(large, "large"))
    onnx.save(zoo.all_outside(content, tmp_path), tmp_path / "model.onnx")
    inside = onnx_file.with_small_inside(tmp_path / "model.onnx")
    assert inside is not None
    assert len(inside) < 2000
    batch = np.full((1, SIDE, SIDE, 3), 100, np.uint8)
    found = [
        load_predictor(ModelSpec(str(tmp_path / "model.onnx"), runtime=runtime, card=stated({"output_stride": 4})))
        .predict(batch)
        for runtime in RUNTIMES
    ]  # fmt: skip
    np.testing.assert_allclose(*found, atol=2e-6)
    power = np.exp(np.log(with_coarse_part(4, 0.2)(batch)) + large)
    np.testing.assert_allclose(found[0], power / power.sum(1, keepdims=True), atol=1e-5)
    assert onnx_file.with_small_inside(PADDLE / "paddle_softmax.onnx") is None


def test_weights_outside_are_part_of_the_hash(tmp_path: Path) -> None:
    path = saved(RUNS["weights in a folder below, with offset and length"].build, tmp_path)
    before = model_sha256(ModelSpec(path))
    content = bytearray((tmp_path / "below/w.bin").read_bytes())
    content[0] ^= 1
    (tmp_path / "below/w.bin").write_bytes(content)
    assert model_sha256(ModelSpec(path)) != before


def test_none_of_them_wins_below_the_threshold_and_not_at_it(tmp_path: Path) -> None:
    path = saved(RUNS["overlapping logits and none of them"].build, tmp_path)
    pixels = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    pixels[0, :8] = (255, 0, 0)
    best = float(sigmoid(pixels)[0, 0, 0, 0])
    for threshold, label in ((best - 1e-4, 1), (best + 1e-4, 0)):
        card = stated({**MORE, "threshold": threshold, "activation": "sigmoid"})
        assert (load_predictor(ModelSpec(path, card=card)).predict(pixels)[0, :, :8].argmax(0) == label).all()


def test_class_indices_have_no_measured_halo(tmp_path: Path, tissue_like: Callable[..., np.ndarray]) -> None:
    path = saved(RUNS["class indices as float"].build, tmp_path)
    assert measure_halo(load_predictor(ModelSpec(path, card=stated({}))), tissue_like(2, SIDE)) is None


def test_a_stated_halo_of_a_tile_wide_model_is_called_inexact(tmp_path: Path) -> None:
    path = saved(RUNS["squeeze and excite"].build, tmp_path)
    spec = ModelSpec(path, card=stated({}))
    predictor = load_predictor(spec)
    assert "halo of 8 px is therefore not exact" in " ".join(model_notes(spec, predictor, 8))
    assert "therefore" not in " ".join(model_notes(spec, predictor, None))


@pytest.mark.parametrize(("halo", "told"), [(16, False), (17, True), (None, False)])
def test_a_fixed_tile_too_small_for_the_halo_is_told(halo: int | None, told: bool, tmp_path: Path) -> None:
    habit = RUNS["a fixed tile and batch"]
    spec = ModelSpec(saved(habit.build, tmp_path), card=stated(habit.stated))
    notes = " ".join(model_notes(spec, load_predictor(spec), halo))
    assert ("takes tiles of 64 px and no others" in notes) == told


@pytest.mark.parametrize("name", ["a fixed tile and batch", "class indices, int64, without a channel axis",
                                  "several outputs of which one is named", "raw uint8", "instance norm",
                                  "half precision in and out"])  # fmt: skip
def test_the_same_as_openvino_ir(name: str, tmp_path: Path, tissue_like: Callable[..., np.ndarray]) -> None:
    import openvino

    habit = RUNS[name]
    core = openvino.Core()
    openvino.save_model(core.read_model(saved(habit.build, tmp_path)), tmp_path / "m.xml", compress_to_fp16=False)
    activation = {} if habit.expected is soft else {"activation": "probabilities"}
    spec = ModelSpec(str(tmp_path / "m.xml"), card=stated({**habit.stated, **activation}))
    predictor = load_predictor(spec)
    batch = tissue_like(2, SIDE)
    np.testing.assert_allclose(predictor.predict(batch), habit.expected(batch), atol=habit.tolerance)
    assert habit.notes.split("(")[0] in " ".join(model_notes(spec, predictor, None))


@pytest.mark.parametrize("kind", ["link", "missing"])
def test_an_ir_whose_weights_are_elsewhere_is_refused(kind: str, tmp_path: Path) -> None:
    import openvino

    (tmp_path / "m").mkdir()
    path = saved(RUNS["weights in a file beside it"].build, tmp_path)
    openvino.save_model(openvino.Core().read_model(path), tmp_path / "m/m.xml", compress_to_fp16=False)
    (tmp_path / "m/m.bin").rename(tmp_path / "elsewhere.bin")
    if kind == "link":
        (tmp_path / "m/m.bin").symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(ModelLoadError, match=r"m\.bin.*copy it there"):
        load_predictor(ModelSpec(str(tmp_path / "m/m.xml"), card=stated({})))


PADDLE_RUNS = {
    "paddle_softmax": (),
    "paddle_argmax": ("vote",),
    "paddle_argmax_fixed": ("vote",),
}


def paddle_card(name: str) -> CardOverrides:
    """What PaddleSeg's own normalisation is; the fixed program says its tile size itself."""
    return stated({"mean": (0.5,) * 3, "std": (0.5,) * 3, "tile_size": None if "fixed" in name else 128})


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", PADDLE_RUNS)
def test_a_paddle_export_answers_as_paddle_does(name: str, runtime: str) -> None:
    """Made by Paddle 3.3.1 and paddle2onnx 2.1.0, see `make_paddle.py` there."""
    image = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), np.uint8)
    predictor = load_predictor(ModelSpec(str(PADDLE / f"{name}.onnx"), runtime=runtime, card=paddle_card(name)))
    assert predictor.card.output_stride == 2
    assert predictor.fixed_input == ((1, 128, 128) if "fixed" in name else (None,) * 3)
    got = predictor.predict(image)[..., :32, :32]
    answer = np.load(PADDLE / "paddle_answers.npz")[name.removeprefix("paddle_")]
    if name == "paddle_softmax":
        np.testing.assert_allclose(got, answer, atol=1e-5)
    else:
        np.testing.assert_array_equal(got.argmax(1), answer)


@pytest.mark.parametrize("name", PADDLE_RUNS)
def test_a_paddle_export_runs_over_a_slide(name: str, tiny_slide: Path, tmp_path: Path, wsi_seg: Program) -> None:
    given = options(str(PADDLE / f"{name}.onnx"), {
        "mean": (0.5,), "std": (0.5,), "output_stride": 2, "tile_size": None if "fixed" in name else 64
    })  # fmt: skip
    left = wsi_seg("run", tiny_slide, "--out", tmp_path / "x.seg.zarr", *given)
    assert left.code == 0, left.err
    report = json.loads(left.out)
    assert report["tiles"]["done"] == sum(report["tiles"].values())
    assert [word for word in PADDLE_RUNS[name] if word not in " ".join(report["notes"])] == []
