"""The options that say where a Dask scheduler is, for every command that may work on one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.engine.options import Scheduler
from wsi_seg.errors import UsageError


def scheduler_options(
    *,
    scheduler: Annotated[
        str | None,
        typer.Option(help="A Dask scheduler: tls://HOST:PORT, or tcp:// on this machine; default: this machine."),
    ] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="PEM file of its authority; else as Dask is configured.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file of the client's certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of the client's key.")] = None,
    plain_tcp: Annotated[
        bool, typer.Option("--plain-tcp", help="Accept tcp:// to another machine: anybody there can run code.")
    ] = False,
) -> Scheduler | None:
    """The scheduler that the options name."""
    if scheduler is not None:
        return Scheduler(scheduler, tls_ca, tls_cert, tls_key, plain_tcp)
    if tls_ca or tls_cert or tls_key or plain_tcp:
        raise UsageError("--tls-… or --plain-tcp without --scheduler", remedy="add --scheduler tls://HOST:PORT")
    return None
