"""The life of one serving process: it listens once its models answer, reloads on SIGHUP, and drains on SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from convnext.console import clean
from convnext.errors import ConvNextError
from convnext.serve.app import create_app
from convnext.serve.connection import connection_class
from convnext.serve.listening import turn_away, waiting
from convnext.serve.options import Options
from convnext.serve.service import Service

BACKLOG = 2048
ACCEPT = 0.2  # seconds in which connections that have begun are made and accepted, to be told
LINGER = 1.0  # seconds in which open connections are told that no more requests are accepted


class Server(uvicorn.Server):
    """uvicorn with our signals: the first SIGTERM or Ctrl-C drains, another one, a second later, ends at once."""

    def __init__(
        self, config: uvicorn.Config, service: Service, started: Callable[[], None], others: Callable[[], bool]
    ):
        super().__init__(config)
        self.service, self.on_started, self.others = service, started, others
        self.asked: float | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before: dict[int, Any] = {signal.SIGTERM: self.drain, signal.SIGINT: self.drain}
        if hasattr(signal, "SIGHUP"):
            before[signal.SIGHUP] = self._reload
        handlers = {signum: signal.signal(signum, handler) for signum, handler in before.items()}
        yield
        for signum, handler in handlers.items():
            signal.signal(signum, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = [] if self.others() else sockets or []
        for each in ending:
            turn_away(each)
        await asyncio.sleep(ACCEPT)
        late = [connection for each in ending for connection in waiting(each)]
        for server in self.servers:
            server.close()
        for connection in late:
            await asyncio.get_running_loop().connect_accepted_socket(self.make_protocol, connection)
        await super().shutdown(sockets)

    def make_protocol(self) -> asyncio.Protocol:
        """As uvicorn makes one for each connection that its listening sockets accept."""
        protocol: Any = self.config.http_protocol_class
        return protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def drain(self, *_: object) -> None:
        """End once what was accepted is answered; at once if it is asked again, a second later."""
        now = time.monotonic()
        if self.asked is not None and now - self.asked > 1:
            self.should_exit = self.force_exit = True
        self.asked = self.asked or now
        self.service.draining = True

    def _reload(self, *_: object) -> None:
        threading.Thread(target=reload_all, args=(self.service,), daemon=True).start()

    async def on_tick(self, counter: int) -> bool:
        if self.asked is not None:
            since = time.monotonic() - self.asked
            idle = not self.service.active and (since > LINGER or not self.server_state.connections)
            self.should_exit |= idle or since > self.service.limits.drain
        return await super().on_tick(counter)


def reload_all(service: Service) -> None:
    """Load every model's file again; one that cannot be used leaves the model before in its place."""
    for name, served in service.models.items():
        try:
            said = f"{name} was loaded again (version {served.reload().number})"
        except ConvNextError as error:
            said = f"{name} stays as it was: {error}"
        print(f"convnext: {clean(said)}", file=sys.stderr, flush=True)


def serve(options: Options, bound: socket.socket, started: Callable[[Service], None]) -> int:
    """Serve until SIGTERM or Ctrl-C; 0 once all accepted requests are answered.

    Args:
        started: called when requests are accepted.

    Raises:
        ConvNextError: a model cannot be loaded.
    """
    service = Service(options)
    return run_service(service, bound, lambda: started(service))


def run_service(
    service: Service, bound: socket.socket, started: Callable[[], None], others: Callable[[], bool] = lambda: False
) -> int:
    """`serve` for a service that is made already.

    Args:
        others: True while other processes go on accepting connections at the same socket.
    """
    server_of(service, started, others).run([bound])
    return 0


def server_of(service: Service, started: Callable[[], None], others: Callable[[], bool] = lambda: False) -> Server:
    """The server of a service; its `run` takes the sockets to listen at."""
    limits = service.limits
    config = uvicorn.Config(
        create_app(service),
        http=connection_class(limits),
        lifespan="on",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=limits.idle,
        timeout_graceful_shutdown=2,
        backlog=BACKLOG,
    )
    return Server(config, service, started, others)
