"""Reader processes: what happens to a library there is an error here, and costs no more than it must."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsi_seg.errors import RegionReadError, SlideOpenError
from wsi_seg.geometry import Box
from wsi_seg.slide import reading_apart, remote
from wsi_seg.slide.openslide_reader import VendorSlide
from wsi_seg.slide.reading_apart import ReaderPool

BOX = Box(0, 0, 50, 60)
Spoil = Callable[[str, str], None]


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReaderPool]:
    """A pool of its own."""
    own = ReaderPool()
    monkeypatch.setattr(remote, "READERS", own)
    yield own
    own.close()


@pytest.fixture
def spoil(pool: ReaderPool, monkeypatch: pytest.MonkeyPatch) -> Spoil:
    """Makes the library do something else in all processes that start from now on."""

    def replace(method: str, body: str) -> None:
        patch = (
            f"import os, time; from wsi_seg.slide.openslide_handle import OpenSlides\n"
            f"def spoilt(*_):\n {body}\n"
            f"OpenSlides.{method} = spoilt\n"
        )
        start, _, call = reading_apart._SCRIPT.rpartition("; main()")
        monkeypatch.setattr(reading_apart, "_SCRIPT", f"{start}{call}\n{patch}main()")
        pool.close()

    return replace


@pytest.fixture
def slide(pool: ReaderPool, tmp_path: Path, tiff_writer: Any) -> VendorSlide:
    return VendorSlide(tiff_writer(tmp_path / "s.tif", [(300, 400)]))


def pids(pool: ReaderPool) -> list[int]:
    return [process.pid for process in pool._all]


def test_an_abort_at_opening_is_an_error_with_its_last_words(spoil: Spoil, tmp_path: Path, tiff_writer: Any) -> None:
    path = tiff_writer(tmp_path / "s.tif", [(300, 400)])
    spoil("facts", "os.write(2, b'GLib-ERROR: failed to allocate 17179869184 bytes'); os.abort()")
    with pytest.raises(SlideOpenError) as raised:
        VendorSlide(path)
    assert f"signal {int(signal.SIGABRT)}, saying: GLib-ERROR: failed to allocate 17179869184" in raised.value.what
    assert raised.value.rule
    assert raised.value.remedy


def test_an_abort_at_reading_is_a_region_that_cannot_be_read(slide: VendorSlide, spoil: Spoil) -> None:
    spoil("read", "os.abort()")
    with pytest.raises(RegionReadError, match=f"the process that read it ended with signal {int(signal.SIGABRT)}"):
        slide.read_region(BOX, 0)


def test_a_process_that_was_killed_is_replaced(slide: VendorSlide, pool: ReaderPool, coded: Any) -> None:
    for pid in pids(pool):
        os.kill(pid, signal.SIGKILL)
    np.testing.assert_array_equal(slide.read_region(BOX, 0), coded((300, 400))[:50, :60])


def test_a_process_that_hangs_is_ended(
    slide: VendorSlide, pool: ReaderPool, monkeypatch: pytest.MonkeyPatch, coded: Any
) -> None:
    monkeypatch.setattr(remote, "READING_S", 0.3)
    for pid in pids(pool):
        os.kill(pid, signal.SIGSTOP)
    before = pids(pool)
    np.testing.assert_array_equal(slide.read_region(BOX, 0), coded((300, 400))[:50, :60])
    assert not set(before) & set(pids(pool))


def test_a_slide_whose_reads_hang_is_given_up_soon(
    slide: VendorSlide, spoil: Spoil, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("READING_S", "_AGAIN_S"):
        monkeypatch.setattr(remote, name, 0.2)
    monkeypatch.setattr(reading_apart, "STARTING_S", 1.0)
    spoil("read", "time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(RegionReadError, match="no answer within"):
        slide.read_region(BOX, 0)  # twice
    for _ in range(50):
        with pytest.raises(RegionReadError, match="has held up 3, ended 0"):
            slide.read_region(BOX, 0)
    assert time.monotonic() - began < 20


def test_a_slide_that_ends_every_process_is_given_up(
    slide: VendorSlide, spoil: Spoil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_MAX_LOST", 2)
    spoil("read", "os._exit(9)")
    with pytest.raises(RegionReadError, match="ended with exit code 9"):
        slide.read_region(BOX, 0)
    with pytest.raises(RegionReadError, match="ended 2 and starved 0 reader processes, so nothing more"):
        slide.read_region(BOX, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is tried on Linux")
def test_memory_has_a_limit(slide: VendorSlide, spoil: Spoil) -> None:
    spoil("read", "return bytearray(5 << 30)")
    with pytest.raises(RegionReadError, match="it needs more than 3072 MiB of memory"):
        slide.read_region(BOX, 0)


def test_an_answer_that_is_none_ends_the_process(slide: VendorSlide, spoil: Spoil) -> None:
    spoil("read", "os.write(3, b'x' * 64); time.sleep(0)")
    with pytest.raises(RegionReadError, match="the process that read it ended"):
        slide.read_region(BOX, 0)


def test_signals_to_the_whole_job_do_not_reach_readers(slide: VendorSlide, pool: ReaderPool) -> None:
    before = pids(pool)
    for pid in before:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    slide.read_region(BOX, 0)
    assert pids(pool) == before


def test_closing_closes_the_slide_there(slide: VendorSlide, pool: ReaderPool) -> None:
    slide.read_region(BOX, 0)
    (process,) = pool._all
    assert process.names == {slide._remote._slide["name"]}
    slide.close()
    assert not process.names
    slide.read_region(BOX, 0)
    assert {process} == pool._all


def test_readers_end_with_a_process_that_is_killed(tmp_path: Path, tiff_writer: Any) -> None:
    path = tiff_writer(tmp_path / "s.tif", [(300, 400)])
    script = (
        "import os, signal\n"
        "from wsi_seg.slide import open_slide\n"
        "from wsi_seg.slide.reading_apart import READERS\n"
        f"slide = open_slide({str(path)!r}, reader='openslide')\n"
        "print(*(reader.pid for reader in READERS._all), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    left = [int(pid) for pid in ran.stdout.split()]
    assert left
    end = time.monotonic() + 10
    while any(_lives(pid) for pid in left):
        assert time.monotonic() < end
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_memory_of_readers_counts_for_every_thread(slide: VendorSlide, pool: ReaderPool) -> None:
    slide.read_region(BOX, 0)
    (one,) = pool.held_bytes()
    assert 5 << 20 < one < 200 << 20
    assert remote.outside_bytes("tiff", 8) == pytest.approx(one, rel=0.2)
    assert remote.outside_bytes("openslide", 8) >= 8 * (one * 0.8 + (32 << 20))
    pool.close()
    assert remote.outside_bytes("tiff", 8) == 0
