"""A file that appears under its name when it is whole; owns the refusal to write over another, knows no format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path

from wsi_seg.errors import OutputExistsError
from wsi_seg.output.durable import make_folder, mapped_errors, publish, sync_file, temporary_beside


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Raise OutputExistsError where something is there that may not be replaced."""
    if out.is_dir() or (out.exists() and not overwrite):
        remedy = "choose another --out" if out.is_dir() else "choose another --out, or --overwrite"
        raise OutputExistsError(f"{out} exists", rule="nothing is written over unasked", remedy=remedy)


@contextmanager
def new_file(out: Path, *, overwrite: bool = False) -> Iterator[BufferedWriter]:
    """A binary file to write into; it gets its name at the end, on the disk, unless an exception ends the writing.

    Raises:
        OutputExistsError: the name is taken. WriteError: the disk refused.
    """
    with new_path(out, overwrite=overwrite) as temp, temp.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def new_path(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """The same for those who open the file themselves: the name to write under, in the folder of `out`."""
    refuse_existing(out, overwrite)
    with mapped_errors(out, 0):
        make_folder(out.absolute().parent)
        with temporary_beside(out) as temp:
            yield temp
            sync_file(temp)
            publish(temp, out)
