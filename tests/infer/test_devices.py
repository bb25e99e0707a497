"""Where a program runs: what `--device` becomes, and that a GPU's code path gives a CPU's answers on a CPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from wsi_seg.card import METADATA_KEY, ModelCard, named_classes
from wsi_seg.errors import ModelLoadError, UsageError
from wsi_seg.infer import ModelSpec, candidates, choice, load_predictor, places
from wsi_seg.infer.device import cuda_driver
from wsi_seg.infer.device.cuda_driver import LockedArray
from wsi_seg.infer.device.lanes import Lanes
from wsi_seg.infer.program.onnx_pixels import from_pixels
from wsi_seg.infer.runtime import onnxruntime_predictor
from wsi_seg.infer.runtime.onnxruntime_predictor import BoundLane
from wsi_seg.infer.runtime.pixels import PixelConversion

ONNX = ("openvino", "onnxruntime", "tensorrt")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that some GPUs answer and that some runtimes lack something."""

    def pretend(n_gpus: int, **missing: str) -> None:
        monkeypatch.setattr(places, "gpu_names", lambda: ("GPU",) * n_gpus)
        if n_gpus:
            monkeypatch.setattr(places, "missing_for_gpu", lambda runtime: missing.get(runtime, ""))

    return pretend


class TestPlaces:
    def test_auto_is_the_cpu_where_no_gpu_answers(self, machine: Callable[..., None]) -> None:
        machine(0)
        assert places.places(ONNX, ModelSpec("m"), "m") == [("openvino", "cpu"), ("onnxruntime", "cpu")]

    def test_auto_prefers_a_gpu_that_can_be_used_and_keeps_the_cpu_behind_it(
        self, machine: Callable[..., None]
    ) -> None:
        cpu = [("openvino", "cpu"), ("onnxruntime", "cpu")]
        machine(1)
        on_gpu = [("onnxruntime", "cuda:0"), ("tensorrt", "cuda:0")]
        assert places.places(ONNX, ModelSpec("m"), "m") == on_gpu + cpu
        machine(1, onnxruntime="the CPU build")
        assert places.places(ONNX, ModelSpec("m"), "m") == on_gpu[1:] + cpu
        machine(1, onnxruntime="the CPU build", tensorrt="not installed")
        assert places.places(ONNX, ModelSpec("m"), "m") == cpu

    def test_cuda_is_cuda_or_an_error_that_names_everything_missing(self, machine: Callable[..., None]) -> None:
        machine(2, onnxruntime="the CPU build", tensorrt="not installed")
        with pytest.raises(
            ModelLoadError, match=r"device cuda:1 for m; the CPU build; not installed; use --device cpu"
        ):
            places.places(ONNX, ModelSpec("m", device="cuda:1"), "m")
        machine(2, tensorrt="not installed")
        assert places.places(ONNX, ModelSpec("m", device="cuda:1"), "m") == [("onnxruntime", "cuda:1")]
        with pytest.raises(ModelLoadError, match="openvino cannot use CUDA"):
            places.places(("openvino",), ModelSpec("m", device="cuda"), "m")

    @pytest.mark.parametrize(
        ("able", "spec", "what", "remedy"),
        [
            (("tensorrt",), ModelSpec("m", runtime="tensorrt"), "runtime tensorrt for m", "leave --runtime out"),
            (("tensorrt",), ModelSpec("m.engine"), "device auto for m", "name the ONNX program"),
            (("torch",), ModelSpec("m", device="cuda"), "device cuda for m", "use --device cpu"),
        ],
    )
    def test_what_was_asked_for_is_what_is_refused(
        self, able: tuple[str, ...], spec: ModelSpec, what: str, remedy: str, machine: Callable[..., None]
    ) -> None:
        machine(0)
        with pytest.raises(ModelLoadError) as refused:
            places.places(able, spec, "m")
        assert refused.value.what == what
        assert refused.value.remedy.startswith(remedy)

    def test_cpu_is_the_cpu(self, machine: Callable[..., None]) -> None:
        machine(1)
        assert places.places(("torch",), ModelSpec("m", device="cpu"), "m") == [("torch", "cpu")]
        with pytest.raises(ModelLoadError, match="tensorrt runs on a GPU only"):
            places.places(("tensorrt",), ModelSpec("m", device="cpu"), "m")

    @pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
    def test_a_device_is_checked(self, device: str) -> None:
        with pytest.raises(UsageError, match="cuda:N"):
            ModelSpec("m", device=device)


