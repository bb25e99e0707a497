"""Notices workers that give no sign of life: frozen, or on a machine that hangs or is cut off.

A scheduler notices too, after its `worker-ttl`, which is five minutes unless whoever started it said otherwise; here it
is the run that decides. It listens in a thread of its own: whoever waits for a result that lies on a frozen worker
waits as long as the worker counts as there. Owns the clock per worker, and the order to do without the silent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

SILENT_S = 45.0
"""Seconds without a heartbeat after which a worker is given up; heartbeats come every 0.5 to 2 s."""
ALL_SILENT_S = 135.0
"""The same where no worker is heard: that is more likely the network, and there is nobody to take their tasks over."""
LISTEN_S = 10.0
"""Seconds between two looks at when workers were heard last."""
RESTARTING_S = 20.0
"""Seconds that a silent worker's nanny has to end it and to start another."""


@contextmanager
def without_the_silent(client: Any) -> Iterator[None]:
    """As long as this is entered, workers that are silent for too long are restarted, or removed.

    Their tasks go to others. `client` is a `distributed.Client`.
    """
    left = threading.Event()

    def listen() -> None:
        silence = Silence()
        while not left.wait(LISTEN_S):
            with suppress(Exception):  # a scheduler that is gone or out of breath; the loop notices the former
                known = client.scheduler_info(n_workers=-1)["workers"]
                silent = silence.too_long({address: worker["last_seen"] for address, worker in known.items()})
                if silent:
                    client.restart_workers(silent, timeout=RESTARTING_S, raise_for_error=False)

    threading.Thread(target=listen, name="wsi-seg-silence", daemon=True).start()
    try:
        yield
    finally:
        left.set()


class Silence:
    """How long each worker has been silent, by this process' own clock: those of other machines may differ."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._signs: dict[str, tuple[float, float]] = {}
        self._given_up: set[str] = set()

    def too_long(self, signs: Mapping[str, float]) -> list[str]:
        """Workers to be given up; each is named once.

        `signs` is the time of each worker's last sign of life, by any clock that stands still while it is silent.
        """
        now = self._clock()
        for gone in self._signs.keys() - signs.keys():
            del self._signs[gone]
        for address, sign in signs.items():
            known, _ = self._signs.get(address, (None, now))
            if sign != known:
                self._signs[address] = sign, now
                self._given_up.discard(address)
        silent_s = {address: now - since for address, (_, since) in self._signs.items()}
        limit = SILENT_S if min(silent_s.values(), default=0.0) <= SILENT_S else ALL_SILENT_S
        silent = [address for address in signs if silent_s[address] > limit and address not in self._given_up]
        self._given_up.update(silent)
        return silent
