"""The comparison as a command, with the hand-written loop in this interpreter; and what peers' scripts share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare, networks
from benchmarks.measure import Cost
from benchmarks.peers import PEERS, torch_network

SCRIPT = Path(compare.__file__)
ARGUMENTS = ("--peer", "handwritten", "--side", "1024", "--repeats", "1")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


def compared(inputs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *ARGUMENTS, "--log", str(inputs / "LOG.md"), *arguments]
    environment = {**os.environ, "WSI_SEG_BENCH": str(inputs), "WSI_SEG_PEERS": str(inputs / "none")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def rows_of(text: str) -> dict[str, dict[str, str]]:
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert tuple(table[0]) == compare.HEADER
    return {cells[0]: dict(zip(compare.HEADER, cells, strict=True)) for cells in table[2:]}


def test_a_table_of_both_programs(inputs: Path) -> None:
    ran = compared(inputs, "--python", sys.executable)
    assert ran.returncode == 0, ran.stderr
    assert (inputs / "LOG.md").read_text().strip() == ran.stdout.strip()
    rows = rows_of(ran.stdout)
    peer, same, _, exact = rows.values()
    names = ["handwritten", "wsi-seg, the same tiles", "wsi-seg, twice as large tiles", "wsi-seg, as it chooses: exact"]
    assert list(rows) == names
    differs = compare.HEADER[-1]
    assert float(exact[differs]) < 0.01
    assert 0.2 < float(peer[differs]) < 20
    assert 0.2 < float(same[differs]) < 20
    for row in rows.values():
        assert float(row["wall s"]) > 0
        assert float(row["CPU s"]) > 0
        assert float(row["peak MB, all processes"]) > 50
    assert peer["wall: peer / wsi-seg"] == "–"
    assert float(same["wall: peer / wsi-seg"]) > 0


def test_a_model_that_returns_its_input(inputs: Path) -> None:
    ran = compared(inputs, "--python", sys.executable, "--model", "identity")
    assert ran.returncode == 0, ran.stderr
    assert {float(row[compare.HEADER[-1]]) for row in rows_of(ran.stdout).values()} == {0.0}


def test_an_environment_that_is_not_there_is_told_with_what_makes_it(inputs: Path) -> None:
    ran = compared(inputs)
    assert ran.returncode == 2
    assert "benchmarks.peers.setup handwritten" in ran.stderr


def test_a_precision_that_the_peer_cannot_is_refused(inputs: Path) -> None:
    ran = compared(inputs, "--peer", "monai", "--precision", "int8")
    assert ran.returncode == 2
    assert "monai knows fp32, bf16, not int8" in ran.stderr


def test_a_peer_that_fails_makes_no_table(inputs: Path) -> None:
    before = (inputs / "LOG.md").read_text() if (inputs / "LOG.md").exists() else ""
    false = shutil.which("false")
    ran = compared(inputs, "--python", str(false), "--model", "identity")
    assert ran.returncode == 1
    assert f"exit 1: {false} -m benchmarks.peers.handwritten" in ran.stderr
    assert ((inputs / "LOG.md").read_text() if (inputs / "LOG.md").exists() else "") == before


class Told(compare.Program):
    """A program whose runs cost what was told."""

    def __init__(self, name: str, folder: Path, costs: list[Cost], order: list[str]) -> None:
        super().__init__(name, [], folder / name, lambda _: np.zeros((2, 2), np.uint8))
        object.__setattr__(self, "told", (iter(costs), order))

    def run(self) -> Cost:
        costs, order = self.told  # type: ignore[attr-defined]
        order.append(self.name)
        self.out.write_bytes(b"")
        return next(costs)


def test_programs_take_turns_and_ratios_are_of_pairs(tmp_path: Path) -> None:
    order: list[str] = []
    peers = [Cost(wall, 2 * wall, 1, 100 * wall, "") for wall in (2.0, 30.0, 4.0)]
    ours = [Cost(wall, wall, 1, 10, "") for wall in (1.0, 10.0, 4.0)]  # ratios 2, 3, 1
    programs: list[compare.Program] = [Told("peer", tmp_path, peers, order), Told("we", tmp_path, ours, order)]

    def judged() -> np.ndarray:
        order.append("judged")
        return np.array([[0, 0], [1, 255]], np.uint8)

    first, second = compare.compared(programs, judged, 3)
    assert order == ["peer", "we"] * 3 + ["judged"]
    assert first == ("peer", "4.0", "8.0", "3000", "–", "–", "33.3333")
    assert second == ("we", "4.0", "4.0", "10", "2.00", "4.00", "33.3333")


@pytest.mark.parametrize("depth", [1, 4])
def test_torch_has_the_weights_of_the_onnx_file(tmp_path: Path, depth: int) -> None:
    model = networks.unet(tmp_path / "unet.onnx", networks.UnetShape(base_channels=4, depth=depth, tile_size=64))
    weights = networks.save_weights(model, tmp_path / "unet.npz")
    torch_network.load(weights, "fp32")  # proves it by the example in the file
    with np.load(weights) as file:
        values = dict(file)
    values["w0"] = values["w0"] + 0.01
    np.savez(weights, **values)
    with pytest.raises(ValueError, match="torch differs from ONNX Runtime"):
        torch_network.load(weights, "fp32")


def test_every_peer_has_a_script() -> None:
    for name in PEERS:
        assert (SCRIPT.parent / "peers" / f"{name}.py").is_file()
