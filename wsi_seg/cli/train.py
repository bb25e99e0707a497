"""`wsi-seg train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

EXTRA = ("matplotlib", "pydantic", "safetensors", "tensorboardX", "torch", "yaml")
"""What the extra `train` brings that a plain installation lacks."""


def train(
    config: Annotated[Path | None, typer.Argument(help="YAML configuration.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run; default: the configuration's stem, here.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the file, e.g. model.width=16; may be repeated.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Discard what an earlier run left in --out.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="List every key, its default and its meaning.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary (or --keys) as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train a model from a configuration.

    The folder that it leaves is a model: `wsi-seg run SLIDE --model OUT`. The same command resumes a training that was
    stopped. For several processes: torchrun --nproc-per-node N -m wsi_seg.cli train CONFIG.
    """
    from wsi_seg.errors import UsageError

    _check_extra()
    if keys:
        _print_keys(as_json=as_json)
        return
    if config is None:
        raise UsageError("no configuration", remedy="wsi-seg train CONFIG.yaml; --keys lists what goes into one")
    import os

    from wsi_seg.cli.train_progress import training_progress
    from wsi_seg.engine.signals import stop_on_signals
    from wsi_seg.train.config import read_config

    wanted = read_config(config, changes or [])
    is_first = os.environ.get("RANK", "0") == "0"  # of torchrun's processes one tells
    with training_progress(enabled=is_first and not (quiet or as_json)) as listener, stop_on_signals() as stop:
        from wsi_seg.train.loop import train as run

        result = run(wanted, out or Path(config.stem), resume=not restart, listener=listener, stop=stop)
    if is_first:
        print(json.dumps(result.summary, indent=2) if as_json else result.describe())


def _check_extra() -> None:
    from importlib.util import find_spec

    from wsi_seg.errors import UsageError

    if missing := [name for name in EXTRA if find_spec(name) is None]:
        raise UsageError(
            f"training needs {', '.join(missing)}",
            rule="they come with an extra of this package",
            remedy="pip install 'wsi-seg[train]'",
        )


def _print_keys(*, as_json: bool) -> None:
    from wsi_seg.train.config import describe_keys

    rows = describe_keys()
    if as_json:
        print(json.dumps([dict(zip(("key", "default", "meaning"), row, strict=True)) for row in rows], indent=2))
        return
    width = max(len(key) for key, _, _ in rows)
    for key, default, meaning in rows:
        print(f"{key:<{width}}  {meaning}" + ("" if default in ("section", "null") else f"  [{default}]"))
