"""Statistics that stand still, and statistics estimated anew."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from wsi_seg.train.method.batch_norm import freeze_batch_norm, recalibrate, thaw_batch_norm

torch.set_num_threads(1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))


def statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def trained(module: nn.Module) -> bool:
    """Whether a training step moves the statistics; always moves the parameters."""
    before, weights = statistics(module), copy.deepcopy(list(module.parameters()))
    module.train()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.randn(4, 3, 6, 6) * 3 + 1).square().mean().backward()
    optimiser.step()
    assert not torch.equal(weights[0], next(module.parameters()))
    return not same(before, statistics(module))


def test_frozen_statistics_do_not_move_and_are_used() -> None:
    module = network()
    module.train()
    module(torch.randn(4, 3, 6, 6) - 2)
    assert freeze_batch_norm(module) == 2
    assert freeze_batch_norm(module) == 2  # twice is as once
    assert not trained(module)
    module.train()
    assert module.training
    assert module[3].training
    module[3].eval()
    x = torch.randn(2, 3, 5, 5) + 7
    in_training = module(x)
    torch.testing.assert_close(in_training, module.eval()(x))


def test_without_freezing_they_move() -> None:
    assert trained(network())


def test_a_copy_of_a_frozen_network_is_frozen_and_its_weights_fit_an_ordinary_one() -> None:
    module = network()
    freeze_batch_norm(module)
    assert not trained(copy.deepcopy(module))
    network().load_state_dict(module.state_dict())
    assert isinstance(module[0], nn.BatchNorm2d)


def test_thawing_takes_back_what_was_not_for_good() -> None:
    module = network()
    freeze_batch_norm(module, for_good=False)
    module.train()
    thaw_batch_norm(module)
    assert module[0].training
    assert trained(module)
    freeze_batch_norm(module, for_good=False)
    freeze_batch_norm(module)
    thaw_batch_norm(module)
    assert not trained(module)


@pytest.mark.parametrize("frozen", [False, True])
def test_recalibration_gives_the_statistics_of_all_pixels_pooled(frozen: bool) -> None:
    module = network()
    module.train()
    if frozen:
        freeze_batch_norm(module)
    modes = [part.training for part in module.modules()]
    batches = [torch.randn(n, 3, side, side) * n + 5 * n for n, side in ((1, 4), (3, 6), (2, 5))]
    assert recalibrate(module, iter([*batches, torch.full((1, 3, 4, 4), 1e9)]), 3) == 3
    pixels = torch.cat([batch.transpose(0, 1).flatten(1) for batch in batches], dim=1)
    torch.testing.assert_close(module[0].running_mean, pixels.mean(1))
    torch.testing.assert_close(module[0].running_var, pixels.var(1))
    # The second layer sees batches normalised by themselves, as in training.
    seen = [module[1](nn.functional.batch_norm(batch, None, None, training=True)) for batch in batches]
    pixels = torch.cat([batch.transpose(0, 1).flatten(1) for batch in seen], dim=1)
    torch.testing.assert_close(module[2].running_mean, pixels.mean(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(module[2].running_var, pixels.var(1))
    assert [part.training for part in module.modules()] == modes
    assert module[0].momentum == 0.1
    assert int(module[0].num_batches_tracked) == 0


def test_recalibration_without_a_batch_or_with_a_failing_one_leaves_everything() -> None:
    module = network().eval()
    before = statistics(module)
    assert recalibrate(module, [], 5) == 0
    assert recalibrate(module, [torch.randn(2, 3, 4, 4)], 0) == 0
    with pytest.raises(RuntimeError):
        recalibrate(module, [torch.randn(2, 5, 4, 4)], 1)
    assert not module[0].training
    assert same(before, statistics(module))


def test_recalibration_treats_a_shifted_domain() -> None:
    module = nn.Sequential(nn.BatchNorm2d(1, affine=False)).eval()
    shifted = torch.randn(8, 1, 6, 6) * 4 + 3
    assert float(module(shifted).mean()) > 2
    recalibrate(module, [shifted], 1)
    assert float(module(shifted).mean()) == pytest.approx(0, abs=1e-5)
    assert float(module(shifted).std()) == pytest.approx(1, abs=1e-2)
