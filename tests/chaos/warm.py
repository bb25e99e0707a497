"""`wsi-seg` many times in one process, for faults that need thousands of runs: 0.1 s each instead of 3 s.

The same `main`, its exit code and what it says; but no picture is drawn (the file is written), and the speed of the
machine is not measured, on which no result may hang.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest.mock import patch

import typer.main

from wsi_seg import infer
from wsi_seg.cli.main import main
from wsi_seg.output import overview

OPTIONS = ("--model", "identity", "--tile", "128", "--block", "256", "--no-skip", "--workers", "1", "--quiet")
"""One worker: then the nth call of a run is the same one each time."""
SIZE = (400, 500)
"""Height and width of the slide: 2 x 2 blocks."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    said: str
    """Both streams."""


@contextlib.contextmanager
def warm_program() -> Iterator[None]:
    """While it lasts, commands are cheap to call."""
    with (
        patch.object(typer.main, "get_command", cache(typer.main.get_command)),
        patch.object(overview, "render_overview", lambda *_: b"picture"),
        patch.object(infer, "rough_throughput", lambda *_, **__: 1e9),
    ):
        yield


def wsi_seg(*arguments: object) -> Ended:
    """`wsi-seg` with these arguments, in this process."""
    said, code = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
    return Ended(code, said.getvalue())


def segment(slide: Path, out: Path, options: Sequence[str] = OPTIONS) -> Ended:
    """`wsi-seg run`."""
    return wsi_seg("run", slide, "--out", out, *options)
