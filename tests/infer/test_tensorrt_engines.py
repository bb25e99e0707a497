"""Real TensorRT engines, built without a GPU by tensorrt_rtx: three architectures in fp16 and int8."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from wsi_seg.card import ModelCard, named_classes
from wsi_seg.errors import ModelLoadError
from wsi_seg.infer.program.half import to_half
from wsi_seg.infer.runtime.tensorrt_engine import Profile, build_engine, build_timed, profile_for, read_engine_file

SIDE = 64
PROFILE = Profile((1, SIDE, SIDE), (2, SIDE, SIDE), (2, SIDE, SIDE))
NETWORKS = {
    "unet": {"width": 4, "depth": 1},
    "unet++": {"width": 4, "depth": 1},
    "swin-unet": {"width": 8, "depth": 1, "window": 4},
}


@pytest.fixture(scope="module", autouse=True)
def library() -> object:
    return pytest.importorskip("tensorrt_rtx", reason="engines are built where tensorrt-rtx is installed")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[bytes, ModelCard]]:
    """The serialised program of an architecture, and its card; each is exported once."""
    torch = pytest.importorskip("torch")
    from wsi_seg.model.building import build_network
    from wsi_seg.model.network import Probabilities

    made: dict[str, tuple[bytes, ModelCard]] = {}

    def export(name: str) -> tuple[bytes, ModelCard]:
        if name not in made:
            torch.manual_seed(0)
            network = build_network(name, 2, **NETWORKS[name]).eval()
            card = ModelCard(name, 0.5, named_classes(["a", "b"]), SIDE, output_stride=network.output_stride)
            dims = {0: torch.export.Dim("N", min=1, max=8)} if name != "swin-unet" else None  # a minute with free axes
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exported = torch.onnx.export(
                    Probabilities(network).eval(), (torch.zeros(2, 3, SIDE, SIDE),), opset_version=18, dynamo=True,
                    verbose=False, dynamic_shapes=None if dims is None else (dims,),
                )  # fmt: skip
            made[name] = exported.model_proto.SerializeToString(), card
        return made[name]

    return export


def _quantised(program: bytes, folder: Path, *, symmetric: bool = True) -> bytes:
    """Q/DQ nodes with ranges from noise: enough to build from."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    model = onnx.load_from_string(program)
    batch = [dim.dim_value or 2 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    images = iter([{model.graph.input[0].name: np.random.default_rng(0).random(batch, np.float32)}])

    class Images(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(images, None)

    source, target = folder / "plain.onnx", folder / "int8.onnx"
    source.write_bytes(program)
    kind = QuantType.QInt8 if symmetric else QuantType.QUInt8
    quantize_static(
        source, target, Images(), quant_format=QuantFormat.QDQ, per_channel=True, weight_type=QuantType.QInt8,
        activation_type=kind, op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": False},
    )  # fmt: skip
    return target.read_bytes()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_an_engine_is_built(
    name: str, precision: str, program: Callable[[str], tuple[bytes, ModelCard]], tmp_path: Path, library: object
) -> None:
    plain, card = program(name)
    stored = to_half(plain) if precision == "fp16" else _quantised(plain, tmp_path)
    content = build_engine(stored, card.replaced(precision=precision), PROFILE)
    head, engine = read_engine_file(content, "test")
    assert (head.library, head.version) == ("tensorrt_rtx", library.__version__)  # type: ignore[attr-defined]
    assert head.profile == PROFILE
    assert head.card.precision == precision
    assert len(engine) > 100_000


def test_networks_are_strongly_typed_and_take_pixels(
    library: object, program: Callable[[str], tuple[bytes, ModelCard]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsi_seg.infer.runtime import tensorrt_engine

    seen = []
    add = tensorrt_engine._add_profile
    monkeypatch.setattr(tensorrt_engine, "_add_profile", lambda *given: (seen.append(given[2]), add(*given)))
    plain, card = program("unet")
    build_engine(to_half(plain), card, PROFILE)
    (network,) = seen
    flag = library.NetworkDefinitionCreationFlag.STRONGLY_TYPED  # type: ignore[attr-defined]
    assert network.get_flag(flag)
    assert network.get_input(0).dtype == library.uint8  # type: ignore[attr-defined]
    assert tuple(network.get_input(0).shape) == (-1, SIDE, SIDE, 3)
    assert network.get_output(0).dtype == library.float32  # type: ignore[attr-defined]
    kinds = {network.get_layer(index).get_output(0).dtype for index in range(network.num_layers)}
    assert library.float16 in kinds  # type: ignore[attr-defined]


def test_rtx_times_nothing(program: Callable[[str], tuple[bytes, ModelCard]]) -> None:
    plain, card = program("unet")
    content, timings = build_timed(plain, card, PROFILE, b"timings of another library")
    assert timings is None
    assert read_engine_file(content, "test")[0].profile == PROFILE


def test_what_tensorrt_says_is_told(program: Callable[[str], tuple[bytes, ModelCard]], tmp_path: Path) -> None:
    plain, card = program("unet")
    with pytest.raises(ModelLoadError, match=r"symmetric|zero"):
        build_engine(_quantised(plain, tmp_path, symmetric=False), card, PROFILE)
    fixed = Profile((1, SIDE + 1, SIDE), (1, SIDE + 1, SIDE), (1, SIDE, SIDE))
    model = onnx.load_from_string(plain)
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    with pytest.raises(ModelLoadError, match=r"builds no engine for batches .* Error Code|profile"):
        build_engine(model.SerializeToString(), card, fixed)


def test_the_default_profile_is_the_batch_of_the_plan() -> None:
    from wsi_seg.plan import choose_batch

    for tile in (256, 512, 1024, 4096):  # plan and infer are siblings and must agree
        assert profile_for(tile, tile).most == (choose_batch(tile), tile, tile)
