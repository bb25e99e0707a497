"""Losses on labelled pixels, and their sum as the configuration lists it.

Owns the ignore value: a pixel labelled `IGNORE` takes no part, whatever is predicted there, NaN included, and its
gradient is exactly zero; a batch of nothing else costs exactly 0. Everything is computed in float32. Knows no network.

The single losses take log-probabilities (N, C, H, W) float32 and labels (N, H, W) int64 that are a class or `IGNORE`;
`class_weights` is a float32 tensor (C,) or None. All return a scalar.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.errors import ConfigError
from wsi_seg.train.config import LossTerm

TINY = 1e-12
"""Keeps 0 / 0 at 0; far below any sum of a single pixel's weight."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits (N, C, H, W) any float type, labels (N, H, W) int64) -> scalar float32."""


def make_loss(terms: Sequence[LossTerm], n_classes: int) -> Loss:
    """The weighted sum of `terms`. Raises ConfigError where class weights do not match the classes."""
    for term in terms:
        if term.class_weights is not None and len(term.class_weights) != n_classes:
            raise ConfigError(
                f"loss {term.name}: {len(term.class_weights)} class weights",
                rule=f"there are {n_classes} classes",
                remedy="give one weight per class",
            )

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        log_probabilities = masked_log_softmax(logits, labels != IGNORE)
        return torch.stack([term.weight * _term(term, log_probabilities, labels) for term in terms]).sum()

    return loss


