"""Learning from a larger network's predictions. Knows no teacher object: logits in, a scalar out.

Source: Hinton et al. 2015, arXiv:1503.02531, per pixel.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.train.method.losses import TINY


def distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, labels: torch.Tensor | None = None
) -> torch.Tensor:
    """T² · KL(teacher at T || student at T), mean over the pixels that `labels` does not ignore; scalar float32.

    `student` and `teacher` are logits (N, C, H, W) of any float type; `labels` (N, H, W) int64, None: every pixel
    counts. No gradient reaches the teacher. T² keeps the size of the gradient independent of T.
    """
    valid = torch.ones_like(student[:, 0], dtype=torch.bool) if labels is None else labels != IGNORE
    from_student, from_teacher = (
        functional.log_softmax(torch.where(valid[:, None], logits.float(), 0.0) / temperature, dim=1)
        for logits in (student, teacher.detach())
    )
    divergence = (from_teacher.exp() * (from_teacher - from_student)).sum(dim=1)
    return temperature**2 * (divergence * valid).sum() / valid.sum().clamp_min(TINY)
