"""Two processes with half of the batch each learn what one process learns with the whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.discs import disc_config, write_discs
from wsi_seg.errors import UsageError
from wsi_seg.model.weights import read_weights
from wsi_seg.train import loop
from wsi_seg.train.config import TrainConfig, to_yaml
from wsi_seg.train.distributed import join_group

_SCRIPT = """
import sys
from pathlib import Path
from wsi_seg.train import loop
from wsi_seg.train.config import read_config
from wsi_seg.train.finishing import TrainResult

loop.finish = lambda *_: TrainResult(Path(), {"seen": "by all"})
loop.write_curves = lambda *_: None
result = loop.train(read_config(Path(sys.argv[1])), Path(sys.argv[2]))
assert result.summary == {"seen": "by all"}
"""


def _config(folder: Path, **changes: Any) -> TrainConfig:
    """Nothing that depends on which patch is in which process's batch: frozen statistics, no augmentation."""
    settings: dict[str, Any] = {
        "batch_norm": {"freeze": True},
        "augment": {"flip": False, "rotate90": False},
        "loss": [{"name": "cross-entropy"}],  # a mean over pixels; Dice is one over batches
        "optimiser": {"name": "sgd", "lr": 0.05, "accumulate": 2},
        "epochs": 1,
    }
    return disc_config(folder, **settings | changes)


def test_two_processes_equal_one_with_their_batches_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_discs(tmp_path / "discs", 8)
    monkeypatch.setattr(loop, "finish", lambda *_: None)
    loop.train(_config(folder, batch_size=4), tmp_path / "one")
    (tmp_path / "two.yaml").write_text(to_yaml(_config(folder, batch_size=2)))
    (tmp_path / "train.py").write_text(_SCRIPT)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
        str(tmp_path / "train.py"), str(tmp_path / "two.yaml"), str(tmp_path / "two"),
    ]  # fmt: skip
    ran = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert ran.returncode == 0, ran.stderr
    one, two = (read_weights(tmp_path / name / "best.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)
    rows = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("one", "two")]
    assert len(rows[0]) == len(rows[1]) == 2
    losses = [float(row[1].split(",")[row[0].split(",").index("loss")]) for row in rows]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_single_process_asks_nobody() -> None:
    with join_group("cpu") as group:
        value = torch.ones(2)
        assert group.is_first
        assert group.average([], value) is value
        assert group.share("x") == "x"
        assert group.any(True) is True


def test_a_device_that_is_not_there_is_told() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(UsageError, match="device: cuda"), join_group("cuda"):
        pass
