"""`wsi-seg batch` and `wsi-seg status`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_seg.cli.cluster_options import scheduler_options
from wsi_seg.cli.printable import printable
from wsi_seg.cli.run_options import with_run_options
from wsi_seg.cli.shared_options import with_options
from wsi_seg.engine.options import RunOptions, Scheduler
from wsi_seg.errors import UsageError

if TYPE_CHECKING:
    from wsi_seg.batch import LocalWorkers

THREADS_PER_PROCESS = 8
"""Blocks at once in one process, at most: one copy of the model serves that many."""


@with_options(scheduler_options, "where")
@with_run_options
def batch(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Folders, patterns in quotes, slides, or manifests (.csv, .jsonl: slide, name, mpp, roi, model).",
            show_default=False,
        ),
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="PATH|URL", help="Folder of the results.", show_default=False)
    ],
    tiff: Annotated[bool, typer.Option("--tiff", help="Write NAME.ome.tif instead of NAME.seg.zarr.")] = False,
    jobqueue: Annotated[Path | None, typer.Option(help="YAML file: workers in jobs of SLURM, PBS, LSF or SGE.")] = None,
    processes: Annotated[
        int | None, typer.Option(help="Worker processes on this machine; default: one for 8 --workers.")
    ] = None,
    stall: Annotated[
        float, typer.Option(help="Seconds without any progress after which a worker process is ended.")
    ] = 60.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make all results again.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard half-done results instead of resuming them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what became of every slide as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr while it runs.")] = False,
    *,
    options: RunOptions,
    where: Scheduler | None,
) -> None:
    """Segment many slides.

    Results and a report lie in --out. The same command goes on where a stopped one ended, and leaves alone what is
    done. Exit code 1: a slide failed; 3: all are done, but some tiles could not be read or predicted.
    """
    from wsi_seg.batch import BatchOptions, find_slides, run_batch
    from wsi_seg.cli.batch_progress import batch_table
    from wsi_seg.engine.signals import stop_on_signals

    if where is not None and jobqueue is not None:
        raise UsageError("--scheduler and --jobqueue", rule="workers come from one of them")
    if stall <= 0:
        raise UsageError(f"--stall {stall}", rule="seconds, above 0")
    found = find_slides(inputs)
    asked = BatchOptions(
        run=replace(options, overwrite=overwrite, restart=restart),
        where=jobqueue or where or _local_workers(options, processes),
        tiff=tiff,
        stall_s=stall,
    )
    with batch_table(quiet=quiet, notes=found.notes) as watcher, stop_on_signals() as stop:
        report = run_batch(found.slides, out, asked, watcher=watcher, stop=stop)
    print(json.dumps(report.to_mapping(), indent=2) if as_json else printable(report.describe()))
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _local_workers(options: RunOptions, processes: int | None) -> LocalWorkers:
    """As many blocks at once as there are cores, or --workers, over processes of this machine."""
    from wsi_seg.batch import LocalWorkers
    from wsi_seg.engine.cores import usable_cores
    from wsi_seg.infer.device.cuda_driver import gpu_names
    from wsi_seg.plan import default_budget

    if processes is not None and processes < 1:
        raise UsageError(f"--processes {processes}", rule="at least 1")
    workers = options.workers or usable_cores()
    devices = gpus_of_processes(options.device, gpu_names() if options.device != "cpu" else (), processes)
    n = len(devices) or processes or -(-workers // THREADS_PER_PROCESS)
    return LocalWorkers(n, max(1, workers // n), options.memory_bytes or default_budget(), devices=devices)


def gpus_of_processes(device: str, names: Sequence[str], processes: int | None) -> tuple[str, ...]:
    """A GPU for each process, where there are several to choose from, as CUDA_VISIBLE_DEVICES names it; else none.

    `names`: of the GPUs that this process sees. `processes`: as asked; more than there are GPUs share them in turn.

    >>> gpus_of_processes("cuda", ["H200", "H200"], None), gpus_of_processes("cuda", ["H200"], None)
    (('0', '1'), ())
    >>> gpus_of_processes("cuda:1", ["H200", "H200"], None), gpus_of_processes("auto", ["H200", "H200"], 3)
    ((), ('0', '1', '0'))
    """
    if device.startswith("cuda:") or device == "cpu" or len(names) < 2:
        return ()
    seen = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    every = seen[: len(names)] if len(seen) >= len(names) else [str(number) for number in range(len(names))]
    return tuple(every[n % len(every)] for n in range(processes or len(every)))


def status(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="The --out of a batch.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how far a batch is, whether somebody works on it or not."""
    from wsi_seg.batch import batch_status

    told = batch_status(folder)
    print(json.dumps(told.to_mapping(), indent=2) if as_json else printable(told.describe()))
