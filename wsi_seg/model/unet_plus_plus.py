"""U-Net++: Zhou et al. 2018, DOI 10.1007/978-3-030-00889-5_1 (arXiv:1807.10165), and 2019, arXiv:1912.05074.

Node (i, j) lies at level i of the encoder and column j; it joins nodes (i, 0 … j-1) with node (i+1, j-1) up-sampled.
Column 0 is the encoder. The nodes (0, j) have the size of the output: with deep supervision each has a head.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

from torch import Tensor, nn

from wsi_seg.errors import UsageError
from wsi_seg.model.layers import Head, UpStage, initialise
from wsi_seg.model.network import Network
from wsi_seg.model.unet import UNetOptions, conv_encoder


@dataclass(frozen=True, slots=True)
class UNetPlusPlusOptions(UNetOptions):
    """What a U-Net++ can be."""

    deep_supervision: bool = False
    """A head at every depth: all are trained, the deepest predicts, and the network can be pruned to any."""


class UNetPlusPlus(Network):
    """U-Net++; output stride = stem_stride * 2**depth."""

    def __init__(self, n_classes: int, options: UNetPlusPlusOptions = UNetPlusPlusOptions()) -> None:
        widths, depth = options.widths, options.depth
        super().__init__(n_classes, options.stem_stride * 2**depth, widths[-1], options.checkpointing)
        self.options = options
        self.encoder = conv_encoder(options)
        self.columns = nn.ModuleList(
            nn.ModuleList(
                UpStage(widths[i + 1], j * widths[i], widths[i], options.up, options.separable)
                for i in range(depth + 1 - j)
            )
            for j in range(1, depth + 1)
        )
        initialise(self)
        head_columns = range(1, depth + 1) if options.deep_supervision else (depth,)
        self.heads = nn.ModuleDict(
            {str(j): Head(widths[0], n_classes, options.stem_stride, options.dropout) for j in head_columns}
        )

    def logits(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(N, C, H, W): of the deepest head; while training with deep supervision, of all heads, deepest first."""
        nodes = [[x] for x in features]  # nodes[i][j]
        for j, column in enumerate(self.columns, start=1):
            for i, node in enumerate(column):
                nodes[i].append(self.run(node, nodes[i + 1][j - 1], *nodes[i][:j]))
        columns = sorted((int(name) for name in self.heads), reverse=True)
        return tuple(self.run(self.heads[str(j)], nodes[0][j]) for j in (columns if self.training else columns[:1]))

    def stages(self) -> tuple[nn.Module, ...]:
        """Encoder, columns of nodes, heads."""
        return (*self.encoder, *self.columns, self.heads)

    def pruned(self, depth: int) -> UNetPlusPlus:
        """A copy that predicts with the head of `depth` and lacks everything that head does not use.

        Its output stride is smaller with it. Raises UsageError where there is no head at that depth.
        """
        if str(depth) not in self.heads:
            rule = f"this network has heads at {', '.join(self.heads)}"
            raise UsageError(f"depth {depth}", rule=rule, remedy="train with `deep_supervision: true`")
        small = UNetPlusPlus(self.n_classes, replace(self.options, depth=depth, deep_supervision=False))
        small.encoder = deepcopy(self.encoder[: depth + 1])
        small.columns = nn.ModuleList(
            nn.ModuleList(deepcopy(list(column)[: depth + 1 - j])) for j, column in enumerate(self.columns[:depth], 1)
        )
        small.heads = nn.ModuleDict({str(depth): deepcopy(self.heads[str(depth)])})
        small.train(self.training)
        return small
