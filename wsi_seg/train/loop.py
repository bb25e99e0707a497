"""Training from a configuration to a folder that `wsi-seg run` takes as a model. Read it from top to bottom.

Owns the order: open, step, validate, keep the best, save, export; and what is saved so that an interrupted run ends
with the weights of an uninterrupted one, bit for bit on a CPU with the same number of threads. The mathematics is in
objective.py, the step in learner.py, pixels in material.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from math import inf, isnan
from pathlib import Path
from threading import Event as Flag
from time import monotonic
from typing import NoReturn, cast

import torch

from wsi_seg.card import named_classes
from wsi_seg.errors import CheckpointError, DivergedError, RunStopped
from wsi_seg.train.config import AugmentConfig, TrainConfig
from wsi_seg.train.distributed import Group, join_group
from wsi_seg.train.exporting import make_card
from wsi_seg.train.finishing import TrainResult, finish, finished_before
from wsi_seg.train.learner import Learner, StepResult
from wsi_seg.train.material import Supply, open_supply
from wsi_seg.train.method.losses import make_loss
from wsi_seg.train.objective import Objective, normaliser
from wsi_seg.train.record.curves import write_curves
from wsi_seg.train.record.events import EpochDone, Event, Listener, Note, StepDone, TrainingStarted, ignore
from wsi_seg.train.record.log import EventLog, write_csv
from wsi_seg.train.record.pictures import Field, write_predictions
from wsi_seg.train.run_folder import RunFolder
from wsi_seg.train.score import Scores
from wsi_seg.train.trained import read_trained, start_network, write_trained
from wsi_seg.train.validation import validate

_SECONDS_PER_DRAWING = 10.0
"""The curves are not drawn more often: short epochs would draw more than learn."""


@dataclass(slots=True)
class Progress:
    """How far a run is; saved with the weights."""

    threads: int
    """CPU threads it began with: another number adds up in another order."""
    world: int = 1
    """Processes it began with: steps and batches are counted by them."""
    epoch: int = 0
    """Epochs done, validation included."""
    step: int = 0
    """Steps done of the epoch that runs."""
    sums: dict[str, float] = field(default_factory=dict)
    """Losses added up over the good steps of the epoch that runs."""
    n_good: int = 0
    n_bad: int = 0
    """Skipped steps of the epoch that runs."""
    n_bad_in_a_row: int = 0
    seconds: float = 0.0
    """Time in steps of the epoch that runs."""
    best: float = -inf
    best_epoch: int = 0
    """From 1; 0: none yet."""
    ended: bool = False
    rows: list[dict[str, float]] = field(default_factory=list)
    """The log, one row per epoch."""

    def count(self, result: StepResult, seconds: float) -> None:
        """Take in a step."""
        self.step += 1
        self.seconds += seconds
        self.n_bad_in_a_row = 0 if result.is_good else self.n_bad_in_a_row + 1
        if not result.is_good:
            self.n_bad += 1
            return
        self.n_good += 1
        for name, value in result.losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def next_epoch(self) -> None:
        """Begin the sums of another epoch."""
        self.epoch, self.step, self.sums, self.n_good, self.n_bad, self.seconds = self.epoch + 1, 0, {}, 0, 0, 0.0


def train(
    config: TrainConfig, out: Path, *, resume: bool = True, listener: Listener = ignore, stop: Flag | None = None
) -> TrainResult:
    """Train, and leave in `out` all that remains: weights, program with card, log, pictures, state.

    The same call resumes a run that ended early; `resume=False` starts over. Under torchrun every process calls it and
    the first one writes. `stop` ends the run after the step at hand. Raises ConfigError and others before the first
    step, RunStopped, DivergedError, WriteError.
    """
    folder = RunFolder(out)
    with join_group(config.device) as group, _settled(config, group):
        tell = listener if group.is_first else ignore
        network, notes = start_network(config)
        make_card(config, network, None)  # what is wrong with it is said now, not after hours
        supply = open_supply(config, group)
        teacher = None if config.distill is None else read_trained(config.distill.teacher)
        objective = Objective(config, group.device, teacher)
        with folder.locked() if group.is_first else nullcontext():
            if group.is_first:
                folder.claim(config, resume=resume)
            state = group.share(folder.read_state() if group.is_first else None)
            learner = Learner(config, network, objective, group)
            run = _Run(config, folder, group, supply, learner, Progress(torch.get_num_threads(), group.world))
            run.tell, run.stop = tell, stop
            if state is not None:
                run.restore(state)
            for note in [*notes, *supply.notes(), *_advice(config)]:
                tell(Note(note))
            if run.progress.ended and (result := finished_before(folder, config)) is not None:
                return result
            tell(run.introduction())
            while not run.progress.ended:
                run.train_epoch()
                run.close_epoch()
            result = finish(config, folder, supply, run.progress.rows, tell) if group.is_first else None
            return group.share(cast(TrainResult, result))


class _Run:
    """One run under way."""

    tell: Listener = staticmethod(ignore)
    stop: Flag | None = None

    def __init__(
        self, config: TrainConfig, folder: RunFolder, group: Group, supply: Supply, learner: Learner, progress: Progress
    ) -> None:
        self.config, self.folder, self.group, self.supply = config, folder, group, supply
        self.learner, self.progress = learner, progress
        self._loss = make_loss(config.loss, len(config.classes))
        self._normalise = normaliser(config.mean, config.std, group.device)
        self._events: EventLog | None = None
        self._drawn = -inf

    def introduction(self) -> Event:
        """What is about to happen."""
        n = sum(parameter.numel() for parameter in self.learner.network.parameters())
        train, validation = self.supply.describe()
        return TrainingStarted(self.config.epochs, self.supply.n_steps, n, self.progress.epoch, train, validation)

    def train_epoch(self) -> None:
        """All steps of an epoch that are not done yet."""
        config, progress, supply = self.config, self.progress, self.supply
        n_total = config.epochs * supply.n_steps
        px = config.patch_size**2 * config.batch_size * config.optimiser.accumulate * self.group.world
        self.learner.begin_epoch(progress.epoch)
        began = monotonic()
        for materials in supply.steps(progress.epoch, progress.step):
            result = self.learner.step(materials, progress.epoch * supply.n_steps + progress.step, n_total)
            now = monotonic()
            progress.count(result, now - began)
            began = now
            speed = px * progress.step / max(progress.seconds, 1e-9)
            self.tell(StepDone(progress.epoch, progress.step, result.losses["loss"], speed))
            if progress.n_bad_in_a_row >= config.max_bad_steps:
                raise self._diverged()
            if self._asked_to_stop():
                self._leave()

    def close_epoch(self) -> None:
        """Validate, keep the best, log, save."""
        config, progress, learner = self.config, self.progress, self.learner
        self.group.share_buffers(learner.network)
        validated = self.group.share(self._validated() if self.group.is_first else None)
        if validated is None:
            self._leave()
        scores, pictures = validated
        score = inf if scores is None else scores.chosen(config.score)
        is_best = progress.best_epoch == 0 or score > progress.best or scores is None
        if is_best:
            progress.best, progress.best_epoch = (-inf if isnan(score) else score), progress.epoch + 1
        progress.rows.append(self._row(scores))
        progress.next_epoch()
        patience = config.patience or config.epochs
        progress.ended = progress.epoch >= config.epochs or progress.epoch - progress.best_epoch >= patience
        if self.group.is_first:
            self._write(pictures if is_best else None)
        self.tell(EpochDone(progress.rows[-1], is_best))

    def restore(self, state: dict[str, object]) -> None:
        """Go on where the saved `state` was. Raises CheckpointError where other processes made it."""
        self.progress = Progress(**state["progress"])  # type: ignore[arg-type]
        if self.progress.world != self.group.world and not self.progress.ended:
            raise CheckpointError(
                f"{self.folder.path} holds a run of {self.progress.world} processes, these are {self.group.world}",
                rule="a step has a batch of every process, so their number decides how many steps an epoch has",
                remedy=f"resume it by {self.progress.world} processes, or --restart",
            )
        self.learner.load_state(state)
        if self.config.threads is None:
            torch.set_num_threads(self.progress.threads)

    def _validated(self) -> tuple[Scores | None, list[Field]] | None:
        """Scores and pictures, None when asked to stop meanwhile."""
        if self.supply.validation is None:
            return None, []
        try:
            fields = self.supply.validation.whole()
            return validate(self.learner.best_network, fields, self._loss, self._normalise, self._interrupt)
        except RunStopped:
            return None

    def _row(self, scores: Scores | None) -> dict[str, float]:
        """The log's row of the epoch that ends."""
        config, progress = self.config, self.progress
        losses = {name: value / max(1, progress.n_good) for name, value in progress.sums.items()}
        px = config.patch_size**2 * config.batch_size * config.optimiser.accumulate * self.group.world * progress.step
        row: dict[str, float] = {"epoch": progress.epoch + 1, "learning rate": self.learner.rate}
        row["loss"] = losses.pop("loss", float("nan"))
        if len(losses) > 1:
            row |= {f"loss {name}": value for name, value in losses.items()}
        if scores is not None:
            names = [entry.name for entry in named_classes(config.classes)]
            row |= {"validation loss": scores.loss, "dice": scores.mean_dice, "iou": scores.mean_iou}
            for kind, values in (("dice", scores.dice), ("iou", scores.iou)):
                row |= {f"{kind} {n}": v for n, v in zip(names, values, strict=True) if not isnan(v)}
        row |= {"seconds": progress.seconds, "Mpx/s": px / 1e6 / max(progress.seconds, 1e-9)}
        return row | {"bad steps": progress.n_bad}

    def _write(self, pictures: list[Field] | None) -> None:
        """Files of the epoch that ended; the state last, so that whatever it tells of is there."""
        folder, progress = self.folder, self.progress
        if pictures is not None:
            write_trained(self.learner.best_network, folder.weights)
            if pictures:
                write_predictions(folder.pictures, pictures, named_classes(self.config.classes))
        write_csv(folder.log, progress.rows)
        if progress.ended or monotonic() - self._drawn > _SECONDS_PER_DRAWING:
            write_curves(folder.curves, progress.rows)
            self._drawn = monotonic()
        if self._events is None:
            self._events = EventLog(folder.events, progress.epoch)
        self._events.add(progress.rows[-1])
        if progress.ended:
            self._events.close()
        self._save()

    def _save(self) -> None:
        self.folder.write_state({**self.learner.state(), "progress": asdict(self.progress)})

    def _leave(self) -> NoReturn:
        """Save, and end as asked."""
        if self.group.is_first:
            self._save()
        raise RunStopped(
            f"training stopped in epoch {self.progress.epoch + 1}, step {self.progress.step}",
            rule="what is learnt is kept",
            remedy="run the same command again to resume",
        )

    def _asked_to_stop(self) -> bool:
        return self.group.any(self.stop is not None and self.stop.is_set())

    def _interrupt(self) -> None:
        if self.stop is not None and self.stop.is_set():
            raise RunStopped("training stopped while validating")

    def _diverged(self) -> DivergedError:
        progress = self.progress
        return DivergedError(
            f"the loss or its gradient was NaN or Inf in {progress.n_bad_in_a_row} steps in a row, up to step "
            f"{progress.step} of epoch {progress.epoch + 1}",
            rule=f"max_bad_steps {self.config.max_bad_steps}",
            remedy="lower optimiser.lr, add optimiser.warmup_steps, or train in fp32",
        )


def _advice(config: TrainConfig) -> Iterator[str]:
    """What is allowed and yet seldom meant."""
    turned = {"flip": config.augment.flip, "rotate90": config.augment.rotate90}
    strong = config.augment.model_dump(exclude={"rotate", "scale", "elastic", "grid", "dropout"})
    if config.semi is not None and strong == AugmentConfig(**turned).model_dump(include=set(strong)):
        yield "semi: the strong view equals the weak one, since augment changes no colour, sharpness or noise"
    norm = config.batch_norm
    if norm.freeze and config.transfer is None:
        yield "batch_norm.freeze without transfer keeps the statistics of untrained weights"


@contextmanager
def _settled(config: TrainConfig, group: Group) -> Iterator[None]:
    """Torch set to give the same numbers again while the `with` lasts; its settings and generator come back after."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.set_num_threads(config.threads or max(1, len(os.sched_getaffinity(0)) // group.n_local))
    torch.use_deterministic_algorithms(group.device.type == "cpu")  # some CUDA kernels have no such form
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill
