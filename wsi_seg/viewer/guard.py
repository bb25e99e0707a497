"""Who may ask, and what every answer carries: host names, the token, security headers.

Owns these rules as one ASGI layer around the application; knows nothing of what is served.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "::1")
TOKEN_BYTES = 24
_COOKIE = "wsi_seg_token"
_OSD_STYLE = "'sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE='"
"""Of the one rule for the outline on touch screens that OpenSeadragon 6.1.1 puts into a page."""
_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'self'; style-src 'self' {_OSD_STYLE}; "
        "img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """Lets requests through that name a known host and, where there is one, know the token.

    A page elsewhere can make a browser ask a server on this machine, under a name of its own (DNS rebinding): so the
    host is checked on the loopback interface too. A token in the address is taken out of it at once and kept in a
    cookie that scripts cannot read.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], token: str = "") -> None:
        """`hosts`: names that the server answers to, without port; empty: to any (a token is needed then)."""
        self._app, self._hosts, self._token = app, frozenset(hosts), token
        # A name of its own: browsers send cookies of one port to all ports of a host.
        self._cookie = f"{_COOKIE}_{secrets.token_hex(4)}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
                del headers["server"]
            await send(message)

        await (self._refusal(scope) or self._app)(scope, receive, sending)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """The answer to who may not ask; None where the request goes through."""
        headers = Headers(scope=scope)
        if self._hosts and _without_port(headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("this server is not known by that name", 421)
        if not self._token:
            return None
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        if self._is_token(query.pop("token", "")):
            # Relative, so that a proxy may put the server below a folder.
            place = "./" + scope["path"].rpartition("/")[2]
            answer = RedirectResponse(f"{place}?{urlencode(query)}" if query else place, 303)
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
            return answer
        given = cookie_parser(headers.get("cookie", "")).get(self._cookie, "")
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self._is_token(given) or self._is_token(bearer):
            return None
        return PlainTextResponse("open the address that `wsi-seg view` printed: it carries a token", 403)

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())


def _without_port(host: str) -> str:
    """`127.0.0.1` of `127.0.0.1:8765`, `::1` of `[::1]:8765`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
