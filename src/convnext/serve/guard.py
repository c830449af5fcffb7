"""Checks before every route: who may ask, the headers of every answer, and the count of requests in work."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from convnext.serve.answers import error
from convnext.serve.body import Refused
from convnext.serve.service import Service

OPEN = ("/", "/v2/health/live", "/v2/health/ready", "/openapi.json")
"""Paths that need no token: they show nothing that is not in the program."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class Guard:
    """The outermost application.

    A page of another site can make a browser send requests here, by name or by a name that it has pointed here: requests
    that a browser marks as another site's are refused, and on loopback names that are not this machine's.
    """

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        code, service = 500, self.service

        async def sending(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if service.draining:
                    headers["Connection"] = "close"
            await send(message)

        service.active += 1
        try:
            try:
                self.check(scope)
            except Refused as refused:
                await error(refused)(scope, receive, sending)
            else:
                await self.app(scope, receive, sending)
        finally:
            service.active -= 1
            service.metrics.requests.labels(scope.get("convnext.route", "other"), str(code)).inc()

    def check(self, scope: Scope) -> None:
        """Raises Refused for a foreign name (421), another site's page (403), or without the token (401)."""
        headers: Mapping[str, str] = Headers(scope=scope)
        options = self.service.options
        host = headers.get("host", "")
        if options.loopback and host_name(host) not in LOOPBACK_NAMES:
            raise Refused(421, "This server answers to the names of this machine only.")
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc != host
        if foreign or (headers.get("sec-fetch-site") in ("cross-site", "same-site") and scope["method"] != "GET"):
            raise Refused(403, "Requests from pages of other sites are refused.")
        if options.token and scope["path"] not in OPEN:
            given = headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {options.token}".encode()):
                raise Refused(
                    401, "This server needs a token: Authorization: Bearer TOKEN.", {"WWW-Authenticate": "Bearer"}
                )


def host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
