"""Parameter groups and unfreezing, on a network of three stages."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wsi_seg.errors import UsageError
from wsi_seg.train.config import OptimiserConfig
from wsi_seg.train.method.batch_norm import freeze_batch_norm
from wsi_seg.train.method.transfer import parameter_groups, unfreeze

torch.set_num_threads(1)


class ThreeStages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.second.register_parameter("position_bias_table", nn.Parameter(torch.zeros(5, 2)))
        self.head = nn.Conv2d(4, 2, 1)

    def stages(self) -> tuple[nn.Module, ...]:
        return self.first, self.second, self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.second(self.first(x)))
        return y


def moved_by_training(network: ThreeStages) -> tuple[set[str], set[str]]:
    """Stages whose parameters, and stages whose statistics, one step of the configured optimiser moves."""
    parameters = {name: value.detach().clone() for name, value in network.named_parameters()}
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    optimiser = torch.optim.AdamW(parameter_groups(network, OptimiserConfig(weight_decay=0.1)))
    network.train()
    network(torch.randn(4, 3, 6, 6) + 1).square().mean().backward()
    optimiser.step()
    optimiser.zero_grad()
    return (
        {name.split(".")[0] for name, value in network.named_parameters() if not torch.equal(value, parameters[name])},
        {name.split(".")[0] for name, value in network.named_buffers() if not torch.equal(value, buffers[name])},
    )


def test_rates_fall_from_the_head_and_only_weights_decay() -> None:
    network = ThreeStages()
    groups = parameter_groups(network, OptimiserConfig(lr=0.8, weight_decay=0.01), lr_decay=0.5)
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    rates = {"first": 0.2, "second": 0.4, "head": 0.8}
    for name, parameter in network.named_parameters():
        assert of[id(parameter)]["lr"] == pytest.approx(rates[name.split(".")[0]])
        assert of[id(parameter)]["weight_decay"] == (0.01 if name.endswith("weight") and parameter.ndim > 1 else 0)
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_discriminative_rates_move_the_head_more() -> None:
    network = ThreeStages()
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimiser = torch.optim.AdamW(parameter_groups(network, OptimiserConfig(weight_decay=0), lr_decay=0.1))
    network(torch.randn(4, 3, 6, 6)).square().mean().backward()
    optimiser.step()
    moves = {name: float((value.detach() - before[name]).abs().max()) for name, value in network.named_parameters()}
    assert moves["first.0.weight"] == pytest.approx(1e-5, rel=0.05)
    assert moves["second.0.weight"] == pytest.approx(1e-4, rel=0.05)
    assert moves["head.weight"] == pytest.approx(1e-3, rel=0.05)


def test_stages_that_are_no_partition_are_refused() -> None:
    network = ThreeStages()
    network.stages = lambda: (network.first, network.head)  # type: ignore[method-assign]
    with pytest.raises(UsageError, match=r"5 parameters in none \(second"):
        parameter_groups(network, OptimiserConfig())
    network.stages = lambda: (network, network.head)  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="2 in several"):
        parameter_groups(network, OptimiserConfig())


@pytest.mark.parametrize(
    ("epoch", "every", "learning"),
    [(0, 2, {"head"}), (1, 2, {"head"}), (2, 2, {"second", "head"}), (4, 2, {"first", "second", "head"}),
     (99, 2, {"first", "second", "head"}), (0, 0, {"first", "second", "head"})],
)  # fmt: skip
def test_stages_wake_from_the_head_and_sleeping_ones_keep_weights_and_statistics(
    epoch: int, every: int, learning: set[str]
) -> None:
    network = ThreeStages()
    for past in range(epoch):
        unfreeze(network, past, every)
    assert unfreeze(network, epoch, every) == len(learning)
    assert moved_by_training(network) == (learning, learning - {"head"})


def test_unfreezing_leaves_statistics_that_were_frozen_for_good() -> None:
    network = ThreeStages()
    unfreeze(network, 0, 1)
    freeze_batch_norm(network)
    assert unfreeze(network, 9, 1) == 3
    assert moved_by_training(network) == ({"first", "second", "head"}, set())
