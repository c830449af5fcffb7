"""One connection: cut where its headers do not come, are too long, or its answer is not read."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from convnext.serve.options import Limits

MAX_HEAD = 64 * 1024  # bytes of a request's line and headers
LINGER = 1.0  # seconds in which a client that is still sending may read why its request is refused


def connection_class(limits: Limits) -> type[asyncio.Protocol]:
    """uvicorn's protocol with these limits."""
    return type("Connection", (LimitedConnection,), {"limits": limits})


class LimitedConnection(HttpToolsProtocol):
    """uvicorn's protocol, whose only time limit is that of idle connections, with those that it lacks."""

    limits: Limits
    timer: asyncio.TimerHandle | None = None
    head = 0
    in_head, in_body, lingering = True, False, False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(cast(Any, Lingering(transport, self)))
        if len(self.connections) > self.limits.connections:
            self.refuse(b"503 Service Unavailable", b"Retry-After: 1\r\n")
        else:
            self.arm()

    def data_received(self, data: bytes) -> None:
        if self.lingering:
            return
        super().data_received(data)
        self.head += len(data) * self.in_head
        if self.in_head and self.head > MAX_HEAD and not self.transport.is_closing():
            self.refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.in_head, self.head = True, 0
        self.arm()

    def on_headers_complete(self) -> None:
        self.in_head, self.in_body = False, True
        self.disarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.in_body = False
        self.disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.in_body and not self.lingering:  # refused before its body came, which nobody reads or times any more
            self.arm()

    def linger(self) -> None:
        """Send the end of the answer, and throw away for a moment what still comes: a reset would take the answer back."""
        self.lingering = True
        self.flow.resume_reading()
        self.disarm()
        self.timer = self.loop.call_later(LINGER, self.transport.abort)

    def shutdown(self) -> None:
        """Close at the end of the server; a request that may be on the way is refused, or meets a clean end."""
        if self.cycle is None:
            return
        if self.cycle.response_complete and not self.transport.is_closing():
            self.linger()
            self.transport.write_eof()
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.arm()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        self.disarm()
        super().connection_lost(exc)

    def arm(self) -> None:
        """Cut the connection unless what is waited for happens in time."""
        self.disarm()
        self.timer = self.loop.call_later(self.limits.slow_after, self.transport.abort)

    def disarm(self) -> None:
        """It has happened."""
        if self.timer:
            self.timer.cancel()
            self.timer = None

    def refuse(self, status: bytes, headers: bytes = b"") -> None:
        """Answer without asking the application, and close."""
        self.transport.write(
            b"HTTP/1.1 " + status + b"\r\n" + headers + b"Content-Length: 0\r\nConnection: close\r\n\r\n"
        )
        self.transport.close()


class Lingering:
    """A transport that is not closed at once while a request is being received."""

    def __init__(self, transport: Any, connection: LimitedConnection):
        self._transport, self._connection = transport, connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """True once nothing more can be answered."""
        return self._connection.lingering or self._transport.is_closing()

    def close(self) -> None:
        """Close, or begin to."""
        if self._connection.in_body and not self.is_closing():
            self._connection.linger()
            self._transport.write_eof()
        elif not self._connection.lingering:
            self._transport.close()
