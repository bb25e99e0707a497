"""What every predictor promises, whatever runs it."""

from __future__ import annotations

import importlib.util
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import pytest

from benchmarks import networks
from wsi_seg.card import METADATA_KEY, ModelCard, named_classes
from wsi_seg.errors import ModelLoadError, PredictorError
from wsi_seg.infer import (
    Augmentation,
    CardOverrides,
    Member,
    ModelSpec,
    Predictor,
    load_predictor,
    model_sha256,
    parse_scales,
)

SIDE = 64
KINDS = (
    "identity", "constant", "openvino unet", "onnxruntime unet", "openvino ir", "builtin he-stain", "builtin nuclei",
    "torch factory", "torch export", "torchscript", "torch factory with weights",
    "d4", "flips at two scales", "ensemble", "flips of an ensemble", "ensemble with a constant",
)  # fmt: skip


@pytest.fixture(scope="module")
def torch_specs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ModelSpec]]:
    """One network as module, weights, export and TorchScript."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("torch")
    found = importlib.util.spec_from_file_location("torch_models", Path(__file__).with_name("torch_models.py"))
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["torch_models"] = module
    sys.path.insert(0, str(Path(__file__).parent))
    found.loader.exec_module(module)
    net = module.Tiny().eval()
    save_file(net.state_dict(), folder / "tiny.safetensors", metadata={METADATA_KEY: module.CARD.to_json()})
    example = torch.zeros(2, 3, SIDE, SIDE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net, example).save(str(folder / "tiny.pt"))
        dims = {
            0: torch.export.Dim("n", max=64),
            2: torch.export.Dim("h", max=4096),
            3: torch.export.Dim("w", max=4096),
        }
        program = torch.export.export(net, (example,), dynamic_shapes=(dims,))
        torch.export.save(program, folder / "tiny.pt2", extra_files={METADATA_KEY: module.CARD.to_json()})
    (folder / "tiny.pt.card.json").write_text(module.CARD.to_json())
    yield {
        "torch factory": ModelSpec("torch_models:Tiny"),
        "torch factory with weights": ModelSpec("torch_models:Tiny", weights=str(folder / "tiny.safetensors")),
        "torch export": ModelSpec(str(folder / "tiny.pt2")),
        "torchscript": ModelSpec(str(folder / "tiny.pt")),
    }
    sys.path.remove(str(Path(__file__).parent))
    del sys.modules["torch_models"]


def _spec(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> ModelSpec:
    unet = str(request.getfixturevalue("small_unet"))
    if kind == "openvino ir":
        core = openvino.Core()
        openvino.save_model(core.read_model(unet), tmp_path / "unet.xml", compress_to_fp16=False)
        import onnx

        text = {entry.key: entry.value for entry in onnx.load(unet).metadata_props}[METADATA_KEY]
        (tmp_path / "card.json").write_text(text)
        return ModelSpec(str(tmp_path / "unet.xml"))
    if kind.startswith("torch"):
        return request.getfixturevalue("torch_specs")[kind]
    pair = (Member(unet, 3.0), Member(_sibling(request), 1.0))
    return {
        "d4": ModelSpec(unet, augmentation=Augmentation("d4")),
        "flips at two scales": ModelSpec(unet, augmentation=Augmentation("flips", parse_scales("1/2,1"))),
        "ensemble": ModelSpec(unet, members=pair, runtime="onnxruntime"),
        "flips of an ensemble": ModelSpec(unet, members=pair, augmentation=Augmentation("flips")),
        "ensemble with a constant": ModelSpec(
            "constant:1/3", members=(Member("constant:1/3"), Member(_sibling(request, named=True)))
        ),
        "identity": ModelSpec(str(networks.identity(tmp_path / "identity.onnx", SIDE))),
        "constant": ModelSpec("constant:1/3"),
        "openvino unet": ModelSpec(unet, runtime="openvino", streams=2),
        "onnxruntime unet": ModelSpec(unet, runtime="onnxruntime", threads=2),
        "builtin he-stain": ModelSpec("he-stain"),
        "builtin nuclei": ModelSpec("nuclei"),
    }[kind]


def _sibling(request: pytest.FixtureRequest, *, named: bool = False) -> str:
    """The network of `small_unet` with other weights; `named`: with the classes of `constant:1/3`."""
    shape = networks.UnetShape(base_channels=4, depth=2, tile_size=64)
    folder = request.getfixturevalue("tmp_path")
    path = networks.unet(folder / "sibling.onnx", shape, seed=1)
    if named:
        import onnx

        model = onnx.load(path)
        (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
        card = ModelCard.from_json(entry.value, "here").replaced(
            classes=named_classes([f"class {i}" for i in range(3)])
        )
        entry.value = card.to_json()
        onnx.save(model, path)
    return str(path)


@pytest.mark.parametrize("kind", KINDS)
class TestPredictorContract:
    @pytest.fixture
    def spec(self, kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> ModelSpec:
        return _spec(kind, request, tmp_path)

    @pytest.fixture
    def predictor(self, spec: ModelSpec) -> Iterator[Predictor]:
        predictor = load_predictor(spec)
        yield predictor
        predictor.close()

    def test_the_result_is_float32_probabilities_of_the_tiles_shape(
        self, predictor: Predictor, tissue_like: Callable[..., np.ndarray]
    ) -> None:
        for n, height, width in ((1, SIDE, SIDE), (3, SIDE, 96)):
            batch = tissue_like(n, 96)[:, :height, :width]
            before = batch.copy()
            result = predictor.predict(batch)
            assert result.shape == (n, predictor.n_channels, height, width)
            assert result.dtype == np.float32
            assert result.flags.c_contiguous
            assert result.min() >= 0
            assert result.max() <= 1
            np.testing.assert_array_equal(batch, before)

    def test_the_result_is_the_callers_own(self, predictor: Predictor, tissue_like: Callable[..., np.ndarray]) -> None:
        first = predictor.predict(tissue_like(2, SIDE, seed=1))
        kept = first.copy()
        second = predictor.predict(tissue_like(2, SIDE, seed=2))
        np.testing.assert_array_equal(first, kept)
        assert not np.shares_memory(first, second)
        second[:] = 0  # writable

    def test_threads_get_the_bits_of_a_single_thread(
        self, predictor: Predictor, tissue_like: Callable[..., np.ndarray]
    ) -> None:
        batches = [tissue_like(2, SIDE, seed=seed) for seed in range(16)]
        expected = [predictor.predict(batch) for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            for got, want in zip(pool.map(predictor.predict, batches), expected, strict=True):
                np.testing.assert_array_equal(got, want)

    def test_read_only_and_strided_batches_are_taken(
        self, predictor: Predictor, tissue_like: Callable[..., np.ndarray]
    ) -> None:
        wide = tissue_like(2, 2 * SIDE)
        strided = wide[:, ::2, ::2]
        frozen = np.ascontiguousarray(strided)
        frozen.flags.writeable = False
        np.testing.assert_array_equal(predictor.predict(strided), predictor.predict(frozen))

    @pytest.mark.parametrize(
        "batch",
        [np.zeros((1, 3, 64, 64), np.uint8), np.zeros((64, 64, 3), np.uint8), np.zeros((1, 64, 64, 3), np.float32),
         np.zeros((0, 64, 64, 3), np.uint8)],
        ids=["planar", "no batch axis", "float", "empty"],
    )  # fmt: skip
    def test_wrong_batches_are_refused(self, predictor: Predictor, batch: np.ndarray) -> None:
        with pytest.raises(PredictorError, match="batch"):
            predictor.predict(batch)

    def test_nothing_is_predicted_after_close(self, spec: ModelSpec) -> None:
        predictor = load_predictor(spec)
        predictor.close()
        predictor.close()
        with pytest.raises(PredictorError, match="closed"):
            predictor.predict(np.zeros((1, SIDE, SIDE, 3), np.uint8))

    def test_another_process_gets_the_same_model(
        self, spec: ModelSpec, predictor: Predictor, tissue_like: Callable[..., np.ndarray]
    ) -> None:
        again = pickle.loads(pickle.dumps(spec))
        assert again == spec
        assert hash(again) == hash(spec)
        assert model_sha256(again) == model_sha256(spec)
        batch = tissue_like(2, SIDE)
        np.testing.assert_array_equal(load_predictor(again).predict(batch), predictor.predict(batch))

    def test_the_facts_name_what_runs(self, predictor: Predictor) -> None:
        facts = predictor.facts.as_dict()
        assert set(facts) == {"runtime", "version", "device", "precision"}
        assert facts["precision"] == "fp32"
        assert all(facts.values())


def test_sides_off_the_output_stride_are_refused(small_unet: Path) -> None:
    with pytest.raises(PredictorError, match="multiples of the output stride 4"):
        load_predictor(ModelSpec(str(small_unet))).predict(np.zeros((1, 66, 64, 3), np.uint8))


class TestTorchPrograms:
    """What torch programs return besides one tensor of floats."""

    def test_one_of_several_outputs_is_named(
        self, torch_specs: dict[str, ModelSpec], tissue_like: Callable[..., np.ndarray]
    ) -> None:
        batch = tissue_like(2, SIDE)
        expected = load_predictor(torch_specs["torch factory"]).predict(batch)
        for factory, output in (("Dictionary", "out"), ("Deep", "1")):
            spec = ModelSpec(f"torch_models:{factory}", card=CardOverrides(output=output))
            np.testing.assert_array_equal(load_predictor(spec).predict(batch), expected)

    @pytest.mark.parametrize(
        ("factory", "output", "words"),
        [
            ("Dictionary", None, r"returns a dict of out \(1, 2, 64, 64\), aux \(1, 2, 32, 32\).*--output"),
            ("Dictionary", "head", "returns a dict of out"),
            ("Deep", None, r"returns a tuple of 0 \(1, 2, 32, 32\), 1 \(1, 2, 64, 64\).*its position from 0"),
            ("Deep", "0", "1/2 of the resolution"),
            ("Tiny", "out", "returns a Tensor"),
        ],
    )
    def test_what_is_not_named_is_listed(
        self, torch_specs: dict[str, ModelSpec], factory: str, output: str | None, words: str
    ) -> None:
        with pytest.raises(PredictorError, match=words):
            load_predictor(ModelSpec(f"torch_models:{factory}", card=CardOverrides(output=output)))

    @pytest.mark.parametrize("factory", ["Deep", "Indices"])
    def test_an_exported_program_tells_its_outputs(
        self, torch_specs: dict[str, ModelSpec], factory: str, tmp_path: Path, tissue_like: Callable[..., np.ndarray]
    ) -> None:
        torch = pytest.importorskip("torch")
        net = getattr(sys.modules["torch_models"], factory)().eval()
        dims = {0: torch.export.Dim("n", max=64), 2: torch.export.Dim("h", max=2048) * 2,
                3: torch.export.Dim("w", max=2048) * 2}  # fmt: skip
        program = torch.export.export(net, (torch.zeros(2, 3, SIDE, SIDE + 2),), dynamic_shapes=(dims,))
        torch.export.save(program, tmp_path / "m.pt2", extra_files={METADATA_KEY: net.card.to_json()})
        batch = tissue_like(2, SIDE)
        expected = load_predictor(torch_specs["torch factory"]).predict(batch)
        if factory == "Indices":
            got = load_predictor(ModelSpec(str(tmp_path / "m.pt2"))).predict(batch)
            np.testing.assert_array_equal(got, np.eye(2)[expected.argmax(1)].transpose(0, 3, 1, 2))
            return
        with pytest.raises(ModelLoadError, match=r"several outputs: 0 \(\?, 2, \?, \?\), 1 .*--output"):
            load_predictor(ModelSpec(str(tmp_path / "m.pt2")))
        named = load_predictor(ModelSpec(str(tmp_path / "m.pt2"), card=CardOverrides(output="1")))
        np.testing.assert_allclose(named.predict(batch), expected, atol=1e-6)
