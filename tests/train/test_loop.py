"""The loop and its step: equal to a plain loop of torch, and every method of the configuration has its effect."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from tests.train.discs import disc_config, write_discs
from tests.whole_runs import folder_in_memory
from wsi_seg.errors import ConfigError
from wsi_seg.model.weights import read_weights
from wsi_seg.train import loop
from wsi_seg.train.config import TrainConfig, differing_keys
from wsi_seg.train.distributed import Group
from wsi_seg.train.learner import Learner
from wsi_seg.train.material import open_supply
from wsi_seg.train.method.distillation import distillation_loss
from wsi_seg.train.method.losses import make_loss
from wsi_seg.train.objective import Moment, Objective
from wsi_seg.train.record.events import EpochDone, Note, TrainingStarted
from wsi_seg.train.record.events import Event as Told
from wsi_seg.train.schedule import learning_rate
from wsi_seg.train.score import Scores, confusion, scores_of
from wsi_seg.train.trained import make_network, read_trained

CPU = Group(0, 1, torch.device("cpu"))


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is exported or drawn."""
    monkeypatch.setattr(loop, "finish", lambda *_: None)
    monkeypatch.setattr(loop, "write_curves", lambda *_: None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with folder_in_memory(tmp_path_factory.mktemp("place")) as folder:
        yield folder


@pytest.fixture(scope="module")
def discs(place: Path) -> Path:
    write_discs(place / "discs", 8)
    write_discs(place / "discs" / "other", 6, seed=3, shade=(60, 110, 80))
    return place / "discs"


@pytest.fixture(scope="module")
def plain(discs: Path, place: Path) -> Path:
    """A run without any method."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "finish", lambda *_: None)
        patch.setattr(loop, "write_curves", lambda *_: None)
        loop.train(disc_config(discs), place / "plain")
    return place / "plain"


def _run(config: TrainConfig, out: Path) -> tuple[dict[str, Tensor], list[Told]]:
    told: list[Told] = []
    loop.train(config, out, listener=told.append)
    return read_weights(out / "best.safetensors"), told


def _rows(told: list[Told]) -> list[dict[str, float]]:
    return [dict(event.row) for event in told if isinstance(event, EpochDone)]


def _differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    return {name for name in a if not torch.equal(a[name], b[name])}


def test_the_loop_equals_a_plain_one(discs: Path, tmp_path: Path) -> None:
    """Same patches, no augmentation: twenty lines of torch reach the same weights."""
    config = disc_config(discs, augment={"flip": False, "rotate90": False})
    ours, _ = _run(config, tmp_path / "ours")
    torch.manual_seed(config.seed)
    network = make_network(config)
    supply, loss = open_supply(config, CPU), make_loss(config.loss, 2)
    named = list(network.named_parameters())
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for _, p in named if p.ndim > 1], "weight_decay": config.optimiser.weight_decay},
            {"params": [p for _, p in named if p.ndim == 1], "weight_decay": 0.0},
        ]
    )
    step, best = 0, (-inf, dict[str, Tensor]())
    for epoch in range(config.epochs):
        network.train()
        for images, labels in supply.train.epoch(epoch, config.batch_size):
            for group in optimiser.param_groups:
                group["lr"] = config.optimiser.lr * learning_rate(step, 8, config.optimiser)
            optimiser.zero_grad()
            loss(network((images / 255 - 0.5) / 0.25), labels).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            step += 1
        network.eval()
        counts = torch.zeros(2, 2, dtype=torch.int64)
        assert supply.validation is not None
        with torch.no_grad():
            for _, images, labels in supply.validation.whole():
                counts += confusion(network((images / 255 - 0.5) / 0.25).argmax(1), labels, 2)
        if (score := scores_of(counts, 0).mean_dice) > best[0]:
            best = score, {name: value.clone() for name, value in network.state_dict().items()}
    for name, value in best[1].items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)


def test_a_run_tells_what_it_does(discs: Path, plain: Path, tmp_path: Path) -> None:
    _, told = _run(disc_config(discs), tmp_path)
    assert isinstance(told[0], TrainingStarted)
    assert (told[0].n_epochs, told[0].n_steps) == (2, 4)
    assert [row["epoch"] for row in _rows(told)] == [1, 2]
    with (tmp_path / "log.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [float(row["dice disc"]) for row in written] == pytest.approx(
        [row["dice disc"] for row in _rows(told)], rel=1e-5
    )
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"dice/disc" in events.read_bytes()
    picture = np.asarray(Image.open(tmp_path / "predictions.png"))
    assert picture.shape == (2 * (48 + 6), 3 * 48 + 2 * 6, 3)
    assert _differ(read_weights(plain), read_weights(tmp_path)) == set()


@pytest.mark.parametrize(
    ("score", "patience", "scores", "best", "epochs"),
    [
        ("dice", None, [0.5, 0.7, 0.6, 0.7], 2, 4),
        ("dice", 1, [0.5, 0.7, 0.6, 0.9], 2, 3),
        ("loss", None, [0.5, 0.7, 0.2, 0.3], 3, 4),
        ("dice", None, [nan, nan, 0.1, nan], 3, 4),
    ],
    ids=["ties keep the first", "patience ends it", "the smallest loss", "NaN is never better"],
)
def test_the_best_epoch_is_kept(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    score: str, patience: int | None, scores: list[float], best: int, epochs: int,
) -> None:  # fmt: skip
    given_scores, seen = iter(scores), []

    def judged(network: Any, *_: Any) -> Any:
        value = next(given_scores)
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return Scores((0.0, value), (0.0, value), value, 1), []

    monkeypatch.setattr(loop, "validate", judged)
    _, told = _run(disc_config(discs, epochs=4, score=score, patience=patience), tmp_path)
    assert len(_rows(told)) == epochs
    assert _differ(seen[best - 1], read_weights(tmp_path)) == set()
    assert max(i for i, e in enumerate([e for e in told if isinstance(e, EpochDone)], 1) if e.is_best) == best


def test_without_validation_the_last_epoch_is_the_best(discs: Path, tmp_path: Path) -> None:
    data = {**disc_config(discs).data.model_dump(mode="json"), "validation_share": 0}
    weights, told = _run(disc_config(discs, data=data), tmp_path)
    assert all("dice" not in row for row in _rows(told))
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert _differ(state["network"], weights) == set()


def _other(discs: Path) -> list[dict[str, str]]:
    return [{"images": str(discs / "other" / "images")}]


@pytest.mark.parametrize("name", ["semi", "mean teacher", "features", "outputs", "ema", "bf16", "dropout", "augment"])
def test_every_method_changes_what_is_learnt(discs: Path, plain: Path, tmp_path: Path, name: str) -> None:
    changes: dict[str, Any] = {
        "semi": {"semi": {"sources": _other(discs), "confidence": 0.5, "ramp_epochs": 0}},
        "mean teacher": {"semi": {"sources": _other(discs), "confidence": 0.5, "ramp_epochs": 0, "mean_teacher": True}},
        "features": {"domain": {"sources": _other(discs), "weight": 1.0}},
        "outputs": {"domain": {"sources": _other(discs), "weight": 1.0, "method": "outputs"}},
        "ema": {"optimiser": {"lr": 0.01, "ema": 0.9}},
        "bf16": {"precision": "bf16"},
        "dropout": {"model": {"width": 4, "depth": 1, "dropout": 0.5}},
        "augment": {"augment": {"stain": 0.2}},
    }[name]
    weights, told = _run(disc_config(discs, **changes), tmp_path)
    differing = _differ(read_weights(plain), weights)
    assert any(key.endswith("conv.weight") or "weight" in key for key in differing)
    assert all(torch.isfinite(value).all() for value in weights.values())
    column = {"semi": "loss unlabelled", "mean teacher": "loss unlabelled", "features": "loss domain",
              "outputs": "loss domain"}.get(name)  # fmt: skip
    assert column is None or _rows(told)[-1][column] > 0


def test_the_unlabelled_loss_rises_with_its_ramp(discs: Path) -> None:
    config = disc_config(discs, semi={"sources": _other(discs), "confidence": 0.0, "ramp_epochs": 1})
    supply, objective = open_supply(config, CPU), Objective(config, CPU.device)
    learner = Learner(config, make_network(config), objective, CPU)
    ((material, moment),) = next(supply.steps(0, 0))
    losses = [float(objective(learner, material, replace(moment, epoch=e))["unlabelled"].detach()) for e in (0, 1)]
    assert 0 < losses[0] < 0.02 * losses[1]


def test_the_moving_average_is_what_is_validated_and_kept(discs: Path, tmp_path: Path) -> None:
    weights, _ = _run(disc_config(discs, epochs=1, optimiser={"lr": 0.01, "ema": 0.5}), tmp_path)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert state["average"]["updates"] == 4
    assert _differ(state["average"]["weights"], weights) == set()
    apart = [(weights[name] - state["network"][name]).abs().max() for name in weights if name.endswith("weight")]
    assert all(0 < distance < 0.1 for distance in apart)


def test_a_taught_network_follows_its_teacher(discs: Path, plain: Path) -> None:
    """With the whole weight on the teacher, who sees its own normalisation, labels have no say."""
    config = disc_config(
        discs,
        distill={"teacher": str(plain), "weight": 1.0},
        mean=[0.2] * 3,
        augment={"flip": False, "rotate90": False},
    )
    teacher = read_trained(plain).network
    objective = Objective(config, CPU.device, read_trained(plain))
    learner = Learner(config, make_network(config), objective, CPU)
    learner.network.eval()
    ((material, moment),) = next(open_supply(config, CPU).steps(0, 0))
    losses = objective(learner, material, moment)
    assert float(losses["labels"].detach()) == 0
    pixels, labels = material.labelled.images / 255, material.labelled.labels
    with torch.no_grad():
        student, taught = learner.network((pixels - 0.2) / 0.25), teacher((pixels - 0.5) / 0.25)
    expected = distillation_loss(student, taught, 2.0, labels)
    assert float(losses["teacher"].detach()) == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(ConfigError, match="teacher's classes"):
        Objective(disc_config(discs, classes=["ground", "ring"]), CPU.device, read_trained(plain))
    with pytest.raises(ConfigError, match="teacher works at 1 um/px"):
        Objective(disc_config(discs, mpp=0.5), CPU.device, read_trained(plain))


def test_only_the_head_learns_first(discs: Path, plain: Path, tmp_path: Path) -> None:
    config = disc_config(discs, epochs=1, transfer={"weights": str(plain), "unfreeze_every": 1})
    weights, told = _run(config, tmp_path)
    head = _differ(read_weights(plain), weights)
    network = make_network(config)
    own = {id(value) for value in network.stages()[-1].state_dict(keep_vars=True).values()}
    assert head
    assert head <= {name for name, value in network.state_dict(keep_vars=True).items() if id(value) in own}
    assert any(isinstance(event, Note) and "tensors taken" in event.text for event in told)


@pytest.mark.parametrize(("settings", "moving"), [({"freeze": True}, False), ({"freeze_after": 1}, True)])
def test_statistics_stand_still(discs: Path, tmp_path: Path, settings: dict[str, Any], *, moving: bool) -> None:
    weights, _ = _run(disc_config(discs, epochs=3, batch_norm=settings), tmp_path)
    counts = {int(value) for name, value in weights.items() if name.endswith("num_batches_tracked")}
    assert counts == ({4} if moving else {0})


def test_cases_on_both_sides_are_told(discs: Path, tmp_path: Path) -> None:
    source = {"images": str(discs / "images"), "labels": str(discs / "labels")}
    sides = {"patches_per_epoch": 4, "train": [source], "validation": [source]}
    _, told = _run(disc_config(discs, data=sides, epochs=1), tmp_path / "leaking")
    assert "case '00' and 7 more stands in both" in " ".join(event.text for event in told if isinstance(event, Note))
    _, told = _run(disc_config(discs, epochs=1), tmp_path / "split")
    assert not [event for event in told if isinstance(event, Note)]


def test_a_validation_set_that_cannot_tell_epochs_apart_is_refused(discs: Path, tmp_path: Path) -> None:
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    Image.fromarray(np.full((48, 48, 3), 220, np.uint8)).save(tmp_path / "images" / "bare.png")
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(tmp_path / "labels" / "bare.png")
    train, bare = (
        [{"images": str(folder / "images"), "labels": str(folder / "labels")}] for folder in (discs, tmp_path)
    )
    config = disc_config(discs, data={"train": train, "validation": bare, "patches_per_epoch": 4})
    with pytest.raises(ConfigError, match="validation holds 2304 px of the first class and none of any other"):
        open_supply(config, CPU)
    assert open_supply(config.model_copy(update={"score": "loss"}), CPU).validation is not None


def test_every_moment_has_its_own_numbers() -> None:
    first = Moment(0, 0, 0, 0, 10, 10)
    moments = [first, replace(first, seed=1), replace(first, epoch=1), replace(first, batch=1), replace(first, rank=1)]
    numbers = [moment.number(use) for moment in moments for use in range(5)]
    assert len(set(numbers)) == len(numbers)
    assert replace(first, epoch=5).progress == 0.5


@given(st.integers(0, 2**31), st.integers(2, 5))
def test_scores_equal_counting(seed: int, n_classes: int) -> None:
    random = np.random.default_rng(seed)
    predicted = random.integers(0, n_classes, (2, 7, 5))
    labels = np.where(random.random((2, 7, 5)) < 0.2, 255, random.integers(0, n_classes, (2, 7, 5)))
    scores = scores_of(confusion(torch.tensor(predicted), torch.tensor(labels), n_classes), 0.5)
    known = labels != 255
    for index in range(n_classes):
        p, r = (predicted == index) & known, (labels == index) & known
        both, either = (p & r).sum(), (p | r).sum()
        if not either:
            assert np.isnan(scores.dice[index])
            continue
        assert scores.dice[index] == pytest.approx(2 * both / (p.sum() + r.sum()))
        assert scores.iou[index] == pytest.approx(both / either)
    assert scores.n_px == known.sum()


def test_configurations_are_compared_by_nested_key(discs: Path) -> None:
    a, b = disc_config(discs), disc_config(discs, model={"width": 8, "depth": 1}, semi={"sources": _other(discs)})
    assert [key for key, _, _ in differing_keys(a, b)] == ["model.width", "semi"]
