"""Everything that a step changes: network, optimiser, scaler, moving averages, discriminator; and the step itself.

Owns one rule: a step with NaN or Inf anywhere changes nothing, running statistics included. Reads no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from wsi_seg.model.network import Network
from wsi_seg.train.config import TrainConfig
from wsi_seg.train.distributed import Group
from wsi_seg.train.method.batch_norm import freeze_batch_norm
from wsi_seg.train.method.ema import WeightAverage
from wsi_seg.train.method.transfer import parameter_groups, unfreeze
from wsi_seg.train.objective import RANDOM_LAYERS, Material, Moment, Objective, make_discriminator
from wsi_seg.train.schedule import learning_rate

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step did."""

    losses: dict[str, float]
    """Mean over batches and processes, by name, and their sum under `loss`; NaN or Inf in a skipped step."""
    is_good: bool
    """False: something was NaN or Inf and nothing changed."""


class Learner:
    """What learns; the same in every process of a group after every step."""

    def __init__(self, config: TrainConfig, network: Network, objective: Objective, group: Group) -> None:
        # Channels last: convolutions of a step are a quarter faster on a CPU, and it is what tensor cores want.
        self.network: Network = network.to(group.device, memory_format=torch.channels_last)
        self._config, self._group, self._objective = config, group, objective
        ema, semi = config.optimiser.ema, config.semi
        self.average = WeightAverage(network, ema) if ema else None
        self.mean_teacher = WeightAverage(network, semi.teacher_decay) if semi and semi.mean_teacher else None
        self.discriminator = make_discriminator(config, network)
        decay = config.transfer.lr_decay if config.transfer else 1.0
        groups = parameter_groups(network, config.optimiser, decay)
        if self.discriminator is not None:
            parameters = list(self.discriminator.to(group.device).parameters())
            groups.append({"params": parameters, "lr": config.optimiser.lr, "weight_decay": 0.0, "stage": -1})
        self._optimiser = _optimiser(config, groups)
        self._peaks = [entry["lr"] for entry in self._optimiser.param_groups]
        self._scaler = torch.amp.GradScaler(group.device.type, enabled=config.precision == "fp16")

    @property
    def best_network(self) -> Network:
        """What is validated and exported: the moving average where there is one."""
        network: Network = self.network if self.average is None else self.average.network
        return network

    @property
    def rate(self) -> float:
        """The learning rate of the head in the last step."""
        return float(max(entry["lr"] for entry in self._optimiser.param_groups))

    def begin_epoch(self, epoch: int) -> None:
        """Set what learns in `epoch`, from 0: stages that are unfrozen, batch norms that still count."""
        config = self._config
        self.network.train()
        if config.transfer is not None:
            unfreeze(self.network, epoch, config.transfer.unfreeze_every)
        norm = config.batch_norm
        if norm.freeze or (norm.freeze_after is not None and epoch >= norm.freeze_after):
            freeze_batch_norm(self.network)

    def step(self, materials: Sequence[tuple[Material, Moment]], number: int, n_total: int) -> StepResult:
        """One step over the batches of `materials`; `number` of `n_total` steps of the run, from 0."""
        for entry, peak in zip(self._optimiser.param_groups, self._peaks, strict=True):
            entry["lr"] = peak * learning_rate(number, n_total, self._config.optimiser)
        statistics = [buffer.clone() for buffer in self.network.buffers()]
        losses = self._gradients(materials)
        self._scaler.unscale_(self._optimiser)
        is_good = self._clip() and all(isfinite(value) for value in losses.values())
        if is_good:
            self._scaler.step(self._optimiser)
        else:  # the forward pass has put NaN into running statistics, which would stay for good
            for buffer, before in zip(self.network.buffers(), statistics, strict=True):
                buffer.copy_(before)
        self._scaler.update()
        self._optimiser.zero_grad(set_to_none=True)
        if is_good:
            for average in (self.average, self.mean_teacher):
                if average is not None:
                    average.update(self.network)
        return StepResult(losses, is_good)

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state` of another learner goes on exactly here."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, by a learner of the same configuration."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {
            "network": self.network, "optimiser": self._optimiser, "scaler": self._scaler, "average": self.average,
            "mean teacher": self.mean_teacher, "discriminator": self.discriminator,
        }  # fmt: skip
        return {name: part for name, part in parts.items() if part is not None}

    def _gradients(self, materials: Sequence[tuple[Material, Moment]]) -> dict[str, float]:
        """Set the gradients, still scaled, to the mean over batches and processes; answers the losses likewise."""
        device, precision = self._group.device, self._config.precision
        sums: dict[str, Tensor] = {}
        for material, moment in materials:
            torch.manual_seed(moment.number(RANDOM_LAYERS))  # so that dropout needs no saved state
            with torch.autocast(device.type, dtype=_AUTOCAST.get(precision), enabled=precision in _AUTOCAST):
                losses = self._objective(self, material, moment)
            total = torch.stack(list(losses.values())).sum() / len(materials)
            self._scaler.scale(total).backward()
            for name, value in {"loss": total, **{n: v / len(materials) for n, v in losses.items()}}.items():
                sums[name] = sums.get(name, 0) + value.detach().float()
        mean = self._group.average(self._learning(), torch.stack(list(sums.values())))
        return dict(zip(sums, mean.tolist(), strict=True))

    def _learning(self) -> list[nn.Parameter]:
        return [parameter for entry in self._optimiser.param_groups for parameter in entry["params"]]

    def _clip(self) -> bool:
        """Shorten the network's gradient to the largest norm; False where a gradient is NaN or Inf."""
        largest = self._config.optimiser.clip_norm or float("inf")
        norms = [torch.nn.utils.clip_grad_norm_(self.network.parameters(), largest)]
        if self.discriminator is not None:
            norms.append(torch.nn.utils.clip_grad_norm_(self.discriminator.parameters(), largest))
        return all(isfinite(float(norm)) for norm in norms)


def _optimiser(config: TrainConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    settings = config.optimiser
    if settings.name == "sgd":
        nesterov = settings.momentum > 0
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov)
    return torch.optim.AdamW(groups, lr=settings.lr)
