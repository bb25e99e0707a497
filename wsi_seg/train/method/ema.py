"""A moving average of a network's weights: what is validated and exported, and what a mean teacher predicts with.

Knows tensors by name only. Source: Tarvainen and Valpola 2017, arXiv:1703.01780.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average of parameters and floating-point buffers; other buffers are copied.

    The decay of update t (from 0) is min(decay, t / (t + 1)): the plain mean of the first weights until that is longer
    than the average's memory, so that the random weights of the beginning leave it at once.
    """

    network: nn.Module
    """The averaged network: in eval mode, without gradients, on the device of the one it follows."""
    updates: int
    """Number of updates so far."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    def update(self, network: nn.Module) -> None:
        """Take in the weights that `network` has now."""
        decay = min(self.decay, self.updates / (self.updates + 1))
        self.updates += 1
        current = network.state_dict()
        with torch.no_grad():
            for name, average in self.network.state_dict().items():
                value = current[name].detach()
                if average.is_floating_point():
                    average.lerp_(value.to(average.dtype), 1 - decay)
                else:
                    average.copy_(value)

    def copy_to(self, network: nn.Module) -> None:
        """Overwrite the weights of `network` with the average."""
        network.load_state_dict(self.network.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` of another average needs to go on exactly here."""
        return {"updates": self.updates, "weights": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.updates = int(state["updates"])
        self.network.load_state_dict(state["weights"])