@pytest.mark.skipif(bool(cuda_driver.gpu_names()), reason="this machine has a GPU")
class TestWithoutGpu:
    def test_asking_for_cuda_is_one_clear_error(self) -> None:
        for model in ("nuclei", "wsi_seg.model.he_stain:HeStain"):
            with pytest.raises(ModelLoadError, match="no NVIDIA GPU answers here"):
                load_predictor(ModelSpec(model, device="cuda"))

    def test_the_driver_is_asked_without_harm(self) -> None:
        assert cuda_driver.gpu_names() == ()
        array = LockedArray((4, 4, 3), 0)
        array.values[:] = 7  # ordinary memory
        assert array.values.sum() == 7 * 48

    def test_candidates_say_their_device(self) -> None:
        found = candidates(ModelSpec("nuclei"))
        assert {spec.device for spec in found} == {"cpu"}
        assert "tensorrt" not in {spec.runtime for spec in found}


def test_a_choice_remembers_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu, gpu = (ModelSpec("m", runtime="onnxruntime", device=device) for device in ("cpu", "cuda:0"))
    choice._remember("key", gpu.replaced(precision="fp16"))
    assert choice._recall("key", [cpu, gpu]) == gpu.replaced(precision="fp16")
    assert choice._recall("key", [cpu]) is None


class TestLanes:
    def test_no_more_than_the_limit_at_once_and_all_are_used_again(self) -> None:
        made, busy, most, lock = [], [], [], threading.Lock()
        lanes = Lanes(lambda: made.append(object()) or made[-1], 2)

        def call(_: int) -> None:
            with lanes.one() as lane:
                with lock:
                    assert lane not in busy
                    busy.append(lane)
                    most.append(len(busy))
                time.sleep(0.002)
                with lock:
                    busy.remove(lane)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(call, range(40)))
        assert len(made) == 2
        assert max(most) == 2

    def test_a_lane_that_failed_is_replaced(self) -> None:
        made: list[list[int]] = []
        lanes = Lanes(lambda: made.append([]) or made[-1], 1)
        with pytest.raises(ZeroDivisionError), lanes.one():
            1 / 0  # noqa: B018
        with lanes.one() as lane:
            assert lane is made[1]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "probabilities"])
def test_pixels_in_the_graph_and_bound_memory_give_the_same_answers(
    layout: str, activation: str, affine: Callable[..., Path], tissue_like: Callable[..., np.ndarray]
) -> None:
    card = ModelCard(
        "m", 0.5, named_classes(["a", "b"]), 32, layout=layout, activation=activation, channels="BGR",
        mean=(0.1, 0.2, 0.3), std=(0.9, 0.8, 1.7),
    )  # fmt: skip
    path = affine(np.array([[0.1, 0.2, 0.05], [0.02, 0.03, 0.3]], np.float32), layout=layout, card=card)
    own = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    session = ort.InferenceSession(from_pixels(path.read_bytes(), card), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(uint8)"
    lane = BoundLane(session, ("cpu", 0))
    kept = []
    for n, side in ((2, 32), (2, 32), (1, 48)):
        batch = tissue_like(n, side, seed=side + len(kept))
        logits = own.run(None, {"x": PixelConversion(card)(batch)})[0]
        expected = onnxruntime_predictor.activated(
            logits if layout == "NCHW" else logits.transpose(0, 3, 1, 2), activation
        )
        kept.append((lane.run(batch), expected))
    for found, expected in kept:  # after all calls: each result is the caller's own
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-7)
    assert len({found.ctypes.data for found, _ in kept}) == 3


