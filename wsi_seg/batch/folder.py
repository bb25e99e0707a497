"""The folder of a batch, or its prefix in an object store: whose it is, what was asked, and what became of each slide.

Owns `--out DIR` of a batch::

    NAME.seg.zarr or NAME.ome.tif      results
    report.html  report.csv  areas.csv
    .wsi-seg-batch/lock                held by the one driver; says host and pid
                   batch.json          what was asked, which must not change
                   slides/NAME.json    a record per slide
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any

from wsi_seg.batch.asked import differences
from wsi_seg.batch.record import SlideRecord
from wsi_seg.errors import BatchError, RunStopped, WsiSegError
from wsi_seg.output.durable import json_bytes
from wsi_seg.output.store import Location, Store, store_at

STATE = ".wsi-seg-batch"
_ASKED, _LOCK, _SLIDES = f"{STATE}/batch.json", f"{STATE}/lock", f"{STATE}/slides"


@dataclass(frozen=True, slots=True)
class BatchFolder:
    """The folder of a batch."""

    path: Location

    @property
    def store(self) -> Store:
        """What lies in it."""
        return store_at(self.path)

    @property
    def exists(self) -> bool:
        """Whether a batch was begun here."""
        return self.store.has(_ASKED)

    def owner(self) -> str:
        """Host and pid of the process that works on the batch; empty where none does."""
        return self.store.holder(_LOCK)

    @contextmanager
    def held(self, stop: Event) -> Iterator[None]:
        """Be the one process that works on the batch; `stop` is set where another may go on with it.

        Raises OutputExistsError, WriteError.
        """
        hold, lost = self.store.hold(_LOCK, str(self.path)), Event()
        hold.on_loss(lost.set)
        hold.on_loss(stop.set)
        try:
            yield
        except RunStopped:
            if lost.is_set():
                hold.confirm()  # stopped because of that: then that is what to tell
            raise
        finally:
            hold.release()

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
        self.store.write(_ASKED, json_bytes(wanted))
        return False

    def _stored(self) -> dict[str, Any] | None:
        place = self.store.describe(_ASKED)
        try:
            content = json.loads(self.store.read(_ASKED))
        except FileNotFoundError:
            return None
        except WsiSegError:
            raise
        except (OSError, ValueError) as error:
            raise BatchError(f"{place} cannot be read: {error}", remedy="--overwrite begins anew") from error
        if not isinstance(content, dict):
            raise BatchError(f"{place} is no record of a batch", remedy="--overwrite begins anew")
        return content

    def keep(self, record: SlideRecord) -> None:
        """Record what became of a slide. Raises WriteError."""
        self.store.write(_key_of(record.name), json_bytes(record.to_mapping()))

    def record(self, name: str) -> SlideRecord | None:
        """What is recorded of a slide; None where nothing is, or it cannot be read."""
        return _read(self.store, _key_of(name))

    def records(self) -> list[SlideRecord]:
        """All records, by name."""
        keys = [key for key in self.store.keys(_SLIDES) if key.endswith(".json")]
        found = self.store.each(lambda key: _read(self.store, key), keys)
        return [record for record in found if record is not None]


def _key_of(name: str) -> str:
    return f"{_SLIDES}/{name}.json"


def _read(store: Store, key: str) -> SlideRecord | None:
    try:
        return SlideRecord.from_mapping(json.loads(store.read(key)))
    except WsiSegError:  # a store that does not answer has not said that there is no record
        raise
    except (OSError, ValueError, KeyError, TypeError):
        return None
