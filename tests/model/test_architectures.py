"""What is particular to one architecture, and building any of them by name."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from benchmarks.networks import unet_halo  # noqa: E402
from wsi_seg.errors import UsageError  # noqa: E402
from wsi_seg.model.building import ARCHITECTURES, build_network, defaults  # noqa: E402
from wsi_seg.model.cost import count_macs, count_parameters  # noqa: E402
from wsi_seg.model.layers import Head, SeparableConv, Up  # noqa: E402
from wsi_seg.model.receptive_field import receptive_halo  # noqa: E402
from wsi_seg.model.separable import rank_one, separable  # noqa: E402


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def supervised(depth: int = 3) -> Any:
    return build_network("unet++", 2, width=4, depth=depth, deep_supervision=True)


class TestBuilding:
    def test_options_of_one_name_have_one_default(self) -> None:
        seen: dict[str, object] = {}
        for _, kind in ARCHITECTURES.values():
            for name, value in defaults(kind).items():
                assert seen.setdefault(name, value) == value

    def test_defaults_are_those_of_the_training_configuration(self) -> None:
        config = pytest.importorskip("wsi_seg.train.config")
        fields = config.ModelConfig().model_dump(exclude={"architecture"})
        for name, (_, kind) in ARCHITECTURES.items():
            own = {key: value for key, value in defaults(kind).items() if key in fields}
            assert own == {key: fields[key] for key in own}, name

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_every_architecture_takes_the_whole_configuration(self, architecture: str) -> None:
        config = pytest.importorskip("wsi_seg.train.config")
        fields = config.ModelConfig(width=4, depth=1).model_dump(exclude={"architecture"})
        assert build_network(architecture, 5, **fields).n_classes == 5

    @pytest.mark.parametrize(
        ("architecture", "options", "words"),
        [
            ("vnet", {}, "one of unet"),
            ("unet", {"window": 4}, "unet has no option window=4; it has width, depth"),
            ("unet", {"colour": 1}, "no option colour"),
            ("unet", {"stem_stride": 3}, "one of 1, 2, 4"),
            ("unet++", {"up": "nearest"}, "resize, transposed"),
            ("swin-unet", {"odd_sizes": "crop"}, "pad, overlap, fit"),
            ("resnet-unet", {"resnet_layers": 50}, "18, 34"),
            ("resnet-unet", {"depth": 5}, "at most 4"),
            ("unet", {"width": 0}, "at least 1"),
            ("unet", {"dropout": 1.5}, "share"),
        ],
    )
    def test_what_is_wrong_is_named(self, architecture: str, options: dict[str, Any], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            build_network(architecture, 2, **options)


class TestUNetPlusPlus:
    def test_every_depth_has_a_head_while_training_deepest_first(self) -> None:
        network = supervised().train()
        x = torch.randn(2, 3, 40, 33)
        logits = network.decode(network.encode(x), (40, 33))
        assert [y.shape for y in logits] == [(2, 2, 40, 33)] * 3
        network.eval()
        assert len(network.decode(network.encode(x), (40, 33))) == 1

    @pytest.mark.parametrize("depth", [1, 2, 3])
    def test_a_pruned_network_is_the_head_of_its_depth(self, depth: int) -> None:
        network = supervised().train()
        for part in network.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.track_running_stats = False  # batch statistics in both, so that all heads can be asked for
        x = torch.randn(1, 3, 32, 48)
        pruned = network.pruned(depth)
        assert pruned.output_stride == 2**depth
        with torch.no_grad():
            heads = network.decode(network.encode(x), (32, 48))
            assert torch.equal(pruned(x), heads[3 - depth])
        assert count_parameters(pruned) < count_parameters(network)

    def test_pruning_copies(self) -> None:
        network = supervised(2)
        for parameter in network.pruned(1).parameters():
            torch.nn.init.zeros_(parameter)
        assert all(p.abs().sum() > 0 for p in network.encoder[0][0].conv.parameters())

    def test_there_is_no_pruning_without_a_head(self) -> None:
        with pytest.raises(UsageError, match="heads at 2"):
            build_network("unet++", 2, width=2, depth=2).pruned(1)


class TestResNet:
    @pytest.mark.parametrize(("layers", "parameters"), [(18, 11_176_512), (34, 21_284_672)])
    def test_the_encoder_has_the_parameters_of_torchvisions(self, layers: int, parameters: int) -> None:
        encoder = build_network("resnet-unet", 2, width=64, resnet_layers=layers).encoder
        assert count_parameters(encoder) == parameters  # without the classifier of 513,000

    def test_names_and_shapes_are_torchvisions(self) -> None:
        encoder = build_network("resnet-unet", 2, width=64, depth=2).encoder
        shapes = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
        assert shapes["conv1.weight"] == (64, 3, 7, 7)
        assert shapes["bn1.running_var"] == (64,)
        assert shapes["layer1.1.conv2.weight"] == (64, 64, 3, 3)
        assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
        assert shapes["layer2.0.downsample.1.num_batches_tracked"] == ()
        assert "layer1.0.downsample.0.weight" not in shapes


class TestLayers:
    def test_bilinear_after_the_convolution_is_bilinear_before_it(self) -> None:
        up, x = Up(6, 3, "resize"), torch.randn(1, 6, 5, 7)
        expected = up.conv(torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear"))
        torch.testing.assert_close(up(x), expected)

    def test_a_fresh_sub_pixel_head_repeats_its_pixels(self) -> None:
        y = Head(8, 3, 4)(torch.randn(2, 8, 5, 6))
        assert torch.equal(y, y[..., ::4, ::4].repeat_interleave(4, -1).repeat_interleave(4, -2))

    def test_kaiming_keeps_the_scale_of_activations(self) -> None:
        network = build_network("unet", 2, width=16, depth=3).eval()  # norms are the identity at first
        with torch.inference_mode():
            deepest = network.encode(torch.randn(1, 3, 64, 64))[-1]
        assert 0.2 < deepest.square().mean().sqrt() < 5


class TestSeparable:
    def test_a_kernel_of_rank_one_is_kept(self) -> None:
        depthwise, pointwise = torch.randn(5, 1, 3, 3), torch.randn(7, 5, 1, 1)
        weight = pointwise * depthwise.transpose(0, 1)
        a, b = rank_one(weight)
        torch.testing.assert_close(b * a.transpose(0, 1), weight)

    def test_no_nearby_product_is_nearer(self) -> None:
        weight = torch.randn(7, 5, 3, 3)
        a, b = rank_one(weight)
        best = (b * a.transpose(0, 1) - weight).norm()
        for _ in range(20):
            moved = (b + 0.05 * torch.randn_like(b)) * (a + 0.05 * torch.randn_like(a)).transpose(0, 1)
            assert (moved - weight).norm() > best

    @pytest.mark.parametrize("architecture", ["unet", "unet++", "resnet-unet"])
    def test_conversion_has_the_names_of_a_network_built_separable(self, architecture: str) -> None:
        options = {"width": 4, "depth": 2}
        network = build_network(architecture, 2, **options)
        converted = separable(network)
        built = build_network(architecture, 2, **options, separable=True)
        built.load_state_dict(converted.state_dict())
        x = torch.randn(1, 3, 32, 32)
        assert torch.equal(built.eval()(x), converted.eval()(x))
        assert not any(isinstance(part, SeparableConv) for part in network.modules()), "the original changed"

    def test_a_network_of_separable_kernels_computes_the_same(self) -> None:
        network = build_network("unet", 2, width=4, depth=1).eval()
        for part in network.modules():
            if isinstance(part, torch.nn.Conv2d) and part.kernel_size == (3, 3) and part.in_channels > 3:
                a, b = rank_one(part.weight.detach())
                part.weight.data = b * a.transpose(0, 1)
        x = torch.randn(1, 3, 16, 16)
        torch.testing.assert_close(separable(network)(x), network(x), atol=1e-5, rtol=1e-4)


class TestCost:
    def test_macs_by_hand(self) -> None:
        network = build_network("unet", 2, width=4, depth=1)
        pixels = 16 * 24
        full = 9 * (3 * 4 + 4 * 4) + 9 * (8 * 4 + 4 * 4) + 4 * 2  # first stage, decoder stage, head
        half = 9 * (4 * 8 + 8 * 8) + 8 * 4  # second stage, 1x1 before up-sampling
        assert count_macs(network, (16, 24)) == full * pixels + half * pixels // 4

    def test_attention_is_counted(self) -> None:
        assert count_macs(build_network("swin-unet", 2, width=8, depth=1), (64, 64)) > 1e6

    @pytest.mark.parametrize("depth", [1, 2, 3])
    def test_the_measured_halo_is_that_of_interval_arithmetic(self, depth: int) -> None:
        assert receptive_halo(build_network("unet", 2, width=2, depth=depth, up="transposed")) == unet_halo(depth)

    def test_context_beyond_the_largest_input_is_unbounded(self) -> None:
        assert receptive_halo(build_network("unet", 2, width=2, depth=3), largest=64) is None
