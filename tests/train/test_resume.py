"""An interrupted training ends with the weights of an uninterrupted one, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from math import isnan
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from tests.train.discs import disc_config, write_discs
from tests.whole_runs import folder_in_memory
from wsi_seg.errors import CheckpointError, DivergedError, OutputExistsError, RunStopped
from wsi_seg.model.weights import read_weights
from wsi_seg.train import loop
from wsi_seg.train.config import TrainConfig, to_yaml
from wsi_seg.train.record.events import EpochDone, StepDone
from wsi_seg.train.record.events import Event as Told
from wsi_seg.train.run_folder import RunFolder


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is such."""
    with folder_in_memory(tmp_path) as folder:
        yield folder


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is exported or drawn: weights are compared."""
    monkeypatch.setattr(loop, "finish", lambda *_: None)
    monkeypatch.setattr(loop, "write_curves", lambda *_: None)


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_discs(tmp_path_factory.mktemp("discs"), 8)
    write_discs(folder / "other", 6, seed=3, shade=(60, 110, 80))
    return folder


def _methods(discs: Path) -> dict[str, dict[str, Any]]:
    other = [{"images": str(discs / "other" / "images")}]
    return {
        "plain, one batch": {"optimiser": {"lr": 0.01}},
        "averages, accumulation, dropout, checkpointing, warping": {
            "optimiser": {"lr": 0.01, "ema": 0.9, "accumulate": 3, "schedule": "one-cycle"},
            "model": {"width": 4, "depth": 1, "dropout": 0.3, "checkpointing": True},
            "augment": {"rotate": 20, "elastic": 2, "stain": 0.1, "noise": 0.02, "dropout": 0.5},
            "precision": "bf16",
        },
        "mean teacher, adversary, frozen statistics, read ahead": {
            "semi": {"sources": other, "mean_teacher": True, "confidence": 0.5, "ramp_epochs": 1},
            "domain": {"sources": other},
            "batch_norm": {"freeze_after": 1},
            "data": disc_config(discs).data.model_dump(mode="json") | {"workers": 2},
            "precision": "fp16",
        },
    }


class _StopAfter:
    """Sets a flag once so many steps were told of."""

    def __init__(self, n_steps: int) -> None:
        self.flag, self._left = Event(), n_steps

    def hear(self, event: Told) -> None:
        self._left -= isinstance(event, StepDone)
        if self._left <= 0:
            self.flag.set()


def _train_in_pieces(config: TrainConfig, out: Path, pieces: list[int]) -> int:
    """Train, stopped after each of `pieces` steps; answers how often it was stopped."""
    n_stops = 0
    for n_steps in [*pieces, 10**6]:
        stopper = _StopAfter(n_steps)
        try:
            loop.train(config, out, listener=stopper.hear, stop=stopper.flag)
            break
        except RunStopped:
            n_stops += 1
    return n_stops


def _state(out: Path) -> dict[str, Any]:
    """All that is saved but the clock's readings."""
    state = RunFolder(out).read_state()
    assert state is not None
    state["progress"]["rows"] = [
        {key: value for key, value in row.items() if key not in ("seconds", "Mpx/s")}
        for row in state["progress"]["rows"]
    ]
    del state["progress"]["seconds"]
    return state


def _same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b


@pytest.mark.parametrize("name", list(_methods(Path())))
def test_stopped_anywhere_equals_never_stopped(discs: Path, tmp_path: Path, name: str) -> None:
    config = disc_config(discs, **_methods(discs)[name])
    loop.train(config, tmp_path / "whole")
    assert _train_in_pieces(config, tmp_path / "pieces", [1, 2, 1]) >= 2
    assert _same(_state(tmp_path / "whole"), _state(tmp_path / "pieces"))
    whole, pieces = (read_weights(tmp_path / part / "best.safetensors") for part in ("whole", "pieces"))
    assert _same(whole, pieces)