@pytest.mark.parametrize("kind", ["uint8", "float16"])
def test_programs_of_other_forms_give_the_same_answers_from_pixels(
    kind: str, tmp_path: Path, tissue_like: Callable[..., np.ndarray]
) -> None:
    """An input of uint8 or float16, two outputs, class indices (N, H, W) as integers."""
    element = {"uint8": onnx.TensorProto.UINT8, "float16": onnx.TensorProto.FLOAT16}[kind]
    nodes = [
        onnx.helper.make_node("Cast", ["x"], ["wide"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Sigmoid", ["wide"], ["other"]),
        onnx.helper.make_node("ArgMax", ["wide"], ["y"], axis=3, keepdims=0),
    ]
    image = onnx.helper.make_tensor_value_info("x", element, ["N", "H", "W", 3])
    outputs = [
        onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, ["N", "H", "W", 3]),
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT64, ["N", "H", "W"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [image], outputs)
    classes = named_classes(["r", "g", "b"])
    std = (1 / 255,) * 3 if kind == "uint8" else (0.5, 0.5, 0.4)
    card = ModelCard("m", 0.5, classes, 32, layout="NHWC", channels="BGR", output="y", output_stride=1, std=std)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    session = ort.InferenceSession(from_pixels(path.read_bytes(), card), providers=["CPUExecutionProvider"])
    batch = tissue_like(2, 32)
    found = BoundLane(session, ("cpu", 0)).run(batch)
    assert found.shape == (2, 1, 32, 32)
    votes = load_predictor(ModelSpec(str(path), runtime="onnxruntime")).predict(batch)
    np.testing.assert_array_equal(found[:, 0], votes.argmax(axis=1))


def test_metadata_and_names_survive_the_pixels(small_unet: Path, tissue_like: Callable[..., np.ndarray]) -> None:
    text = {entry.key: entry.value for entry in onnx.load(small_unet).metadata_props}[METADATA_KEY]
    content = from_pixels(small_unet.read_bytes(), ModelCard.from_json(text, ""))
    assert {entry.key for entry in onnx.load_from_string(content).metadata_props} == {METADATA_KEY}
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    batch = tissue_like(2, 64)
    expected = load_predictor(ModelSpec(str(small_unet), runtime="onnxruntime")).predict(batch)
    np.testing.assert_allclose(BoundLane(session, ("cpu", 0)).run(batch), expected, atol=2e-6)


def test_an_old_opset_is_refused_for_pixels(small_unet: Path) -> None:
    model = onnx.load(small_unet)
    model.opset_import[0].version = 11
    with pytest.raises(ModelLoadError, match="opset 13"):
        from_pixels(model.SerializeToString(), ModelCard("m", 0.5, named_classes(["a", "b"])))


def test_onnx_runtime_on_another_provider_than_asked_is_an_error(
    small_unet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens where CUDA's libraries are missing: the session is made, on the CPU."""
    monkeypatch.setattr(onnxruntime_predictor, "gpu_names", lambda: ("GPU",))
    made = ort.InferenceSession

    def silent(source: object, options: object, providers: list[object], enable_fallback: int) -> object:
        ((provider, settings),) = providers
        assert not enable_fallback
        assert (provider, settings["device_id"]) == ("CUDAExecutionProvider", "0")
        return made(source, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime_predictor.ort, "InferenceSession", silent)
    monkeypatch.setattr(places, "gpu_names", lambda: ("GPU",))
    monkeypatch.setattr(places, "missing_for_gpu", lambda runtime: "" if runtime == "onnxruntime" else "absent")
    with pytest.raises(ModelLoadError, match="CPUExecutionProvider; not on CUDAExecutionProvider"):
        load_predictor(ModelSpec(str(small_unet), device="cuda"))
    with pytest.raises(ModelLoadError, match="1 NVIDIA GPUs answer"):
        load_predictor(ModelSpec(str(small_unet), device="cuda:1"))


class TestTorch:
    @pytest.fixture
    def parts(self) -> tuple[object, ModelCard]:
        torch = pytest.importorskip("torch")
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 1))
        return network.eval(), ModelCard("m", 0.5, named_classes(["a", "b"]), 32, activation="softmax")

    @pytest.mark.parametrize(("precision", "least"), [("fp16", 1e-6), ("bf16", 1e-5)])
    def test_autocast_is_another_arithmetic_with_the_same_labels(
        self, precision: str, least: float, parts: tuple[object, ModelCard], tissue_like: Callable[..., np.ndarray]
    ) -> None:
        from wsi_seg.infer.runtime.torch_predictor import TorchProgram

        batch = tissue_like(2, 32)
        exact = TorchProgram(*parts, ModelSpec("m:n", device="cpu")).run(batch)
        program = TorchProgram(*parts, ModelSpec("m:n", device="cpu", precision=precision))
        found = program.run(batch)
        assert program.facts.precision == precision
        assert found.dtype == np.float32
        assert least < np.abs(found - exact).max() < 2e-2
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)  # softmax in fp32

    def test_lanes_keep_one_buffer_per_use(self) -> None:
        torch = pytest.importorskip("torch")
        from wsi_seg.infer.device.torch_device import Lane

        lane = Lane(torch.device("cpu"))
        first = lane.upload(np.zeros((2, 4, 4, 3), np.uint8))
        assert lane.upload(np.ones((2, 4, 4, 3), np.uint8)) is first
        assert first.min() == 1
        lane.upload(np.zeros((1, 4, 4, 3), np.uint8))
        assert len(lane._buffers) == 1
        assert lane.stream_handle == 0

    def test_what_torch_lacks_is_told(self, parts: tuple[object, ModelCard]) -> None:
        import torch

        from wsi_seg.infer.runtime.torch_predictor import TorchProgram

        if torch.version.cuda is None:
            with pytest.raises(ModelLoadError, match="build without CUDA"):
                TorchProgram(*parts, ModelSpec("m:n", device="cuda"))
        with pytest.raises(ModelLoadError, match="--cuda-graphs needs --device cuda"):
            TorchProgram(*parts, ModelSpec("m:n", device="cpu", cuda_graphs=True))
