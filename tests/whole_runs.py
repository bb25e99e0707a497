"""Fixtures of tests that run whole slides: in memory, without what takes long and is not their matter; and the program.

A conftest or a test file imports the ones that it wants; `quick_runs` then holds for all of its tests.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from wsi_seg.cli.main import main
from wsi_seg.output import overview


@pytest.fixture(autouse=True)
def quick_runs() -> Iterator[None]:
    """What takes most of a small run's time and is not its matter: its picture has half the side, and no slide is so
    large for this machine that its runtimes are worth comparing (which no result under test may hang on)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overview, "LONGEST_SIDE", 800)
        patch.setattr("wsi_seg.infer.rough_throughput", lambda *_, **__: 1e9)
        yield


@contextmanager
def folder_in_memory(otherwise: Path) -> Iterator[Path]:
    """A folder in memory where there is such: runs sync every file, which a busy disk makes slow."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield otherwise
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is such."""
    with folder_in_memory(tmp_path) as folder:
        yield folder


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Program = Callable[..., Outcome]


@pytest.fixture
def wsi_seg(capsys: pytest.CaptureFixture[str]) -> Program:
    """Runs `wsi-seg` with arguments in this process; no exception but SystemExit may leave it."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err + said.out
        code = left.value.code
        assert code is None or isinstance(code, int)
        return Outcome(code or 0, said.out, said.err)

    return call
