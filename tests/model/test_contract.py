"""What every network promises, whatever its architecture and options."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from wsi_seg.card import ModelCard, named_classes  # noqa: E402
from wsi_seg.model.building import build_network  # noqa: E402
from wsi_seg.model.network import Network, Probabilities  # noqa: E402
from wsi_seg.model.receptive_field import receptive_halo  # noqa: E402

SMALL = {"width": 4, "depth": 2}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "unet": ("unet", SMALL),
    "unet strided": ("unet", SMALL | {"stem_stride": 2, "down": "stride", "up": "transposed"}),
    "unet stem 4, separable": ("unet", SMALL | {"stem_stride": 4, "separable": True}),
    "unet++": ("unet++", SMALL),
    "unet++ supervised": ("unet++", SMALL | {"deep_supervision": True, "stem_stride": 2, "down": "stride"}),
    "resnet-unet": ("resnet-unet", SMALL),
    "resnet-unet separable": ("resnet-unet", SMALL | {"separable": True, "up": "transposed", "resnet_layers": 34}),
    "swin-unet pad": ("swin-unet", SMALL | {"window": 3, "position_encoding": True, "width": 5}),
    "swin-unet overlap": ("swin-unet", SMALL | {"window": 3, "odd_sizes": "overlap"}),
    "swin-unet fit": ("swin-unet", SMALL | {"window": 3, "odd_sizes": "fit"}),
}
LOCAL = [name for name in CASES if not name.startswith("swin")]
N_CLASSES = 3


def made(case: str, **more: Any) -> Network:
    architecture, options = CASES[case]
    torch.manual_seed(0)
    network = build_network(architecture, N_CLASSES, **(options | more))
    for part in network.modules():  # running statistics that matter
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    return network


def noise(*shape: int, seed: int = 1) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", CASES)
class TestContract:
    @pytest.mark.parametrize("size", [(1, 1), (37, 50), (64, 96)], ids=str)
    def test_any_size_comes_back(self, case: str, size: tuple[int, int]) -> None:
        network = made(case).eval()
        with torch.inference_mode():
            assert network(noise(2, 3, *size)).shape == (2, N_CLASSES, *size)

    def test_an_odd_size_is_the_picture_with_its_border_repeated(self, case: str) -> None:
        network, x = made(case).eval(), noise(1, 3, 19, 30)
        rows, columns = (torch.arange(n + -n % network.output_stride).clamp(max=n - 1) for n in (19, 30))
        with torch.inference_mode():
            padded = network(x[:, :, rows][:, :, :, columns])
            torch.testing.assert_close(network(x), padded[:, :, :19, :30])

    def test_features_go_from_fine_to_deep(self, case: str) -> None:
        network = made(case).eval()
        side = 2 * network.output_stride
        with torch.inference_mode():
            features = network.encode(noise(1, 3, side, side))
        sides = [x.shape[-1] for x in features]
        assert sides == sorted(sides, reverse=True)
        assert features[-1].shape == (1, network.feature_channels, 2, 2)

    def test_forward_is_decode_of_encode(self, case: str) -> None:
        network, x = made(case).eval(), noise(1, 3, 21, 34)
        with torch.inference_mode():
            assert torch.equal(network(x), network.decode(network.encode(x), (21, 34))[0])

    def test_a_prediction_does_not_depend_on_its_neighbours_in_the_batch(self, case: str) -> None:
        network, x = made(case).eval(), noise(3, 3, 40, 32)
        with torch.inference_mode():
            together = network(x)
            alone = torch.cat([network(x[k : k + 1]) for k in range(3)])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)

    def test_every_parameter_is_in_exactly_one_stage(self, case: str) -> None:
        network = made(case)
        staged = [id(p) for stage in network.stages() for p in stage.parameters()]
        assert len(staged) == len(set(staged))
        assert set(staged) == {id(p) for p in network.parameters()}
        encoder = {id(p) for p in network.encoder.parameters()}
        inside = [all(id(p) in encoder for p in stage.parameters()) for stage in network.stages()]
        assert inside == sorted(inside, reverse=True), "encoder stages come first"
        assert any(inside)

    def test_every_parameter_learns(self, case: str) -> None:
        network = made(case).train()
        x = noise(2, 3, 48, 64)
        sum(y.square().mean() for y in network.decode(network.encode(x), (48, 64))).backward()
        assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []

    def test_recomputing_changes_neither_gradients_nor_statistics(self, case: str) -> None:
        plain = made(case, dropout=0.4).train()
        recomputing = deepcopy(plain)
        recomputing.checkpointing = True
        counted = []
        for network in (plain, recomputing):
            torch.manual_seed(5)
            passes = Count(network.stages()[0])
            for _ in range(2):  # statistics move twice
                y = network.decode(network.encode(noise(2, 3, 37, 33)), (37, 33))
                sum(x.square().mean() for x in y).backward()
            counted.append(passes.n)
        assert counted == [2, 4], "checkpointing did not recompute"
        for (name, a), b in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
            assert torch.equal(a.grad, b.grad), name
        for (name, a), b in zip(plain.named_buffers(), recomputing.buffers(), strict=True):
            assert torch.equal(a, b), name
            assert not name.endswith("num_batches_tracked") or a == 2

    def test_recomputing_leaves_frozen_statistics_in_use(self, case: str) -> None:
        plain = made(case).eval()
        recomputing = deepcopy(plain)
        recomputing.checkpointing = True
        for network in (plain, recomputing):
            network(noise(1, 3, 32, 32)).square().mean().backward()
        for a, b in zip(plain.parameters(), recomputing.parameters(), strict=True):
            assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad)


class Count:
    """Forward passes of a module's first child that computes."""

    def __init__(self, module: Any) -> None:
        self.n = 0
        leaf = next(part for part in module.modules() if isinstance(part, torch.nn.Conv2d))
        leaf.register_forward_hook(self._add)

    def _add(self, *_: Any) -> None:
        self.n += 1


