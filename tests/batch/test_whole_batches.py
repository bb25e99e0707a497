"""Batches as processes: two at once, Ctrl-C, kill -9; the same command finishes what was begun, with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.chaos.trees import contents, differences
from tests.whole_runs import folder_in_memory
from wsi_seg.sample import write_synthetic

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for number in range(2):
        write_synthetic(folder / f"s{number}.tif", (1100, 900), mpp=0.5, seed=number, tissue_fraction=0.7)
    return folder


def _command(slides: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "wsi_seg.cli", "batch", str(slides), "--out", str(out), "--model", "he-stain",
        "--tile", "128", "--block", "256", "--no-skip", "--processes", "1", "--workers", "1", "--quiet",
    ]  # fmt: skip


@contextmanager
def _started(slides: Path, out: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        _command(slides, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        children = _tree(process)
        process.kill()
        process.communicate()
        for child in children:
            child.kill()


def _tree(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _wait(true: Callable[[], object], timeout: float = PATIENCE_S) -> None:
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def _blocks(out: Path) -> list[Path]:
    return list(out.rglob("done/0/[0-9]*.json"))


@pytest.fixture(scope="module")
def undisturbed(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, bytes]]]:
    with folder_in_memory(tmp_path_factory.mktemp("undisturbed")) as folder:
        with _started(slides, folder / "out") as process:
            _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err
        assert [line for line in err.splitlines() if "Dask's pages" not in line] == []
        yield _results(folder / "out")


def _results(out: Path) -> dict[str, dict[str, bytes]]:
    return {path.name: contents(path) for path in out.glob("*.seg.zarr")}


def _finish(slides: Path, out: Path, undisturbed: dict[str, dict[str, bytes]]) -> None:
    with _started(slides, out) as process:
        said, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err + said
    found = _results(out)
    assert found.keys() == undisturbed.keys()
    assert not [name for name in found if differences(undisturbed[name], found[name])]
    assert not list(out.rglob("*.partial"))


def test_ctrl_c_stops_in_time_and_the_same_command_goes_on(
    slides: Path, tmp_path: Path, undisturbed: dict[str, dict[str, bytes]]
) -> None:
    out = tmp_path / "out"
    with _started(slides, out) as process:
        _wait(lambda: len(_blocks(out)) > 2 or process.poll() is not None)
        children = _tree(process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the command
        began = time.monotonic()
        said, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 10
    assert process.returncode == 130, err + said
    assert "Traceback" not in err + said
    _, left = psutil.wait_procs(children, timeout=10)  # the orphans hear of the end by their pipes
    assert not [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert "missing" in (out / "report.csv").read_text()
    _finish(slides, out, undisturbed)


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.3])
def test_ctrl_c_while_the_workers_start_is_no_less_clean(slides: Path, tmp_path: Path, after_s: float) -> None:
    with _started(slides, tmp_path / "out") as process:
        _wait(lambda: len(psutil.Process(process.pid).children()) > 1 or process.poll() is not None)
        time.sleep(after_s)
        os.killpg(process.pid, signal.SIGINT)
        said, err = process.communicate(timeout=60)
    assert process.returncode == 130, err + said
    assert "Traceback" not in err + said


def test_a_second_batch_is_refused_until_the_first_is_killed(
    slides: Path, tmp_path: Path, undisturbed: dict[str, dict[str, bytes]]
) -> None:
    out = tmp_path / "out"
    with _started(slides, out) as first:
        _wait(lambda: len(_blocks(out)) > 2 or first.poll() is not None)
        with _started(slides, out) as second:
            _, err = second.communicate(timeout=30)
        assert second.returncode == 1
        assert str(first.pid) in err
        assert "Traceback" not in err
        children = _tree(first)
        first.kill()
        _wait(lambda: not [child for child in children if child.is_running()], 30)
    _finish(slides, out, undisturbed)
