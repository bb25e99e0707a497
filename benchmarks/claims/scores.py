"""What a finished run scores: by its own summary, or on another source, with or without new batch-norm statistics."""

from __future__ import annotations

from statistics import mean

import torch

from benchmarks.claims.datasets import Source
from benchmarks.claims.runs import Run
from wsi_seg.train.config import TrainConfig, config_from
from wsi_seg.train.method.batch_norm import recalibrate
from wsi_seg.train.method.losses import make_loss
from wsi_seg.train.objective import normaliser
from wsi_seg.train.source.patches import PatchSet
from wsi_seg.train.trained import read_trained
from wsi_seg.train.validation import validate

N_RECALIBRATION = 30
"""Batches that statistics are estimated over."""


def miou(run: Run) -> float:
    """Mean over both classes of the IoU of the best epoch on the validation cases."""
    return mean(run.summary["scores"]["iou"].values())


def score(run: Run, source: Source, recalibrate_on: Source | None = None) -> float:
    """Score (mIoU) of a run's best weights on `source`, statistics first re-estimated on images of `recalibrate_on`."""
    trained = read_trained(run.folder)
    normalise = normaliser(trained.config.mean, trained.config.std, torch.device("cpu"))
    if recalibrate_on is not None:
        patches = _opened(trained.config, recalibrate_on, labelled=False)
        batches = (normalise(batch.images.float() / 255) for batch in patches.epoch(0, trained.config.batch_size))
        recalibrate(trained.network, batches, N_RECALIBRATION)
    loss = make_loss(trained.config.loss, len(trained.config.classes))
    scores, _ = validate(trained.network, _opened(trained.config, source).whole(), loss, normalise, lambda: None)
    return mean(scores.iou)


def _opened(config: TrainConfig, source: Source, *, labelled: bool = True) -> PatchSet:
    content = config.model_dump(mode="json")
    content["data"]["train"] = [source]
    changed = config_from(content)
    return PatchSet.open(changed.data.train, changed, labelled=labelled)
