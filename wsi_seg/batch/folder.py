"""The folder of a batch: whose it is, what was asked, and what became of each slide.

Owns `--out DIR` of a batch::

    NAME.seg.zarr or NAME.ome.tif      results
    report.html  report.csv  areas.csv
    .wsi-seg-batch/lock                held (flock) by the one driver; says host and pid
                   batch.json          what was asked, which must not change
                   slides/NAME.json    a record per slide
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_seg.batch.asked import differences
from wsi_seg.batch.record import SlideRecord
from wsi_seg.errors import BatchError
from wsi_seg.output.durable import json_bytes, make_folder, mapped_errors, write_durably
from wsi_seg.output.run_directory import lock_file, lock_owner

STATE = ".wsi-seg-batch"


@dataclass(frozen=True, slots=True)
class BatchFolder:
    """The folder of a batch."""

    path: Path

    @property
    def state(self) -> Path:
        """Where what is not for users lies."""
        return self.path / STATE

    @property
    def exists(self) -> bool:
        """Whether a batch was begun here."""
        return (self.state / "batch.json").is_file()

    def owner(self) -> str:
        """Host and pid of the process that works on the batch; empty where none does."""
        return lock_owner(self.state / "lock")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the one process that works on the batch. Raises OutputExistsError, WriteError."""
        with mapped_errors(self.path, 0):
            make_folder(self.state)
        lock = lock_file(self.state / "lock", self.path)
        try:
            yield
        finally:
            os.close(lock)

    def claim(self, asked: Mapping[str, Any], *, anew: bool = False) -> bool:
        """Record what is asked, or check that it is what was asked before; True where the batch goes on.

        Raises BatchError naming what differs, unless `anew`.
        """
        wanted = json.loads(json.dumps(asked))
        stored = self._stored()
        if stored is not None and not anew:
            if differing := differences(stored, wanted):
                raise BatchError(
                    f"{self.path} was begun with other options: {'; '.join(differing)}",
                    rule="all results of a batch are made alike",
                    remedy="the same options, another --out, or --overwrite to make all results again",
                )
            return True
        write_durably(self.state / "batch.json", json_bytes(wanted))
        return False

    def _stored(self) -> dict[str, Any] | None:
        path = self.state / "batch.json"
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BatchError(f"{path} cannot be read: {error}", remedy="--overwrite begins anew") from error
        if not isinstance(content, dict):
            raise BatchError(f"{path} is no record of a batch", remedy="--overwrite begins anew")
        return content

    def keep(self, record: SlideRecord) -> None:
        """Record what became of a slide. Raises WriteError."""
        write_durably(self._file(record.name), json_bytes(record.to_mapping()))

    def record(self, name: str) -> SlideRecord | None:
        """What is recorded of a slide; None where nothing is, or it cannot be read."""
        return _read(self._file(name))

    def records(self) -> list[SlideRecord]:
        """All records, by name."""
        found = [_read(path) for path in sorted((self.state / "slides").rglob("*.json"))]
        return [record for record in found if record is not None]

    def _file(self, name: str) -> Path:
        return self.state / "slides" / f"{name}.json"


def _read(path: Path) -> SlideRecord | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return SlideRecord.from_mapping(json.loads(path.read_bytes()))
    return None
