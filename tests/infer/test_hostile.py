"""Files that are broken or mean harm: one clear error, no code run, no file touched."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from tests.chaos.attacks import ATTACKS, Lair
from tests.models_of_others import zoo
from wsi_seg.card import ModelCard, named_classes
from wsi_seg.errors import ModelError, ModelLoadError
from wsi_seg.infer import CardOverrides, ModelSpec, load_predictor, model_sha256
from wsi_seg.infer.program.torch_archive import read_clean_archive

CARD = ModelCard("m", 0.5, named_classes(["a", "b"]), 32)


class Canary:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt", ".ts", ".pt2"])
@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"garbage " * 100, b"PK\x03\x04" + b"\xff" * 60, b"<net/>"])
def test_garbage_is_one_clear_error(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    (tmp_path / "card.json").write_text(CARD.to_json())
    with pytest.raises(ModelLoadError, match="model"):
        load_predictor(ModelSpec(str(path)))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    position=st.floats(0, 1, exclude_max=True), length=st.integers(1, 8), value=st.integers(0, 255), cut=st.booleans()
)
def test_a_damaged_onnx_file_loads_or_raises_our_error(
    position: float, length: int, value: int, cut: bool, small_unet: Path, tmp_path: Path
) -> None:
    content = bytearray(small_unet.read_bytes())
    start = int(position * len(content))
    content[start : start + length] = b"" if cut else bytes([value]) * length
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    with contextlib.suppress(ModelError):
        load_predictor(ModelSpec(str(path))).close()


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"weights.bin", b"weights\xff\xfebin"), (b"Softmax", b"Soft\xff\xfex"), (b"offset", b"\xff\xfeset")],
    ids=["place", "operator", "key"],
)
def test_names_that_are_no_text_are_one_clear_error(old: bytes, new: bytes, tmp_path: Path) -> None:
    content = zoo.outside(zoo.chain(("Softmax", {"axis": 1})), tmp_path, offset=0).SerializeToString()
    assert old in content
    (tmp_path / "model.onnx").write_bytes(content.replace(old, new[: len(old)].ljust(len(old), b"_")))
    (tmp_path / "card.json").write_text(CARD.replaced(classes=named_classes(["a", "b", "c"])).to_json())
    with contextlib.suppress(ModelLoadError):
        load_predictor(ModelSpec(str(tmp_path / "model.onnx")))
    with contextlib.suppress(ModelLoadError):
        model_sha256(ModelSpec(str(tmp_path / "model.onnx")))


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/hostname", "link.bin", "missing.bin", "sub/../../secret.bin"]
)
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_weights_outside_the_programs_folder_are_refused(
    affine: Callable[..., Path], location: str, runtime: str, tmp_path: Path
) -> None:
    model = onnx.load(affine(np.eye(3)[:2], card=CARD))
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(6, np.float32).tobytes())
    (tmp_path / "m").mkdir()
    (tmp_path / "m/link.bin").symlink_to(secret)
    _externalise(model.graph.initializer[0], location)
    (tmp_path / "m/model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelLoadError, match="folder of the program"):
        load_predictor(ModelSpec(str(tmp_path / "m/model.onnx"), runtime=runtime))


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_weights_beside_the_program_are_read_and_hashed(
    affine: Callable[..., Path], runtime: str, tmp_path: Path
) -> None:
    model = onnx.load(affine(np.full((2, 3), 0.25), card=CARD))
    stored = numpy_helper.to_array(model.graph.initializer[0])
    (tmp_path / "weights.bin").write_bytes(stored.tobytes())
    _externalise(model.graph.initializer[0], "weights.bin")
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    spec = ModelSpec(str(path), runtime=runtime)
    got = load_predictor(spec).predict(np.full((1, 32, 32, 3), 255, np.uint8))
    np.testing.assert_allclose(got, 0.75)
    before = model_sha256(spec)
    (tmp_path / "weights.bin").write_bytes((stored * 0.5).tobytes())
    assert model_sha256(spec) != before


def _externalise(tensor: onnx.TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location


def test_a_pickled_checkpoint_is_refused_unread(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    canary, path = tmp_path / "canary", tmp_path / "model.pt"
    for write in (lambda: torch.save(Canary(canary), path), lambda: path.write_bytes(pickle.dumps(Canary(canary)))):
        write()
        with pytest.raises(ModelLoadError, match=r"not a TorchScript program.*module:factory"):
            load_predictor(ModelSpec(str(path)))
        assert not canary.exists()


def test_a_script_that_writes_files_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Reader(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.from_file("secret", False, 1)

    with pytest.warns(DeprecationWarning, match="script"):
        torch.jit.script(Reader()).save(str(tmp_path / "reader.pt"))
    (tmp_path / "card.json").write_text(CARD.to_json())
    with pytest.raises(ModelLoadError, match=r"torch\.from_file"):
        load_predictor(ModelSpec(str(tmp_path / "reader.pt")))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("export") / "model.pt2"
    example = torch.zeros(2, 3, 32, 32)
    dims = {0: torch.export.Dim("n", max=8), 2: torch.export.Dim("h", max=64) * 2, 3: torch.export.Dim("w", max=64) * 2}
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3, 1, 1), torch.nn.MaxPool2d(2), torch.nn.Upsample(scale_factor=2))
    torch.export.save(torch.export.export(net.eval(), (example,), dynamic_shapes=(dims,)), path)
    return path


def _rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def _replace(old: str, new: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), 1)

    return change


def test_a_clean_export_with_pooled_shapes_passes(exported: Path) -> None:
    card = CardOverrides(0.5, named_classes(["a", "b"]), 32, mean=(0,) * 3, std=(1,) * 3, activation="softmax")
    predictor = load_predictor(ModelSpec(str(exported), card=card))
    assert predictor.card.output_stride == 2
    assert predictor.predict(np.zeros((1, 64, 32, 3), np.uint8)).shape == (1, 2, 64, 32)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"torch.ops.aten.conv2d.default"', '"torch.serialization.os.mkdir"'),
        ('"torch.ops.aten.conv2d.default"', '"torch.ops.aten.from_file.default"'),
        ('"torch.ops.aten.conv2d.default"', '"#extension:anything"'),
        ("Symbol('s", "__import__('os').mkdir('s"),
        ("Symbol('s", "Lambda(open('s"),
        ('"parameter_name": "0.weight"', '"parameter_name": "0.weight\\"); import os; (\\""'),
        ('"builtins.tuple', '"os.mkdir'),
    ],
    ids=["attribute path", "file operator", "extension", "expression", "call in expression", "name", "tree"],
)
def test_an_export_that_could_run_code_is_refused(exported: Path, old: str, new: str, tmp_path: Path) -> None:
    if old == '"builtins.tuple':  # nested JSON
        old, new = old.replace('"', '\\"'), new.replace('"', '\\"')
    path = _rewritten(exported, tmp_path / "evil.pt2", _replace(old, new))
    with pytest.raises(ModelLoadError, match="could run code"):
        load_predictor(ModelSpec(str(path)))


def test_guards_and_sample_inputs_never_reach_torch(exported: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    def change(name: str, content: bytes) -> bytes:
        if name.endswith("sample_inputs/model.pt"):
            return pickle.dumps(Canary(canary))
        if name.endswith("models/model.json"):
            parsed = json.loads(content)
            parsed["guards_code"] = [f"__import__('os').mkdir({str(canary)!r})"]
            return json.dumps(parsed).encode()
        return content

    path = _rewritten(exported, tmp_path / "evil.pt2", change)
    clean, _ = read_clean_archive(path)
    with zipfile.ZipFile(clean) as archive:
        for name in archive.namelist():
            assert b"mkdir" not in archive.read(name)
    card = CardOverrides(0.5, named_classes(["a", "b"]), 32, mean=(0,) * 3, std=(1,) * 3, activation="softmax")
    load_predictor(ModelSpec(str(path), card=card)).predict(np.zeros((1, 32, 32, 3), np.uint8))
    assert not canary.exists()


def test_a_pickled_weight_is_refused(exported: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    def change(name: str, content: bytes) -> bytes:
        if name.endswith("weights/weight_0"):
            return pickle.dumps(Canary(canary))
        if name.endswith("weights_config.json"):
            return content.replace(b'"use_pickle": false', b'"use_pickle": true').replace(
                b'"use_pickle":false', b'"use_pickle":true'
            )
        return content

    with pytest.raises(ModelLoadError, match="pickle"):
        load_predictor(ModelSpec(str(_rewritten(exported, tmp_path / "evil.pt2", change))))
    assert not canary.exists()


def test_two_files_of_one_name_are_refused(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.pt2"
    path.write_bytes(exported.read_bytes())
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("model.json"))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"{}")
    with pytest.raises(ModelLoadError, match="two files of one name"):
        read_clean_archive(path)


BY_NAME = {attack.name: attack for attack in ATTACKS}


@pytest.mark.parametrize(("name", "words"), [
    ("a script that writes when it is loaded", r"torch\.save"),
    ("a zip bomb .pt2", "unpacks to"),
    ("weights at an address, openvino", "folder of the program"),
    ("weights in two places, onnxruntime", "says twice"),
    ("weights of a name too long, openvino", "folder of the program"),
    ("weights are a pipe", "weights are a file"),
    ("card: huge tile", "at most 16384"),
    ("a card that is a link", "folder of its program"),
    ("factory sys:exit", "part of Python"),
])  # fmt: skip
def test_an_attack_is_refused(name: str, words: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    lair = Lair(tmp_path / "lair")
    asked = BY_NAME[name].make(lair)
    with pytest.raises(ModelError, match=words):
        load_predictor(ModelSpec(asked["model"], weights=asked.get("weights"), runtime=asked.get("runtime", "auto")))
    assert not lair.canary.exists()


def test_an_operator_without_its_weights_does_not_end_the_process(tmp_path: Path) -> None:
    program = zoo.chain(("Softmax", {"axis": 1}))
    del program.graph.node[0].input[1:]
    onnx.save(program, tmp_path / "model.onnx")
    (tmp_path / "card.json").write_text(CARD.replaced(classes=named_classes(["a", "b", "c"])).to_json())
    with pytest.raises(ModelLoadError, match="lacks W"):
        load_predictor(ModelSpec(str(tmp_path / "model.onnx"), runtime="openvino"))


def test_wrong_weights_are_refused_strictly(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    save_file({"unmix.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    spec = ModelSpec("wsi_seg.model.he_stain:HeStain", weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(ModelLoadError, match=r"does not fit.*Missing key"):
        load_predictor(spec)
    (tmp_path / "w.safetensors").write_bytes(io.BytesIO(b"nothing").getvalue())
    with pytest.raises(ModelLoadError, match="not a safetensors file"):
        load_predictor(spec)


@pytest.mark.parametrize("header", [
    b'{"w":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,4]}}',
    b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4000000000]}}',
    b'{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
], ids=["dimensions", "offsets", "sign"])  # fmt: skip
def test_safetensors_that_lie_are_refused(header: bytes, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ModelLoadError, match="not a safetensors file"):
        load_predictor(ModelSpec("wsi_seg.model.he_stain:HeStain", weights=str(path)))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("no-such-model", "a model is one of he-stain, identity, nuclei"),
        ("missing.onnx", "does not exist"),
        ("no_such_module:Net", "cannot be found"),
        ("wsi_seg.card:named_classes", "named_classes raises TypeError"),
    ],
)
def test_a_model_that_is_not_there(model: str, words: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(ModelLoadError, match=words):
        load_predictor(ModelSpec(model))


UNPICKLING = {"pickle": {"load", "loads", "Unpickler"}, "joblib": {"load"}, "dill": {"load", "loads"}}


_TELLS_NOBODY = """
import sys
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith("socket.") or event == "os.fork" else None)
import wsi_seg.infer.runtime.openvino_predictor, wsi_seg.infer.runtime.onnxruntime_predictor
import time
time.sleep(0.5)
assert not seen, seen
"""


def test_importing_a_runtime_tells_nobody() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    done = subprocess.run([sys.executable, "-c", _TELLS_NOBODY], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


OWN_PIPES = ("isolated.py", "isolation.py", "messages.py")
"""Files of `engine/cluster` that unpickle what a process of the same cluster wrote, which Dask itself does too."""


def test_nothing_of_ours_unpickles() -> None:
    room = Path(__file__).parents[2] / "wsi_seg"
    files = sorted(set(room.rglob("*.py")) - {room / "engine/cluster" / name for name in OWN_PIPES})
    assert files
    for path in files:
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            place = f"{path}:{call.lineno}"
            name, owner = getattr(call.func, "attr", ""), getattr(getattr(call.func, "value", None), "id", "")
            keywords = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
            assert name not in UNPICKLING.get(owner, ()), place
            assert (owner, name) != ("torch", "load") or keywords.get("weights_only") is True, place
            assert not keywords.get("allow_pickle"), place
            assert (owner, name) != ("yaml", "load"), place
