"""Where the workers are: processes of this machine, a scheduler that runs already, or jobs of a queueing system.

Owns addresses, encryption and the settings of Dask that a run depends on. Sockets listen on loopback unless workers are
elsewhere, and then only encrypted: whoever reaches a Dask scheduler can run code on it (CVE-2021-42343).
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wsi_seg.engine.cluster.interrupts import children_ignore_interrupts
from wsi_seg.engine.options import Scheduler
from wsi_seg.errors import ClusterError, UsageError

LOOPBACK = "127.0.0.1"
PATIENCE = {"distributed.comm.timeouts.tcp": "120s"}
"""How long a connection may be without an answer: a network that is cut for a minute is no reason to give it up."""
SETTINGS = {
    "distributed.scheduler.allowed-failures": 3,
    "distributed.scheduler.worker-ttl": "60s",
    # A worker holds no task results worth spilling; a plan keeps below these, or the process is ended.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.comm.retry.count": 3,
    "distributed.comm.timeouts.connect": "10s",
    **PATIENCE,
    "distributed.admin.low-level-log-length": 0,
}
"""Dask's settings in our own clusters; a scheduler that runs already has its own."""
_LOUD = ("distributed", "distributed.client", "tornado.application", "asyncio")
"""Loggers that report a lost connection with a traceback."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A client and what is known of the workers behind it."""

    client: Any
    """A `distributed.Client`."""
    expected_threads: int = 0
    """Threads that may still come; 0: what is there is all."""
    look: Callable[[bool], None] = lambda _anybody_there: None
    """Called every few seconds: is any worker there? Raises ClusterError where nobody who is expected will come."""

    @property
    def dashboard(self) -> str:
        """Address of Dask's pages, which bokeh draws; empty where there are none."""
        link: str = self.client.dashboard_link or ""
        return link if find_spec("bokeh") else ""


@dataclass(frozen=True, slots=True)
class LocalWorkers:
    """Worker processes of this machine."""

    processes: int
    threads: int
    """Per process."""
    memory_bytes: int
    """Of all processes together."""
    devices: tuple[str, ...] = ()
    """A GPU for each process, as CUDA_VISIBLE_DEVICES names it; empty: all see what this process sees."""


@contextmanager
def connected(where: LocalWorkers | Scheduler | Path) -> Iterator[Connection]:
    """A connection to workers: here, behind a scheduler, or in jobs as a YAML file says. Raises as they do."""
    with _quiet(), _entered(where) as connection:
        yield connection


def _entered(where: LocalWorkers | Scheduler | Path) -> AbstractContextManager[Connection]:
    if isinstance(where, LocalWorkers):
        return local_workers(where)
    if isinstance(where, Scheduler):
        return connect(where)
    from wsi_seg.engine.cluster.queueing import queued_workers

    return queued_workers(where)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own account of lost connections, with tracebacks, out of this process' output: errors of ours say it.

    Workers and schedulers log as before, in their own processes.
    """
    import distributed  # noqa: F401 - sets up the loggers

    levels = {name: logging.getLogger(name).level for name in _LOUD}
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def local_workers(wanted: LocalWorkers) -> Iterator[Connection]:
    """Start worker processes on this machine, on loopback only."""
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster

    scheduler = {"host": LOOPBACK, "port": 0, "dashboard": True, "dashboard_address": f"{LOOPBACK}:0"}
    common = {
        "host": LOOPBACK,
        "nthreads": wanted.threads,
        "memory_limit": wanted.memory_bytes // wanted.processes,
        "dashboard": False,
        "silence_logs": 40,
        "preload": ["wsi_seg.engine.cluster.preload"],
    }
    each: list[dict[str, str]] = [{"CUDA_VISIBLE_DEVICES": device} for device in wanted.devices]
    each = each or [{} for _ in range(wanted.processes)]
    workers = {n: {"cls": Nanny, "options": {**common, "env": env}} for n, env in enumerate(each)}
    with ExitStack() as held:
        held.enter_context(dask.config.set(SETTINGS))
        with children_ignore_interrupts():
            cluster = SpecCluster(workers=workers, scheduler={"cls": Scheduler, "options": scheduler}, silence_logs=40)
            held.enter_context(cluster)
        client = held.enter_context(Client(cluster, set_as_default=False))
        yield Connection(client)


@contextmanager
def connect(scheduler: Scheduler) -> Iterator[Connection]:
    """Join a scheduler that runs already.

    Raises UsageError where it is not encrypted and not on this machine, ClusterError where none answers or it has no
    workers for a minute.
    """
    import dask
    from distributed import Client

    _refuse_open(scheduler)
    security = _security(scheduler)
    with dask.config.set(PATIENCE):
        try:
            client = Client(scheduler.address, timeout=10, security=security, set_as_default=False)
        except (OSError, TimeoutError, ValueError, TypeError, RuntimeError) as error:
            raise ClusterError(
                f"no Dask scheduler at {scheduler.address}: {error}",
                rule="it answers within 10 s, with a certificate of the same authority where it is encrypted",
                remedy="start one with `dask scheduler`; compare --tls-ca, --tls-cert and --tls-key",
            ) from error
        with client:
            try:
                client.wait_for_workers(1, timeout=60)
            except TimeoutError as error:
                raise ClusterError(
                    f"the scheduler at {scheduler.address} has no workers",
                    rule="at least one within a minute",
                    remedy=f"start some with `dask worker {scheduler.address}`",
                ) from error
            yield Connection(client)


def is_loopback(address: str) -> bool:
    """Whether a scheduler's address stays on this machine.

    >>> is_loopback("tcp://127.0.0.1:8786"), is_loopback("tcp://[::1]:1"), is_loopback("tcp://localhost:8786")
    (True, True, True)
    >>> is_loopback("tcp://10.0.0.7:8786"), is_loopback("tcp://node3:8786"), is_loopback("inproc://1/2")
    (False, False, True)
    """
    parts = urlsplit(address)
    if parts.scheme == "inproc":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname == "localhost"


def _refuse_open(scheduler: Scheduler) -> None:
    scheme = urlsplit(scheduler.address).scheme
    if scheme not in ("tcp", "tls", "inproc"):
        raise UsageError(f"--scheduler {scheduler.address}", rule="tls://HOST:PORT, or tcp://HOST:PORT on this machine")
    if scheme != "tls" and not is_loopback(scheduler.address) and not scheduler.plain_tcp:
        raise UsageError(
            f"--scheduler {scheduler.address} is not encrypted",
            rule="whoever reaches an open scheduler runs code on it, so off this machine it is tls://",
            remedy="start it with certificates (see the guide on clusters), or accept the risk with --plain-tcp",
        )


def _security(scheduler: Scheduler) -> Any:
    """Certificates as given, else as Dask's own configuration says; None where plain TCP is spoken."""
    from distributed import Security

    if urlsplit(scheduler.address).scheme != "tls":
        return None
    given = {
        "tls_ca_file": scheduler.tls_ca,
        "tls_client_cert": scheduler.tls_cert,
        "tls_client_key": scheduler.tls_key,
    }
    for name, path in given.items():
        if path is not None and not Path(path).is_file():
            raise UsageError(f"{name.replace('_', '-')} {path}: no such file", rule="PEM files")
    return Security(require_encryption=True, **{name: str(path) for name, path in given.items() if path is not None})
