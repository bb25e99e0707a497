"""The `wsi-seg` program: its commands, and how errors become exit codes.

Exit codes: 0 done, 1 failed, 2 usage, 3 done with unreadable parts, 130 / 143 stopped by a signal.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from wsi_seg import __version__
from wsi_seg.cli import batch, bench, convert, evaluate, export, inspect, models, run, sample, train, verify
from wsi_seg.cli.collector import leave_memory_to_the_system
from wsi_seg.errors import WsiSegError

app = typer.Typer(
    name="wsi-seg",
    help="Whole-slide pathology segmentation: a slide and a model in, a pyramidal label map out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (
    run.run, run.plan, batch.batch, batch.status, inspect.info, verify.verify, evaluate.evaluate, sample.sample,
    models.models, train.train, export.export, bench.bench, convert.convert,
):  # fmt: skip
    app.command()(command)


def _print_version(asked: bool) -> None:
    """Eager, so that no command is missed."""
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def top(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; goes before the command.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Whole-slide pathology segmentation: a slide and a model in, a pyramidal label map out."""
    _state["debug"] = debug


_state = {"debug": False}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and leave with its exit code; every error of ours is one message, not a traceback."""
    try:
        app(args=None if arguments is None else list(arguments))
    except WsiSegError as error:
        if _state["debug"]:
            raise
        print(describe(error), file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:  # a fault of ours, or of the machine: still one message
        if _state["debug"]:
            raise
        print(f"error: {type(error).__name__}: {error}\n  try:  wsi-seg --debug … shows where", file=sys.stderr)
        sys.exit(1)
    finally:
        if arguments is None:  # as a program of its own
            leave_memory_to_the_system()


def describe(error: WsiSegError) -> str:
    """An error as people read it: what, rule, remedy, a line each."""
    lines = [f"error: {error.what}"]
    lines += [f"  rule: {error.rule}"] if error.rule else []
    lines += [f"  try:  {error.remedy}"] if error.remedy else []
    return "\n".join(lines)