def masked_log_softmax(logits: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (N, C, H, W) float32; where `valid` (N, H, W) is False: uniform and without gradient."""
    # `where` and not a product: 0 * NaN is NaN, in the value and in the gradient.
    return functional.log_softmax(torch.where(valid[:, None], logits.float(), 0.0), dim=1)


def _term(term: LossTerm, log_probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    weights = None
    if term.class_weights is not None:
        weights = torch.tensor(term.class_weights, dtype=torch.float32, device=labels.device)
    match term.name:
        case "cross-entropy":
            return cross_entropy(log_probabilities, labels, weights, term.label_smoothing)
        case "dice":
            return dice(log_probabilities, labels, weights)
        case "focal":
            return focal(log_probabilities, labels, weights, term.gamma)
        case "tversky":
            return tversky(log_probabilities, labels, weights, term.alpha, term.beta)
        case "boundary":
            extra = term.boundary_weight * nearness(labels, term.boundary_sigma)
            if term.gap_weight:
                extra = extra + term.gap_weight * gaps(labels, term.gap_radius)
            return _mean(-_of_label(log_probabilities, labels), labels, weights, 1 + extra)


def cross_entropy(
    log_probabilities: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor | None, smoothing: float = 0.0
) -> torch.Tensor:
    """Mean over pixels of -log p(label), each pixel weighted by its class.

    `smoothing` is the share of the target spread over all classes (Szegedy et al. 2016, doi:10.1109/CVPR.2016.308).
    """
    costs = -_of_label(log_probabilities, labels)
    if smoothing:
        costs = (1 - smoothing) * costs - smoothing * log_probabilities.mean(dim=1)
    return _mean(costs, labels, class_weights)


def focal(
    log_probabilities: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor | None, gamma: float
) -> torch.Tensor:
    """Mean of (1 - p)^gamma · -log p, weighted by class (Lin et al. 2017, doi:10.1109/ICCV.2017.324).

    Divided by the weight of all pixels, so that gamma 0 is cross entropy; the paper divides by the foreground alone,
    which a patch may lack.
    """
    log_p = _of_label(log_probabilities, labels)
    wrong = (-torch.expm1(log_p)).clamp_min(1e-8)  # the slope of x^gamma at 0 is infinite for gamma < 1
    return _mean(-log_p * wrong**gamma, labels, class_weights)


def dice(log_probabilities: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor | None) -> torch.Tensor:
    """1 - mean soft Dice (Drozdzal et al. 2016, doi:10.1007/978-3-319-46976-8_19).

    Per class over the whole batch; classes that no label of the batch names do not count.
    """
    return tversky(log_probabilities, labels, class_weights, alpha=0.5, beta=0.5)


def tversky(
    log_probabilities: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor | None,
    alpha: float,
    beta: float,
) -> torch.Tensor:
    """1 - mean Tversky index TP / (TP + alpha FP + beta FN) (Salehi et al. 2017, doi:10.1007/978-3-319-67389-9_44).

    Per class over the whole batch, as in `dice`, which it is at alpha = beta = 1/2.
    """
    valid = (labels != IGNORE)[:, None]
    classes = torch.arange(log_probabilities.shape[1], device=labels.device)
    reference = labels[:, None] == classes[:, None, None]  # (N, C, H, W)
    probabilities = log_probabilities.exp() * valid
    hits = (probabilities * reference).sum(dim=(0, 2, 3))
    predicted = probabilities.sum(dim=(0, 2, 3))
    present = reference.sum(dim=(0, 2, 3), dtype=torch.float32)
    index = hits / (hits + alpha * (predicted - hits) + beta * (present - hits)).clamp_min(TINY)
    counts = (present > 0).float() if class_weights is None else (present > 0) * class_weights
    return ((1 - index) * counts).sum() / counts.sum().clamp_min(TINY)


def nearness(labels: torch.Tensor, sigma: float) -> torch.Tensor:
    """exp(-d² / 2 sigma²) per pixel (N, H, W) float32, d the distance in px to the nearest pixel on a class border.

    On a border are pixels with a 4-neighbour of another class; next to an ignored pixel is no border. Beyond 3 sigma
    along either axis it is 0. The weight map of Ronneberger et al. 2015 (doi:10.1007/978-3-319-24574-4_28) for
    borders of any classes. A Gaussian is a product over the axes, so the nearest border is found axis by axis.
    """
    near = _on_border(labels).float()
    for axis in (1, 2):
        near = _spread(near, axis, sigma)
    return near


def gaps(labels: torch.Tensor, radius: int) -> torch.Tensor:
    """1 per pixel (N, H, W) float32 of class 0 that lies between others at most 2 · `radius` px apart, else 0.

    What a closing of the other classes by a square adds to them. The lines between touching objects are few pixels:
    unweighted, a network that leaves them out loses next to nothing (the second term of Ronneberger et al.'s map).
    """
    objects = ((labels != 0) & (labels != IGNORE)).float()[:, None]
    side = 2 * radius + 1
    # Grown beyond the patch as well, or the patch's border would be taken for the other side of a gap.
    grown = functional.max_pool2d(functional.pad(objects, (radius,) * 4), side, 1, radius)
    closed = -functional.max_pool2d(-grown, side, 1)
    return (closed - objects)[:, 0] * (labels == 0)


def _on_border(labels: torch.Tensor) -> torch.Tensor:
    border = torch.zeros_like(labels, dtype=torch.bool)
    for axis in (1, 2):
        n = labels.shape[axis] - 1
        first, second = labels.narrow(axis, 0, n), labels.narrow(axis, 1, n)
        differ = (first != second) & (first != IGNORE) & (second != IGNORE)
        border.narrow(axis, 0, n).logical_or_(differ)
        border.narrow(axis, 1, n).logical_or_(differ)
    return border


def _spread(values: torch.Tensor, axis: int, sigma: float) -> torch.Tensor:
    """Per pixel the largest value · exp(-distance² / 2 sigma²) along one axis."""
    spread = values.clone()
    size = values.shape[axis]
    for step in range(1, min(math.ceil(3 * sigma), size - 1) + 1):
        fallen = values * math.exp(-(step**2) / (2 * sigma**2))
        for to, source in ((0, step), (step, 0)):
            target = spread.narrow(axis, to, size - step)
            torch.maximum(target, fallen.narrow(axis, source, size - step), out=target)
    return spread


def _of_label(log_probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-probability of the label per pixel (N, H, W); of class 0 where ignored."""
    return log_probabilities.gather(1, labels.where(labels != IGNORE, 0)[:, None])[:, 0]


def _mean(
    costs: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor | None,
    pixel_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of `costs` (N, H, W) over the pixels that are not ignored, weighted by class and pixel; 0 without any."""
    valid = labels != IGNORE
    weights = valid.float()
    if class_weights is not None:
        weights = weights * class_weights[labels.where(valid, 0)]
    if pixel_weights is not None:
        weights = weights * pixel_weights
    return (costs * weights).sum() / weights.sum().clamp_min(TINY)
