"""The last moments of a server: what comes too late is told so, or not accepted at all; nothing is reset."""

import contextlib
import http.client
import socket
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from served_models import classifier, service_of

from convnext.serve import lifecycle, listening


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return classifier(tmp_path_factory.mktemp("model") / "m.safetensors")


class Draining:
    """A server in a thread; `last` is called in its loop, once it has accepted its last connection."""

    def __init__(self, file: Path, monkeypatch: pytest.MonkeyPatch, last):
        waiting = listening.waiting

        def hooked(listening: socket.socket) -> list[socket.socket]:
            found = waiting(listening)
            last()
            return found

        monkeypatch.setattr(lifecycle, "waiting", hooked)
        monkeypatch.setattr(lifecycle.Server, "capture_signals", lambda server: contextlib.nullcontext())
        self.bound, started = listening.bind("127.0.0.1", 0), threading.Event()
        self.server = lifecycle.server_of(service_of({"m": file}), started.set)
        self.thread = threading.Thread(target=self.server.run, args=([self.bound],))
        self.address = urlsplit(listening.url_of(self.bound)).netloc.split(":")
        self.thread.start()
        assert started.wait(30)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.address[0], int(self.address[1])), timeout=5)

    def end(self) -> None:
        self.server.drain()
        self.thread.join(30)
        assert not self.thread.is_alive()


ALIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can refuse who knocks and keep who waits")
def test_who_comes_after_the_last_connection_is_refused_and_never_reset(file, monkeypatch):
    ends, threads = [], []

    def come() -> None:
        try:
            with draining.connect() as client:
                client.sendall(ALIVE)
                ends.append(client.recv(100))
        except OSError as error:
            ends.append(type(error))

    def last() -> None:
        threads.append(threading.Thread(target=come))
        threads[0].start()
        time.sleep(0.2)  # the kernel would have made the connection by now

    draining = Draining(file, monkeypatch, last)
    draining.end()
    threads[0].join()
    assert ends == [ConnectionRefusedError]


def test_a_request_that_meets_the_end_of_its_kept_connection_reads_a_clean_end(file, monkeypatch):
    draining = Draining(file, monkeypatch, lambda: client.sendall(ALIVE))
    with draining.connect() as client:
        client.sendall(ALIVE)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert answer.status == 200
        answer.read()
        draining.end()
        assert client.recv(100) == b""
