"""What every network of ours is: encode, decode, stages; padding to the output stride; recomputing stages in backward.

Owns the contract that training, export and measurement rely on. Knows no architecture and no loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """What every architecture can be told."""

    width: int = 32
    """Channels of the first stage; every stage doubles them."""
    depth: int = 4
    """Down-samplings after the stem or the embedding."""
    dropout: float = 0.0
    """Share of the channels before the head that a training step drops."""
    checkpointing: bool = False
    """Recompute every stage in the backward pass."""


class Network(nn.Module):  # type: ignore[misc]
    """A segmentation network: (N, 3, H, W) normalised float -> logits (N, C, H, W).

    An architecture sets `encoder` and implements `logits` and `stages`.
    """

    local: ClassVar[bool] = True
    """Whether an output pixel depends on a fixed surrounding only; False where attention is tied to the tile."""

    traced_side: int = 4
    """Deepest features per side of the example that an exporter traces: a count that is 1 there may become constant."""

    encoder: nn.Module
    """All that `features` computes with, a list of stages where `encoder_stages` is not overridden; its tensors are
    `encoder.*` in the state dict."""

    def __init__(self, n_classes: int, output_stride: int, feature_channels: int, checkpointing: bool) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.output_stride = output_stride
        self.feature_channels = feature_channels
        """Channels of the deepest features."""
        self.checkpointing = checkpointing
        """Recompute each stage in the backward pass: less memory, more time, the same gradients (arXiv:1604.06174)."""

    def encoder_stages(self) -> tuple[nn.Module, ...]:
        """Parts of `encoder` from the input on; each takes what the one before it answers."""
        return tuple(self.encoder)

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Of an input whose H and W are multiples of `output_stride`: a map per encoder stage, deepest last."""
        maps = []
        for stage in self.encoder_stages():
            x = self.run(stage, x)
            maps.append(x)
        return tuple(maps)

    def logits(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Logits of the padded size, best first; more than one only with deep supervision while training."""
        raise NotImplementedError

    def stages(self) -> tuple[nn.Module, ...]:
        """Parts from the input to the head; each parameter is in exactly one."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W), any H, W >= 1 -> feature maps, finest first; the border's pixels are repeated to the stride."""
        if not torch.compiler.is_exporting():  # an exported program asks for multiples, see the card
            below, right = (-length % self.output_stride for length in x.shape[-2:])
            if below or right:
                x = nn.functional.pad(x, (0, right, 0, below), mode="replicate")
        return self.features(x)

    def decode(self, features: tuple[Tensor, ...], size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Logits (N, C, *size), best first; more than one only with deep supervision while training."""
        logits = self.logits(features)
        if torch.compiler.is_exporting():
            return logits
        return tuple(y[..., : size[0], : size[1]] for y in logits)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, C, H, W), any H, W >= 1."""
        return self.decode(self.encode(x), (x.shape[-2], x.shape[-1]))[0]

    def run(self, stage: nn.Module, *inputs: Tensor) -> Tensor:
        """`stage(*inputs)`; with checkpointing its activations are computed again in the backward pass."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return stage(*inputs)
        return checkpoint(stage, *inputs, use_reentrant=False, context_fn=lambda: _contexts(stage))


class UShaped(Network):
    """A network whose decoder joins the features one by one, deepest first, and ends in one head."""

    decoder: nn.ModuleList
    """One stage less than the encoder: (deeper, skip) -> features of the skip's size."""
    head: nn.Module

    def logits(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One map (N, C, H, W)."""
        x = features[-1]
        for stage, skip in zip(self.decoder, reversed(features[:-1]), strict=True):
            x = self.run(stage, x, skip)
        return (self.run(self.head, x),)

    def stages(self) -> tuple[nn.Module, ...]:
        """Encoder, decoder, head."""
        return (*self.encoder_stages(), *self.decoder, self.head)


class Probabilities(nn.Module):  # type: ignore[misc]
    """A network and its softmax, for export: (N, 3, H, W) normalised float -> (N, C, H, W) in [0, 1]."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities that sum to 1 over the classes."""
        return torch.softmax(self.network(x), dim=1)


def _contexts(stage: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_left_alone(stage)


@contextmanager
def _statistics_left_alone(module: nn.Module) -> Iterator[None]:
    """Batch norms of `module` update copies of their running statistics: the first pass already updated them.

    Copies, because autograd must find as many tensors as in the first pass.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.training]
    own = [dict(norm._buffers) for norm in norms]
    for norm, buffers in zip(norms, own, strict=True):
        norm._buffers.update({name: value.clone() for name, value in buffers.items() if value is not None})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, own, strict=True):
            norm._buffers.update(buffers)
