"""The moving average of weights against its closed form."""

from __future__ import annotations

import copy

import torch
from torch import nn

from wsi_seg.train.method.ema import WeightAverage

torch.set_num_threads(1)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5))


def followed(n: int, decay: float) -> tuple[WeightAverage, nn.Module, list[dict[str, torch.Tensor]]]:
    torch.manual_seed(0)
    module = network()
    average = WeightAverage(module, decay)
    history = []
    for step in range(n):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn_like(parameter))
            module(torch.randn(4, 1, 5, 5) + step)
        average.update(module)
        history.append(copy.deepcopy(module.state_dict()))
    return average, module, history


def test_it_is_the_plain_mean_first_and_exponential_then() -> None:
    decay, n = 0.75, 9
    average, _, history = followed(n, decay)
    for name, value in average.network.state_dict().items():
        if not value.is_floating_point():
            assert torch.equal(value, history[-1][name])
            continue
        first = torch.stack([state[name] for state in history[:4]]).mean(0)  # t / (t + 1) reaches 3/4 at t = 3
        expected = first * decay ** (n - 4)
        for age, state in enumerate(reversed(history[4:])):
            expected = expected + (1 - decay) * decay**age * state[name]
        torch.testing.assert_close(value, expected)


def test_it_stands_aside_from_training() -> None:
    average, module, _ = followed(2, 0.9)
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    assert not any(part.training for part in average.network.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_copy_to_hands_the_average_over() -> None:
    average, module, _ = followed(3, 0.9)
    average.copy_to(module)
    x = torch.randn(1, 1, 3, 3)
    assert torch.equal(module.eval()(x), average.network(x))


def test_a_saved_average_goes_on_as_if_never_stopped() -> None:
    average, module, _ = followed(3, 0.9)
    other = WeightAverage(network(), 0.9)
    other.load_state_dict(copy.deepcopy(average.state_dict()))
    with torch.no_grad():
        module[0].weight.mul_(3)
    average.update(module)
    other.update(module)
    for name, value in average.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name])
