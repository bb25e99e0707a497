"""A model that ends the process that gives it a certain colour."""

from __future__ import annotations

import os
import signal

import torch


class DeadlyNet(torch.nn.Module):
    """Two classes by brightness; a tile that holds pure magenta ends the process."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        magenta = (x[:, 0] > 0.99) & (x[:, 1] < 0.01) & (x[:, 2] > 0.99)
        if bool(magenta.any()):
            os.kill(os.getpid(), signal.SIGKILL)
        dark = 1 - x.mean(1, keepdim=True)
        return torch.cat([1 - dark, dark], 1)


def net() -> torch.nn.Module:
    """A factory, as `module:factory` asks for."""
    return DeadlyNet()
