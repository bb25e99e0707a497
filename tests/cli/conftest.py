"""The program, run in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.engine.runs import folder_in_memory, light_runs
from wsi_seg.cli.main import main


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Program = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _light_runs() -> Iterator[None]:
    with light_runs():
        yield


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is such."""
    with folder_in_memory(tmp_path) as folder:
        yield folder


@pytest.fixture
def wsi_seg(capsys: pytest.CaptureFixture[str]) -> Program:
    """Runs `wsi-seg` with arguments; no exception but SystemExit may leave it."""

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
