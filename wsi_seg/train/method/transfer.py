"""Fine-tuning: which parameters learn how fast, and from which epoch.

Owns the parameter groups of every run and the unfreezing schedule. Knows a network by `stages()` alone, from the input
to the head. Layer-wise rates and gradual unfreezing: Howard and Ruder 2018, arXiv:1801.06146.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from wsi_seg.errors import UsageError
from wsi_seg.train.config import OptimiserConfig
from wsi_seg.train.method.batch_norm import freeze_batch_norm, thaw_batch_norm


class Staged(Protocol):
    """What is asked of a network here."""

    def stages(self) -> tuple[nn.Module, ...]:
        """From the input to the head; each parameter in exactly one."""

    def named_parameters(self) -> Any:
        """(name, parameter) of all."""


def parameter_groups(network: Staged, optimiser: OptimiserConfig, lr_decay: float = 1.0) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: `params`, `lr` (the peak), `weight_decay`, `stage`.

    The rate falls by `lr_decay` per stage from the head towards the input. Biases, normalisations and position tables
    (anything of one dimension, or named bias) do not decay. Raises UsageError where the stages are no partition.
    """
    stages = network.stages()
    _check_partition(network, stages)
    groups = []
    for index, stage in enumerate(stages):
        named = list(stage.named_parameters())
        plain = [parameter for name, parameter in named if _decays(name, parameter)]
        spared = [parameter for name, parameter in named if not _decays(name, parameter)]
        rate = optimiser.lr * lr_decay ** (len(stages) - 1 - index)
        for parameters, decay in ((plain, optimiser.weight_decay), (spared, 0.0)):
            if parameters:
                groups.append({"params": parameters, "lr": rate, "weight_decay": decay, "stage": index})
    return groups


def unfreeze(network: Staged, epoch: int, unfreeze_every: int) -> int:
    """Let the head learn, and one more stage towards the input every `unfreeze_every` epochs; returns how many do.

    0: all from the start. The others keep their weights and their batch normalisation statistics, in `train()` too;
    what `freeze_batch_norm` froze stays so. Call it at the start of every epoch. A change in the number means that
    DistributedDataParallel must be wrapped anew: it asks which parameters learn only once.
    """
    stages = network.stages()
    n_learning = len(stages) if unfreeze_every == 0 else min(1 + epoch // unfreeze_every, len(stages))
    for index, stage in enumerate(stages):
        learns = index >= len(stages) - n_learning
        stage.requires_grad_(learns)
        if learns:
            thaw_batch_norm(stage)
        else:
            freeze_batch_norm(stage, for_good=False)
    return n_learning


def _decays(name: str, parameter: Any) -> bool:
    return parameter.ndim > 1 and "bias" not in name.rpartition(".")[2]


def _check_partition(network: Staged, stages: tuple[nn.Module, ...]) -> None:
    staged = [id(parameter) for stage in stages for parameter in stage.parameters()]
    missing = [name for name, parameter in network.named_parameters() if id(parameter) not in set(staged)]
    if missing or len(staged) != len(set(staged)):
        raise UsageError(
            f"stages of {type(network).__name__}: {len(missing)} parameters in none ({', '.join(missing[:3])}), "
            f"{len(staged) - len(set(staged))} in several",
            rule="each parameter is in exactly one stage",
        )
