"""Which requests are served: those that name this machine, come from our own page, and have the token.

    any request       Host is a name of this machine (a page of another site may point its name at 127.0.0.1)
                      Origin, where there is one, is http:// and that Host
    /api/...          Authorization: Bearer <token>; no cookie, which browsers would send for other ports, too

The answers carry headers that forbid scripts from elsewhere and inline, frames, and caching.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

HOSTS = ("127.0.0.1", "localhost", "[::1]")
BODY_MAX = 16_384
_HEADERS = [
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
                                 b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"), (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"), (b"cache-control", b"no-store"),
]

App = Callable[[dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


def refusal(method: str, path: str, headers: dict[str, str], token: str) -> tuple[int, str] | None:
    """``(status, why)`` of a request that is not served; None for one that is.  Pure."""
    host = headers.get("host", "")
    name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
    if name.lower() not in HOSTS or port and not port.isdigit():
        return 403, "this dashboard answers only to 127.0.0.1 and localhost: open the link that `zray dashboard` prints"
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        return 403, "pages of other origins may not use this dashboard"
    if headers.get("sec-fetch-site", "none") in ("cross-site", "same-site") and path.startswith("/api/"):
        return 403, "pages of other origins may not use this dashboard"
    if method not in ("GET", "HEAD", "POST"):
        return 405, "GET, HEAD and POST are served"
    if not path.startswith("/api/"):
        return None
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        return 401, "the token is missing, or of another session: open the link that `zray dashboard` prints"
    if method == "POST" and headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return 415, "actions are JSON"
    length = headers.get("content-length", "0")
    if method == "POST" and not (length.isdigit() and int(length) <= BODY_MAX) or "transfer-encoding" in headers:
        return 413, f"a request has at most {BODY_MAX} bytes and says how many"
    return None


class Guard:
    """ASGI middleware that applies :func:`refusal` and adds the headers."""

    def __init__(self, app: App, token: str):
        self._app = app
        self._token = token

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket: there are none
            await send({"type": "websocket.close", "code": 1008})
            return

        async def with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        refused = refusal(scope["method"], scope["path"], headers, self._token)
        if refused is None:
            await self._app(scope, receive, with_headers)
            return
        status, why = refused
        body = json.dumps({"error": why}).encode()
        await with_headers({"type": "http.response.start", "status": status, "headers": [
            (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]})
        await with_headers({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
