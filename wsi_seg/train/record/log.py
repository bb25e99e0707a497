"""The record of a run as people's tools read it: log.csv and TensorBoard events.

Owns both forms; the only file that imports tensorboardX. The rows are part of the saved state, so that a resumed run
rewrites log.csv whole and never tells an epoch twice. Draws nothing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsi_seg.output.durable import write_durably

Row = Mapping[str, float]
"""One epoch: column -> value; every row has `epoch` from 1."""


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write one line per epoch, columns in the order in which they first appear. Raises WriteError."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    write_durably(path, text.getvalue().encode())


class EventLog:
    """TensorBoard scalars, one point per epoch."""

    def __init__(self, folder: Path, first_epoch: int) -> None:
        """Points of `first_epoch` (from 1) and later that an interrupted run wrote are hidden by TensorBoard."""
        from tensorboardX import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=first_epoch, write_to_disk=True)

    def add(self, row: Row) -> None:
        """Write an epoch; columns of one kind, such as `dice nucleus`, become one group."""
        for key, value in row.items():
            if key != "epoch":
                grouped = key.replace(" ", "/", 1) if key.split()[0] in ("loss", "dice", "iou") else key
                self._writer.add_scalar(grouped, value, int(row["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()