def test_the_comparison_sees_another_run(discs: Path, tmp_path: Path) -> None:
    loop.train(disc_config(discs, epochs=1), tmp_path / "a")
    loop.train(disc_config(discs, epochs=1, seed=1), tmp_path / "b")
    assert not _same(_state(tmp_path / "a"), _state(tmp_path / "b"))


def test_stopping_while_validating_loses_no_step(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, flag = disc_config(discs), Event()
    loop.train(config, tmp_path / "whole")
    validate = loop.validate

    def interrupted(*arguments: Any) -> Any:
        flag.set()
        return validate(*arguments)

    monkeypatch.setattr(loop, "validate", interrupted)
    with pytest.raises(RunStopped, match="epoch 1, step 4"):
        loop.train(config, tmp_path / "pieces", stop=flag)
    monkeypatch.setattr(loop, "validate", validate)
    steps: list[Told] = []
    loop.train(config, tmp_path / "pieces", listener=steps.append)
    assert [event.epoch for event in steps if isinstance(event, StepDone)] == [1] * 4
    assert _same(_state(tmp_path / "whole"), _state(tmp_path / "pieces"))


def test_the_environment_comes_back_as_it_was(discs: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    loop.train(disc_config(discs, epochs=1), tmp_path / "run")
    assert before[:2] == (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    assert torch.equal(before[2], torch.get_rng_state())


def test_another_configuration_is_refused_and_its_key_named(discs: Path, tmp_path: Path) -> None:
    loop.train(disc_config(discs, epochs=1), tmp_path)
    weights = (tmp_path / "best.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"optimiser\.lr 0\.01, asked is 0\.5"):
        loop.train(disc_config(discs, epochs=1, optimiser={"lr": 0.5}), tmp_path)
    assert (tmp_path / "best.safetensors").read_bytes() == weights
    loop.train(disc_config(discs, epochs=1, licence="CC0-1.0"), tmp_path)
    loop.train(disc_config(discs, epochs=1, optimiser={"lr": 0.5}), tmp_path, resume=False)
    assert (tmp_path / "best.safetensors").read_bytes() != weights


def test_another_number_of_processes_is_refused_until_the_end(discs: Path, tmp_path: Path) -> None:
    config, stopper = disc_config(discs, epochs=1), _StopAfter(1)
    with pytest.raises(RunStopped):
        loop.train(config, tmp_path, listener=stopper.hear, stop=stopper.flag)
    _claim_processes(tmp_path, 2)
    with pytest.raises(CheckpointError, match="a run of 2 processes, these are 1"):
        loop.train(config, tmp_path)
    _claim_processes(tmp_path, 1)
    loop.train(config, tmp_path)
    _claim_processes(tmp_path, 2)
    loop.train(config, tmp_path)  # what is left is the export


def _claim_processes(out: Path, world: int) -> None:
    state = RunFolder(out).read_state()
    assert state is not None
    state["progress"]["world"] = world
    RunFolder(out).write_state(state)


def test_a_configuration_written_by_hand_is_left_alone(discs: Path, tmp_path: Path) -> None:
    mine = "# mine\n" + to_yaml(disc_config(discs))
    (tmp_path / "config.yaml").write_text(mine)
    for resume in (True, False):
        with pytest.raises(OutputExistsError, match="is not of a run"):
            loop.train(disc_config(discs), tmp_path, resume=resume)
    assert (tmp_path / "config.yaml").read_text() == mine
    (tmp_path / "config.yaml").write_text(
        to_yaml(disc_config(discs, seed=1))
    )  # of a run that ended before its first step
    loop.train(disc_config(discs, epochs=1), tmp_path)


def test_a_folder_of_something_else_is_left_alone(discs: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("mine")
    for resume in (True, False):
        with pytest.raises(OutputExistsError, match=r"holds model\.onnx and no config\.yaml"):
            loop.train(disc_config(discs), tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_two_runs_do_not_share_a_folder(discs: Path, tmp_path: Path) -> None:
    with RunFolder(tmp_path).locked(), pytest.raises(OutputExistsError, match="another process"):
        loop.train(disc_config(discs), tmp_path)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut short"], ids=["empty", "text", "cut"])
def test_a_damaged_state_is_told(discs: Path, tmp_path: Path, content: bytes) -> None:
    config = disc_config(discs, epochs=1)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="--restart"):
        loop.train(config, tmp_path)


def test_a_state_that_would_run_code_is_refused(discs: Path, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    config = disc_config(discs, epochs=1)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    torch.save({"format": 1, "progress": Harm()}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError):
        loop.train(config, tmp_path)
    assert not (tmp_path / "harm").exists()


def test_a_bad_step_changes_nothing(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inf in the pixels goes through batch normalisation: running statistics must come back, too."""
    from wsi_seg.train.learner import Learner

    step, seen = Learner.step, []

    def poisoned(self: Learner, materials: Any, number: int, n_total: int) -> Any:
        if number != 2:
            return step(self, materials, number, n_total)
        before = {name: value.clone() for name, value in self.network.state_dict().items()}
        augment = self._objective._augment
        self._objective._augment = lambda images, labels, generator: (images * float("inf"), labels)
        result = step(self, materials, number, n_total)
        self._objective._augment = augment
        seen.append((result.is_good, _same(before, dict(self.network.state_dict()))))
        return result

    monkeypatch.setattr(Learner, "step", poisoned)
    rows: list[Told] = []
    loop.train(disc_config(discs, epochs=1), tmp_path, listener=rows.append)
    assert seen == [(False, True)]
    (epoch,) = (event for event in rows if isinstance(event, EpochDone))
    assert epoch.row["bad steps"] == 1
    assert not any(isnan(value) for value in epoch.row.values())


def test_a_run_that_stays_bad_fails(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wsi_seg.train.objective import Objective

    monkeypatch.setattr(
        Objective, "__call__", lambda self, networks, *_: {"labels": next(networks.network.parameters()).sum() * 1e40}
    )
    steps: list[Told] = []
    with pytest.raises(DivergedError, match="3 steps in a row"):
        loop.train(disc_config(discs, max_bad_steps=3), tmp_path, listener=steps.append)
    assert sum(isinstance(event, StepDone) for event in steps) == 3


_KILLING = """
import os, random, signal, sys, time
from pathlib import Path
import tensorboardX, torch._dynamo  # which a training imports on its way
from wsi_seg.train import loop
from wsi_seg.train.config import read_config

loop.finish = loop.write_curves = lambda *_: None
config, out, n_kills, dice = read_config(Path(sys.argv[1])), Path(sys.argv[2]), 0, random.Random(int(sys.argv[3]))
state = out / "last.pt"
while True:
    before = state.stat().st_mtime_ns if state.exists() else 0
    child = os.fork()  # nothing has started a thread yet; importing torch anew would take seconds
    if child == 0:
        loop.train(config, out)
        os._exit(0)
    if n_kills < 3:
        while not state.exists() or state.stat().st_mtime_ns == before:
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.15))
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != -signal.SIGKILL:
        break
    n_kills += 1
print(n_kills, code)
"""


def test_killed_at_any_moment_equals_never_killed(discs: Path, tmp_path: Path) -> None:
    """The process, not the flag: kill -9 some time after a save, then the same call again, until it is done."""
    config = disc_config(discs, epochs=8)
    loop.train(config, tmp_path / "whole")
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    command = [sys.executable, "-c", _KILLING, str(tmp_path / "run.yaml"), str(tmp_path / "killed"), "7"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    n_kills, code = map(int, ran.stdout.split())
    assert n_kills >= 2
    assert code == 0
    assert _same(_state(tmp_path / "whole"), _state(tmp_path / "killed"))
