"""A result in a file system: built in `OUT.partial`, which is renamed when it is complete."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from uuid import uuid4

from wsi_seg.errors import OutputExistsError, UsageError
from wsi_seg.output.durable import make_folder, mapped_errors, sweep, sync_folder
from wsi_seg.output.result_spec import LOCK, PROVENANCE_FILE, ROOT, STATE
from wsi_seg.output.store.location import Location
from wsi_seg.output.store.posix import PosixStore


def partial_path(out: Path) -> Path:
    """Where the result `out` lives until it is finished."""
    return out.with_name(out.name + ".partial")


class PosixSite:
    """A folder; see `Site`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.unfinished = partial_path(out)
        self.store = PosixStore(self.unfinished)

    @classmethod
    def unfinished_below(cls, folder: Path) -> list[Location]:
        """Folders that end in `.partial` and say which run they are of."""
        found = sorted(folder.rglob("*.partial"))
        return [partial for partial in found if (partial / STATE / "run.json").is_file()]

    def make_place(self) -> None:
        """Make the folder around it. Raises WriteError."""
        with mapped_errors(self.out, 0):
            make_folder(self.out.parent)

    def check_place(self) -> None:
        """Raises UsageError where the folder around it is missing."""
        if not self.out.absolute().parent.is_dir():
            raise UsageError(f"--out {self.out}: its folder does not exist", remedy="make the folder first")

    def exists(self) -> bool:
        """Whether there is something of that name."""
        return self.out.exists()

    def is_settled(self) -> bool:
        """Whether the folder was renamed, or removed."""
        return not self.unfinished.exists()

    def refuse_existing(self, *, overwrite: bool) -> None:
        """Raises OutputExistsError; results are replaced when asked, and nothing else ever is."""
        if not os.path.lexists(self.out):
            return
        if not overwrite:
            raise OutputExistsError(
                f"{self.out} exists",
                rule="results are never replaced unasked",
                remedy="--overwrite, or another --out",
            )
        if self.out.is_symlink() or not all((self.out / key).is_file() for key in (PROVENANCE_FILE, ROOT)):
            raise OutputExistsError(
                f"{self.out} exists and is no result of wsi-seg",
                rule="--overwrite replaces results only",
                remedy="choose another --out, or remove it yourself",
            )

    def refuse_foreign(self) -> None:
        """A folder of somebody else's that happens to bear the name."""
        partial = self.unfinished
        if not os.path.lexists(partial) or (partial / STATE).is_dir():
            return
        if not partial.is_dir() or any(partial.iterdir()):
            raise OutputExistsError(
                f"{partial} exists and is no unfinished result of wsi-seg",
                rule="the result is built there",
                remedy="choose another --out, or remove it yourself",
            )

    def empty(self) -> None:
        """Remove everything but the lock; the identity goes first, so that a stop half-way leaves no false claim."""
        partial, state = self.unfinished, self.unfinished / STATE
        with mapped_errors(partial, 0):
            (state / "run.json").unlink(missing_ok=True)
            sync_folder(state)
            for folder, kept in ((partial, STATE), (state, Path(LOCK).name)):
                for path in folder.iterdir():
                    if path.name == kept:
                        continue
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    else:
                        path.unlink()
                sync_folder(folder)

    def sweep(self) -> None:
        """Remove temporary files."""
        sweep(self.unfinished)

    def attach(self, name: str, content: bytes) -> None:
        """Write a file beside the arrays. Raises WriteError."""
        self.store.write(name, content)

    def publish(self, root: bytes, *, overwrite: bool) -> None:
        """Rename the folder. Raises OutputExistsError, WriteError."""
        self.store.write(ROOT, root)
        self.refuse_existing(overwrite=overwrite)
        old = self.out.with_name(f"{self.out.name}.replaced-{uuid4().hex[:8]}")
        with mapped_errors(self.out, 0):
            if self.out.exists():
                self.out.rename(old)
            self.unfinished.rename(self.out)
            sync_folder(self.out.absolute().parent)
            # from here on the result is there; what is left to remove harms nobody
            shutil.rmtree(old, ignore_errors=True)
            shutil.rmtree(self.out / STATE, ignore_errors=True)
