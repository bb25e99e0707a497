"""Models that mean harm, each in a folder of its own with something outside to steal and a canary to set free.

Owns the attacks. Loads nothing; every maker answers what a user would name: model, weights, runtime.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.chaos.malformed import CARD, Sound, sound_models
from tests.models_of_others import zoo

Asked = dict[str, Any]
FACTORY = "wsi_seg.model.he_stain:HeStain"
GIB = 1 << 30


class Canary:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@dataclass(slots=True)
class Lair:
    """A folder with a model, and what must not be touched beside it."""

    root: Path
    must_fail: bool = True
    model: Path = field(init=False)
    outside: Path = field(init=False)
    canary: Path = field(init=False)

    def __post_init__(self) -> None:
        self.model, self.outside, self.canary = self.root / "model", self.root / "outside", self.root / "canary"
        self.model.mkdir(parents=True)
        self.outside.mkdir()
        (self.outside / "secret.bin").write_bytes(np.ones(4096, np.float32).tobytes())

    @property
    def secret(self) -> Path:
        return self.outside / "secret.bin"

    def write(self, name: str, content: bytes, *, card: bool = True) -> Path:
        """A file of the model, and a sound card beside it."""
        path = self.model / name
        path.write_bytes(content)
        if card:
            (self.model / "card.json").write_text(CARD.to_json())
        return path


@dataclass(frozen=True, slots=True)
class Attack:
    """A name, and what is written for it."""

    name: str
    make: Callable[[Lair], Asked]


def _program() -> onnx.ModelProto:
    return zoo.chain(("Softmax", {"axis": 1}))


def _pickled(suffix: str, lair: Lair) -> Asked:
    return {"model": str(lair.write(f"model{suffix}", pickle.dumps(Canary(lair.canary))))}


def _pickled_weights(suffix: str, lair: Lair) -> Asked:
    return {"model": FACTORY, "weights": str(lair.write(f"w{suffix}", pickle.dumps(Canary(lair.canary))))}


def _pickled_zip(suffix: str, lair: Lair) -> Asked:
    """As torch.save writes, with a pickle that runs code."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Canary(lair.canary)))
        archive.writestr("archive/version", "3")
    return {"model": str(lair.write(f"model{suffix}", packed.getvalue()))}


def _pickled_numpy(lair: Lair) -> Asked:
    packed = io.BytesIO()
    np.savez(packed, weights=np.array([Canary(lair.canary)], object))
    return {"model": FACTORY, "weights": str(lair.write("weights.npz", packed.getvalue()))}


def _script(lair: Lair, *, state: str) -> Asked:
    """A TorchScript whose code touches files when it is loaded (`state`), or when it runs."""
    path = lair.write("model.pt", _script_archive(lair, "__setstate__" if state == "loaded" else "forward"))
    return {"model": str(path)}


def _script_archive(lair: Lair, where: str) -> bytes:
    write = f"    torch.save(torch.zeros([1]), {json.dumps(str(lair.canary))})\n"
    code = (
        "class M(Module):\n  __parameters__ = []\n  __buffers__ = []\n  training : bool\n  path : str\n"
        "  def forward(self: __torch__.M,\n    x: Tensor) -> Tensor:\n"
        + (write if where == "forward" else "")
        + "    return x\n  def __getstate__(self: __torch__.M) -> Tuple[str, bool]:\n    path = self.path\n"
        "    training = self.training\n    return (path, training)\n"
        "  def __setstate__(self: __torch__.M,\n    s: Tuple[str, bool]) -> NoneType:\n    self.path = (s)[0]\n"
        "    self.training = (s)[1]\n" + (write if where == "__setstate__" else "") + "    return None\n"
    )
    data = b"\x80\x02c__torch__\nM\nq\x00)\x81q\x01X\x01\x00\x00\x00xq\x02\x89\x86q\x03b."
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in (
            ("data.pkl", data), ("code/__torch__.py", code.encode()), ("constants.pkl", b"\x80\x02)."),
            ("version", b"3\n"), ("byteorder", b"little"),
        ):  # fmt: skip
            archive.writestr(f"m/{name}", content)
    return packed.getvalue()


