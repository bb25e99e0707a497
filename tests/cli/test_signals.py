"""Ctrl-C and SIGTERM, to a real process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import networks
from tests.engine.runs import shard_bytes
from tests.whole_runs import folder_in_memory
from wsi_seg.cli.main import main
from wsi_seg.engine.signals import unwinding_on_sigterm
from wsi_seg.output.label_store import open_result


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A U-Net large enough for a run of some seconds."""
    shape = networks.UnetShape(base_channels=8, depth=2, tile_size=128)
    return str(networks.unet(tmp_path_factory.mktemp("models") / "unet.onnx", shape))


def command_for(slide: Path, out: Path, model: str) -> list[str]:
    return [
        sys.executable, "-m", "wsi_seg.cli", "run", str(slide), "--out", str(out),
        "--model", model, "--tile", "128", "--block", "256", "--workers", "1", "--no-skip",
    ]  # fmt: skip


@pytest.fixture
def command(small_slide: Path, tmp_path: Path, slow_model: str) -> list[str]:
    return command_for(small_slide, tmp_path / "x.seg.zarr", slow_model)


@pytest.fixture(scope="module")
def undisturbed(small_slide: Path, slow_model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Shards of the same command that no signal reached."""
    with folder_in_memory(tmp_path_factory.mktemp("undisturbed")) as folder:
        with pytest.raises(SystemExit) as left:
            main(command_for(small_slide, folder / "x.seg.zarr", slow_model)[3:])
        assert not left.value.code
        return shard_bytes(open_result(folder / "x.seg.zarr"))


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def wait_for_marker(process: subprocess.Popen[str], folder: Path) -> None:
    while process.poll() is None and not list(folder.rglob("done/0/[0-9]*.json")):
        time.sleep(0.002)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_stops_and_the_same_command_resumes(
    wsi_seg: Any, command: list[str], tmp_path: Path, undisturbed: dict[str, bytes], number: signal.Signals, code: int
) -> None:
    with started(command) as process:
        wait_for_marker(process, tmp_path)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        began = time.monotonic()
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - began < 10
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert "error: the run was stopped" in said
    assert "try:  run the same command again to resume" in said
    assert not [child for child in children if child.is_running()]
    assert (tmp_path / "x.seg.zarr.partial").is_dir()
    assert not (tmp_path / "x.seg.zarr").exists()
    again = wsi_seg(*command[3:])
    assert again.code == 0
    assert "resuming: " in again.err
    assert shard_bytes(open_result(tmp_path / "x.seg.zarr")) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_leaves_at_once(number: signal.Signals) -> None:
    stuck = (
        "import time; from wsi_seg.engine.signals import stop_on_signals\n"
        "with stop_on_signals() as stop:\n"
        "    print('ready', flush=True)\n"
        "    while not stop.is_set(): time.sleep(0.01)\n"
        "    print('heard', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with started([sys.executable, "-c", stuck]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "heard\n"
        process.send_signal(number)
        assert process.wait(timeout=5) == 128 + number
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_sigterm_unwinds_what_cannot_be_resumed() -> None:
    """In a process of its own: pytest's faulthandler gives signals a small stack.

    Python 3.11's handler, its symbols resolved lazily with AVX-512 registers saved, overran it and ended the worker.
    """
    works = (
        "import tempfile, time; from wsi_seg.engine.signals import unwinding_on_sigterm\n"
        "with unwinding_on_sigterm(), tempfile.TemporaryDirectory() as folder:\n"
        "    print(folder, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with started([sys.executable, "-c", works]) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert folder.is_dir()
        process.terminate()
        assert process.wait(timeout=5) == 143
        assert not folder.exists()


def test_outside_a_command_sigterm_is_what_it_was() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with unwinding_on_sigterm():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
