"""Weights from files: what is understood, what must fit, and that no code runs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from wsi_seg.errors import CheckpointError  # noqa: E402
from wsi_seg.model.building import build_network  # noqa: E402
from wsi_seg.model.weights import BEST, load_weights, read_weights, write_weights  # noqa: E402


def network(seed: int, n_classes: int = 2, architecture: str = "unet", **options: Any) -> Any:
    torch.manual_seed(seed)
    return build_network(architecture, n_classes, **({"width": 4, "depth": 1} | options))


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


@pytest.mark.parametrize("form", ["safetensors", "run folder", "state dict", "checkpoint", "distributed"])
def test_every_form_is_read(form: str, tmp_path: Path) -> None:
    trained, fresh = network(1), network(2)
    state = trained.state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        write_weights(state, path)
    elif form == "run folder":
        write_weights(state, tmp_path / BEST)
        path = tmp_path
    elif form == "state dict":
        torch.save(state, path)
    elif form == "checkpoint":
        torch.save({"epoch": 3, "optimiser": {"lr": 1.0}, "network": state}, path)
    else:
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    assert not same(trained, fresh)
    loaded = load_weights(fresh, path)
    assert same(trained, fresh)
    assert set(loaded.taken) == set(state)
    assert loaded.left_out == loaded.unused == ()


def test_a_head_of_another_size_is_left_out_and_said(tmp_path: Path) -> None:
    write_weights(network(1, n_classes=5).state_dict(), tmp_path / "w.safetensors")
    fresh = network(2)
    head = fresh.head.conv.weight.clone()
    loaded = load_weights(fresh, tmp_path / "w.safetensors")
    assert loaded.left_out == ("head.conv.weight", "head.conv.bias")
    assert torch.equal(fresh.head.conv.weight, head)
    assert torch.equal(fresh.decoder[0].up.conv.weight, network(1, n_classes=5).decoder[0].up.conv.weight)


def test_the_encoder_alone(tmp_path: Path) -> None:
    write_weights(network(1).state_dict(), tmp_path / "w.safetensors")
    fresh, untouched = network(2), network(2)
    loaded = load_weights(fresh, tmp_path / "w.safetensors", part="encoder")
    assert all(name.startswith("encoder.") for name in loaded.taken)
    assert same(fresh.encoder, network(1).encoder)
    assert same(fresh.decoder, untouched.decoder)


@pytest.mark.parametrize("tracked", [True, False])
def test_a_torchvision_file_fills_the_resnet_encoder(tracked: bool, tmp_path: Path) -> None:
    source = network(1, architecture="resnet-unet", depth=4).encoder.state_dict()
    state = {k: v for k, v in source.items() if tracked or not k.endswith("num_batches_tracked")}
    torch.save(state | {"fc.weight": torch.zeros(1000, 32), "fc.bias": torch.zeros(1000)}, tmp_path / "resnet.pth")
    fresh = network(2, architecture="resnet-unet", depth=4)
    load_weights(fresh, tmp_path / "resnet.pth", part="encoder")
    assert all(torch.equal(fresh.encoder.state_dict()[k], v) for k, v in state.items())
    shallow = network(2, architecture="resnet-unet", depth=2)
    load_weights(shallow, tmp_path / "resnet.pth", part="encoder")
    with pytest.raises(CheckpointError, match=r"part: encoder"):
        load_weights(fresh, tmp_path / "resnet.pth")


def test_a_deeper_resnet_is_not_taken_in_part(tmp_path: Path) -> None:
    deeper = network(1, architecture="resnet-unet", depth=2, resnet_layers=34)
    torch.save(deeper.encoder.state_dict(), tmp_path / "resnet34.pth")
    fresh = network(2, architecture="resnet-unet", depth=2)
    with pytest.raises(CheckpointError, match=r"more of encoder\.layer1 .*encoder\.layer1\.2\..*taken whole"):
        load_weights(fresh, tmp_path / "resnet34.pth", part="encoder")
    assert same(fresh, network(2, architecture="resnet-unet", depth=2))


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    write_weights(network(1, width=8).state_dict(), tmp_path / "w.safetensors")
    fresh = network(2)
    with pytest.raises(CheckpointError, match=r"encoder\.0\.0\.conv\.weight \(4, 3, 3, 3\) has shape \(8, 3, 3, 3\)"):
        load_weights(fresh, tmp_path / "w.safetensors")
    assert same(fresh, network(2))


class Boom:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.path),))

    def __init__(self, path: Path) -> None:
        self.path = str(path)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"network": Boom(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="code is never unpickled"):
        read_weights(tmp_path / "evil.pt")
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps(Boom(tmp_path / "ran")))
    with pytest.raises(CheckpointError):
        read_weights(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.safetensors", b"not tensors at all", "not a file of weights"),
        ("a.pt", b"", "not a file of weights"),
        ("a.pt", b"PK\x03\x04 broken", "not a file of weights"),
        ("missing.safetensors", None, "cannot read"),
        ("missing.pt", None, "cannot read"),
    ],
)
def test_broken_files_are_named(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        read_weights(tmp_path / name)


def test_a_file_without_tensors_is_said(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="no mapping of names to tensors"):
        read_weights(tmp_path / "a.pt")