def _zip_bomb(suffix: str, lair: Lair) -> Asked:
    """A gigabyte of zeros in a megabyte."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("data/weights/weight_0", "code/__torch__.py"):
            with archive.open(f"m/{name}", "w", force_zip64=True) as file:
                for _ in range(8):
                    file.write(bytes(GIB // 16))
    return {"model": str(lair.write(f"model{suffix}", packed.getvalue()))}


def _deep_archive(lair: Lair) -> Asked:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("m/models/model.json", "[" * 200_000)
    return {"model": str(lair.write("model.pt2", packed.getvalue()))}


def _external(lair: Lair, location: str, runtime: str, **place: int) -> Asked:
    """Weights in another file, by a name that leads out or is no file."""
    program = _program()
    tensor = program.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **place}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return {"model": str(lair.write("model.onnx", program.SerializeToString())), "runtime": runtime}


def _link_out(lair: Lair, runtime: str) -> Asked:
    (lair.model / "w.bin").symlink_to(lair.secret)
    return _external(lair, "w.bin", runtime)


def _folder_link_out(lair: Lair, runtime: str) -> Asked:
    (lair.model / "sub").symlink_to(lair.outside)
    return _external(lair, "sub/secret.bin", runtime)


def _pipe_as_weights(lair: Lair, runtime: str) -> Asked:
    os.mkfifo(lair.model / "w.bin")
    return _external(lair, "w.bin", runtime)


def _memory_address(lair: Lair, runtime: str) -> Asked:
    """A name that both runtimes take for an address, with a file of that very name so that it looks harmless."""
    odd = lair.model / "*" / "_ORT_MEM_ADDR_"
    odd.mkdir(parents=True)
    (odd / "*").write_bytes(bytes(4096))
    return _external(lair, "*/_ORT_MEM_ADDR_/*", runtime, offset=64, length=36)


def _two_places(lair: Lair, runtime: str) -> Asked:
    """The same key twice: readers differ in which they take."""
    (lair.model / "w.bin").write_bytes(bytes(4096))
    asked = _external(lair, str(lair.secret), runtime)
    program = onnx.load(asked["model"], load_external_data=False)
    entry = program.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "w.bin"
    lair.write("model.onnx", program.SerializeToString())
    return asked


def _custom_operator(lair: Lair, runtime: str) -> Asked:
    program = _program()
    program.graph.node[0].domain = "com.evil"
    program.opset_import.append(helper.make_opsetid("com.evil", 1))
    return {"model": str(lair.write("model.onnx", program.SerializeToString())), "runtime": runtime}


def _lying_tensor(lair: Lair, runtime: str) -> Asked:
    program = _program()
    program.graph.initializer[0].dims[0] = 1 << 40
    return {"model": str(lair.write("model.onnx", program.SerializeToString())), "runtime": runtime}


def _endless_loop_of_nodes(lair: Lair, runtime: str) -> Asked:
    program = _program()
    program.graph.node[0].input[0] = "y"
    return {"model": str(lair.write("model.onnx", program.SerializeToString())), "runtime": runtime}


def _huge_constant(lair: Lair, runtime: str) -> Asked:
    """A graph of a few bytes that makes a tensor of many terabytes."""
    program = _program()
    shape = numpy_helper.from_array(np.array([1 << 21, 1 << 21], np.int64), "shape")
    program.graph.initializer.append(shape)
    program.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["huge"]))
    program.graph.node.insert(1, helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0))
    program.graph.node[-1].output[0] = "before"
    program.graph.node.append(helper.make_node("Add", ["before", "sum"], ["y"]))
    return {"model": str(lair.write("model.onnx", program.SerializeToString())), "runtime": runtime}


def _safetensors(head: bytes, length: int | None, lair: Lair) -> Asked:
    told = len(head) if length is None else length
    return {"model": FACTORY, "weights": str(lair.write("w.safetensors", told.to_bytes(8, "little") + head + bytes(8)))}


def _weights_pipe(lair: Lair) -> Asked:
    os.mkfifo(lair.model / "w.safetensors")
    return {"model": FACTORY, "weights": str(lair.model / "w.safetensors")}


def _weights_device(lair: Lair) -> Asked:
    (lair.model / "w.safetensors").symlink_to("/dev/zero")
    return {"model": FACTORY, "weights": str(lair.model / "w.safetensors")}


def _not_a_file(suffix: str, target: str, lair: Lair) -> Asked:
    path = lair.model / f"model{suffix}"
    if target == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(target)
    return {"model": str(path), "card": True}


def _engine(lair: Lair) -> Asked:
    return {"model": str(lair.write("model.engine", b"wsi-seg engine 1\n" + pickle.dumps(Canary(lair.canary))))}


def _card(content: bytes, lair: Lair) -> Asked:
    path = lair.write("model.onnx", _program().SerializeToString(), card=False)
    (lair.model / "card.json").write_bytes(content)
    return {"model": str(path)}


def _yaml_card(lair: Lair) -> Asked:
    """A YAML file that would run code, where a careless program would look for a card."""
    lair.must_fail = False
    path = lair.write("model.onnx", _program().SerializeToString())
    for name in ("card.yaml", "model.yaml", "config.yml"):
        (lair.model / name).write_text(f"!!python/object/apply:os.mkdir [{str(lair.canary)!r}]")
    return {"model": str(path)}


def _card_link(lair: Lair) -> Asked:
    path = lair.write("model.onnx", _program().SerializeToString(), card=False)
    lair.secret.write_text(CARD.to_json())
    (lair.model / "card.json").symlink_to(lair.secret)
    return {"model": str(path)}


def _ir(lair: Lair, change: Callable[[str], str] = str) -> Path:
    sound: Sound = sound_models()
    (lair.model / "model.bin").write_bytes(sound.bin)
    return lair.write("model.xml", change(sound.xml.decode()).encode())


def _ir_link(lair: Lair) -> Asked:
    path = _ir(lair)
    (lair.model / "model.bin").unlink()
    (lair.model / "model.bin").symlink_to(lair.secret)
    return {"model": str(path)}


def _ir_pipe(lair: Lair) -> Asked:
    path = _ir(lair)
    (lair.model / "model.bin").unlink()
    os.mkfifo(lair.model / "model.bin")
    return {"model": str(path)}


def _ir_entity(lair: Lair) -> Asked:
    lair.must_fail = False  # entities are not looked at: the name is taken as it stands
    head = f'<!DOCTYPE net [<!ENTITY s SYSTEM "file://{lair.secret}">]>'
    return {
        "model": str(_ir(lair, lambda xml: xml.replace("<net ", f"{head}<net ", 1).replace('name="x"', 'name="&s;"')))
    }


def _ir_laughs(lair: Lair) -> Asked:
    lair.must_fail = False
    lines = ['<!ENTITY a0 "ha">'] + [f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 20)]
    head = f"<!DOCTYPE net [{''.join(lines)}]>"
    return {
        "model": str(_ir(lair, lambda xml: xml.replace("<net ", f"{head}<net ", 1).replace('name="x"', 'name="&a19;"')))
    }


def _ir_offset(lair: Lair) -> Asked:
    return {"model": str(_ir(lair, lambda xml: xml.replace('offset="0"', 'offset="99999999999"')))}


def _ir_operation(lair: Lair) -> Asked:
    return {"model": str(_ir(lair, lambda xml: xml.replace('version="opset1"', 'version="extension"')))}


def _ir_deep(lair: Lair) -> Asked:
    lair.write("model.bin", b"")
    return {"model": str(lair.write("model.xml", b"<net>" * 200_000))}


def _factory(name: str, lair: Lair) -> Asked:
    del lair
    return {"model": name}


def _pairs(name: str, make: Callable[..., Asked], **more: Any) -> Iterator[Attack]:
    """An attack on each runtime of ONNX."""
    for runtime in ("openvino", "onnxruntime"):
        yield Attack(f"{name}, {runtime}", partial(make, runtime=runtime, **more))


_HEADS: dict[str, tuple[bytes, int | None]] = {
    "dimensions": (b'{"w":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,4]}}', None),
    "offsets": (b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4000000000]}}', None),
    "length": (b"{}", 2**63 - 1),
    "depth": (b"[" * 100_000, None),
    "overlap": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        None,
    ),
}
_CARDS = {
    "depth": b'{"a":' * 100_000, "digits": b'{"mpp":' + b"9" * 100_000 + b"}",
    "size": b'{"name":"' + b"x" * (20 << 20) + b'"}',
    "infinity": b'{"name":"m","mpp":1e999,"classes":["a","b"]}', "many classes": json.dumps(
        {"name": "m", "mpp": 0.5, "classes": [str(n) for n in range(200_000)]}).encode(),
    "huge tile": b'{"name":"m","mpp":0.5,"classes":["a","b","c"],"tile_size":1099511627776}',
    "promises another hash": b'{"name":"m","mpp":0.5,"classes":["a","b","c"],"weights_sha256":"' + b"0" * 64 + b'"}',
}  # fmt: skip
_FACTORIES = (
    "os:system", "os:abort", "sys:exit", "pdb:set_trace", "builtins:breakpoint", "subprocess:Popen", "pty:spawn",
    "antigravity:fly", "posix:abort", "_posixsubprocess:fork_exec", "code:interact", "runpy:run_path", "ctypes:CDLL",
    "os.path:join",
)  # fmt: skip

ATTACKS: tuple[Attack, ...] = (
    *(Attack(f"a pickle as {s}", partial(_pickled, s)) for s in (".pt", ".ts", ".pt2", ".onnx", ".xml", ".pth")),
    Attack("a pickle as .bin", partial(_pickled, ".bin")),
    *(Attack(f"a pickle as weights {s}", partial(_pickled_weights, s)) for s in (".bin", ".safetensors", ".pth")),
    *(Attack(f"a pickle in a zip {s}", partial(_pickled_zip, s)) for s in (".pt", ".ts", ".pt2")),
    Attack("a pickle in npz weights", _pickled_numpy),
    Attack("a script that writes when it is loaded", partial(_script, state="loaded")),
    Attack("a script that writes when it runs", partial(_script, state="runs")),
    *(Attack(f"a zip bomb {s}", partial(_zip_bomb, s)) for s in (".pt", ".pt2")),
    Attack("a deep archive", _deep_archive),
    *_pairs("weights up a folder", _external, location="../outside/secret.bin"),
    *_pairs("weights up and down", _external, location="sub/../../outside/secret.bin"),
    *_pairs("weights at /etc", _external, location="/etc/hostname"),
    *_pairs("weights of a device", _external, location="/dev/zero"),
    *_pairs("weights of a process", _external, location="/proc/self/environ"),
    *_pairs("weights of a link", _link_out),
    *_pairs("weights of a linked folder", _folder_link_out),
    *_pairs("weights of a pipe", _pipe_as_weights),
    *_pairs("weights at a huge offset", _external, location="card.json", offset=2**63 - 1),
    *_pairs("weights before the start", _external, location="card.json", offset=-4096),
    *_pairs("weights of a name too long", _external, location="x" * 5000),
    *_pairs("weights at an address", _memory_address),
    *_pairs("weights in two places", _two_places),
    *_pairs("a custom operator", _custom_operator),
    *_pairs("a tensor that lies", _lying_tensor),
    *_pairs("a graph that is a ring", _endless_loop_of_nodes),
    *_pairs("a huge constant", _huge_constant),
    *(Attack(f"safetensors: {name}", partial(_safetensors, *head)) for name, head in _HEADS.items()),
    Attack("weights are a pipe", _weights_pipe),
    Attack("weights are a device", _weights_device),
    *(Attack(f"{s} is a pipe", partial(_not_a_file, s, "pipe")) for s in (".onnx", ".pt", ".xml")),
    *(Attack(f"{s} is a device", partial(_not_a_file, s, "/dev/zero")) for s in (".onnx", ".pt2")),
    Attack("an engine without trust", _engine),
    *(Attack(f"card: {name}", partial(_card, content)) for name, content in _CARDS.items()),
    Attack("a card in YAML", _yaml_card),
    Attack("a card that is a link", _card_link),
    Attack("IR weights that are a link", _ir_link),
    Attack("IR weights that are a pipe", _ir_pipe),
    Attack("IR with an external entity", _ir_entity),
    Attack("IR with a billion laughs", _ir_laughs),
    Attack("IR with a huge offset", _ir_offset),
    Attack("IR with an operation of strangers", _ir_operation),
    Attack("IR of 200,000 elements in each other", _ir_deep),
    *(Attack(f"factory {name}", partial(_factory, name)) for name in _FACTORIES),
)  # fmt: skip