@pytest.mark.parametrize("case", LOCAL)
def test_the_halo_is_the_reach_of_a_pixel(case: str) -> None:
    # depth 1 keeps halos small enough for a whole picture; in double precision nothing hides in rounding
    network = made(case, depth=1).double().eval()
    halo, stride = receptive_halo(network), network.output_stride
    assert halo is not None
    side = stride * (2 * halo // stride + 6)
    x = noise(1, 3, side, side).double()
    reached = 0
    with torch.inference_mode():
        before = network(x)
        for phase in range(stride):
            row = side // 2 // stride * stride + phase
            changed = x.clone()
            changed[:, :, : row - halo] += 3
            changed[:, :, row + halo + 1 :] -= 3
            assert torch.equal(network(changed)[:, :, row], before[:, :, row])
            for inside in (row - halo, row + halo):
                changed = x.clone()
                changed[:, :, inside] += 100
                reached += not torch.equal(network(changed)[:, :, row], before[:, :, row])
    assert reached, "no phase needs the whole halo"


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("swin")])
def test_attention_has_no_halo(case: str) -> None:
    assert receptive_halo(made(case)) is None


FAST_EXPORTS = ("unet strided",)


@pytest.mark.parametrize(
    "case", [name if name in FAST_EXPORTS else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_the_exported_program_is_the_network(case: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    from wsi_seg.model.onnx_export import export_onnx

    # A window wider than 4 tokens: fewer windows in the traced example than at work were once taken for a constant.
    network = made(case, depth=1, **({"window": 6} if case.startswith("swin") else {})).eval()
    module, stride = Probabilities(network).eval(), network.output_stride
    card = ModelCard("net", 0.5, named_classes(["a", "b", "c"]), 16 * stride, output_stride=stride)
    export_onnx(module, card, tmp_path / "net.onnx")
    session = ort.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 3 * stride, 5 * stride), (3, 3, 16 * stride, stride)):
        x = noise(*shape)
        with torch.inference_mode():
            expected = module(x).numpy()
        np.testing.assert_allclose(session.run(None, {"image": x.numpy()})[0], expected, atol=1e-5)
