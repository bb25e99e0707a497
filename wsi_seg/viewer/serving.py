"""Runs the server: binds a port, says where, ends on a signal.

Owns uvicorn and the choice of interface, token and host names.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import uvicorn

from wsi_seg.errors import UsageError
from wsi_seg.viewer.gallery import Gallery
from wsi_seg.viewer.guard import LOOPBACK, TOKEN_BYTES, Guard
from wsi_seg.viewer.server import make_app

DEFAULT_PORT = 8765
_TRIED_PORTS = 20
_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: str = "127.0.0.1"
    port: int | None = None
    """None: `DEFAULT_PORT`, or the next that is free."""
    token: bool = False
    """Ask for a token on the loopback interface too, where other users of this machine could look."""


def serve(gallery: Gallery, address: Address, tell: Callable[[str], None]) -> None:
    """Serve until a signal; `tell` hears the address to open. Raises UsageError where the port is not to be had."""
    listener = bound(address)
    app, where = guarded_app(gallery, address, listener.getsockname()[1])
    config = uvicorn.Config(app, log_level="warning", server_header=False, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    tell(where)
    with listener, suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def guarded_app(gallery: Gallery, address: Address, port: int) -> tuple[Guard, str]:
    """The application behind its guard, and the address to open.

    Away from the loopback interface there is always a token: anyone on the network could ask.
    """
    local = address.host in LOOPBACK
    token = "" if local and not address.token else secrets.token_urlsafe(TOKEN_BYTES)
    hosts = LOOPBACK if local else ()
    shown_host = f"[{address.host}]" if ":" in address.host else address.host
    if address.host in ("0.0.0.0", "::", ""):
        shown_host = socket.gethostname()
    where = f"http://{shown_host}:{port}/" + (f"?token={token}" if token else "")
    return Guard(make_app(gallery), hosts, token), where


def bound(address: Address) -> socket.socket:
    """A socket on that address. Raises UsageError where none is to be had."""
    ports = [address.port] if address.port is not None else range(DEFAULT_PORT, DEFAULT_PORT + _TRIED_PORTS)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    error: OSError | None = None
    for port in ports:
        # The protocol by name: asyncio sends small packets at once (TCP_NODELAY) only where it reads that it is TCP.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address.host, port))
            listener.listen(_BACKLOG)  # so that who is told the address at once does not come too early
        except (OSError, OverflowError) as refused:
            listener.close()
            error = refused if isinstance(refused, OSError) else OSError(str(refused))
        else:
            return listener
    raise UsageError(
        f"--host {address.host} --port {ports[0]}: {error and (error.strerror or error)}",
        rule="an address of this machine and a port that is free, 1 … 65535",
        remedy="another --port",
    )
