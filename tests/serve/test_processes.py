"""Real processes on loopback: signals, killed workers, slow clients, bodies that lie."""

import os
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
from served_models import Process, classifier, picture, until

PICTURE = picture(0)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return classifier(tmp_path_factory.mktemp("model") / "m.safetensors")


class Load:
    """Clients in threads, each asking one request after the other on a connection that it keeps while the server does."""

    def __init__(self, url: str, clients: int = 4):
        self.codes: list[int] = []
        self.errors: list[tuple[float, str]] = []
        self.bodies: set[tuple[str, str]] = set()
        self.running, self.longest = True, 0.0
        self.threads = [threading.Thread(target=self.ask, args=(url,)) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def ask(self, url: str) -> None:
        with httpx.Client(timeout=30) as client:
            while self.running:
                began = time.monotonic()
                try:
                    reply = client.post(f"{url}/predict", content=PICTURE)
                except httpx.ConnectError:
                    time.sleep(0.01)  # it does not listen any more: nothing was accepted
                except httpx.HTTPError as error:
                    self.errors.append((time.monotonic(), repr(error)))
                else:
                    self.codes.append(reply.status_code)
                    self.longest = max(self.longest, time.monotonic() - began)
                    if reply.status_code == 200:
                        self.bodies.add((reply.headers["x-model-version"], reply.text))

    def end(self) -> None:
        self.running = False
        for thread in self.threads:
            thread.join()


def cut_while_sending(client: socket.socket, seconds: float) -> bool:
    """True if the server cuts a client that sends a byte now and then."""
    began = time.monotonic()
    try:
        while time.monotonic() < began + seconds:
            client.sendall(b"x")
            time.sleep(0.1)
    except OSError:
        return True
    return False


def test_the_life_of_a_process(file, tmp_path):
    """Start, answer, slow and idle and lying clients, an endless head, drain with exit code 0."""
    with Process(file, "--slow-after", "0.5", "--idle", "1", "--drain", "10", "--connections", "50") as server:
        host, port = server.url.removeprefix("http://").split(":")
        assert httpx.post(f"{server.url}/predict", content=PICTURE).status_code == 200

        def say(words: bytes) -> bytes:
            with socket.create_connection((host, int(port)), timeout=10) as client:
                client.sendall(words)
                answer = b""
                while part := client.recv(4096):
                    answer += part
                return answer

        head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        assert say(head) == b""  # headers that never end: cut
        assert say(head + b"Content-Length: 100\r\n\r\nabc").startswith(b"HTTP/1.1 408")
        assert say(head + b"Content-Length: 99999999999\r\n\r\nabc").startswith(b"HTTP/1.1 413")
        assert say(head + b"A: " + b"x" * 70000).startswith(b"HTTP/1.1 431")
        assert say(head + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc").startswith(b"HTTP/1.1 400")
        assert say(head + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").startswith(b"HTTP/1.1 422")
        assert say(b"GET /v2/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").startswith(
            b"HTTP/1.1 200"
        )  # idle: closed
        assert say(b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(head.replace(b"predict", b"none") + b"Content-Length: 100\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 404")
            assert cut_while_sending(client, 5.0)
        crowd = [socket.create_connection((host, int(port))) for _ in range(50)]
        assert say(b"").startswith(b"HTTP/1.1 503")
        for client in crowd:
            client.close()
        load = Load(server.url)
        until(lambda: len(load.codes) > 20)
        code, said = server.end(signal.SIGTERM)
        load.end()
        assert code == 0, said
        assert load.errors == []
        assert set(load.codes) <= {200, 503}


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_a_signal_drains_all(file):
    with Process(file, "--workers", "2", "--max-wait-ms", "0") as server:
        load = Load(server.url)
        until(lambda: len(load.codes) > 20)
        first = server.workers()
        assert len(first) == 2
        os.kill(first[0], signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: len(server.workers()) == 2 and first[0] not in server.workers(), 60)
        until(lambda: httpx.get(f"{server.url}/v2/health/ready").status_code == 200)
        count = len(load.codes)
        until(lambda: len(load.codes) > count + 50)
        metrics = httpx.get(f"{server.url}/metrics").text
        assert 'route="/predict"' in metrics
        code, said = server.end(signal.SIGTERM)
        load.end()
        assert code == 0, said
        assert "is replaced" in said
        assert len(load.errors) <= 4, load.errors  # what the killed worker had in work
        assert all(at - killed < 2 for at, _ in load.errors)


@pytest.mark.slow
def test_a_worker_that_is_asked_to_end_is_replaced_and_nothing_is_lost(file):
    with Process(file, "--workers", "2") as server:
        load = Load(server.url)
        until(lambda: len(load.codes) > 20)
        first = server.workers()
        os.kill(first[0], signal.SIGTERM)
        until(lambda: len(server.workers()) == 2 and first[0] not in server.workers(), 60)
        count = len(load.codes)
        until(lambda: len(load.codes) > count + 50)
        load.end()
        assert load.errors == []
        assert set(load.codes) <= {200, 503}
        assert load.longest < 1.5, load.longest  # others go on accepting: nobody has to knock again
        assert server.end(signal.SIGTERM)[0] == 0


@pytest.mark.slow
def test_a_signal_reloads_every_worker(file, tmp_path):
    served = tmp_path / "m.safetensors"
    served.write_bytes(file.read_bytes())
    with Process(served, "--workers", "2") as server:
        load = Load(server.url)
        until(lambda: len(load.codes) > 20)
        assert {version for version, _ in load.bodies} == {"1"}
        classifier(tmp_path / "other.safetensors", 1).replace(served)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: 'convnext_reloads_total{model="m"} 2.0' in httpx.get(f"{server.url}/metrics").text, 30)
        load.bodies.clear()
        count = len(load.codes)
        until(lambda: len(load.codes) > count + 50)
        load.end()
        assert (load.errors, set(load.codes)) == ([], {200})
        assert {version for version, _ in load.bodies} == {"2"}
        code, said = server.end(signal.SIGTERM)
        assert code == 0, said
        assert said.count("m was loaded again (version 2)") == 2


@pytest.mark.slow
def test_reloads_under_load_lose_nothing_and_each_answer_is_of_one_model(file, tmp_path):
    served = tmp_path / "m.safetensors"
    contents = [classifier(tmp_path / f"{i}.safetensors", i).read_bytes() for i in range(2)]

    def put(content: bytes) -> None:
        aside = tmp_path / "aside"
        aside.write_bytes(content)
        aside.replace(served)

    put(contents[0])
    with Process(served, "--admin") as server:
        load = Load(server.url)
        for number in range(1, 21):
            put(contents[number % 2])
            assert httpx.post(f"{server.url}/admin/reload", timeout=60).json() == {"versions": {"m": number + 1}}
        put(contents[0][:-50])
        assert httpx.post(f"{server.url}/admin/reload", timeout=60).status_code == 409
        server.process.send_signal(signal.SIGHUP)
        count = len(load.codes)
        until(lambda: len(load.codes) > count + 20)
        load.end()
        assert (load.errors, set(load.codes)) == ([], {200})
        answers = {text for _, text in load.bodies}
        assert len(answers) == 2
        by_parity = {(int(version) % 2, text) for version, text in load.bodies}
        assert len(by_parity) == 2
        code, said = server.end(signal.SIGTERM)
        assert code == 0
        assert "m stays as it was" in said


def test_a_mistake_is_told_before_anything_is_served(file, tmp_path, capsys):
    from convnext.cli.main import run

    taken = socket.create_server(("127.0.0.1", 0))
    for words, sentence in {
        (str(file), "--port", str(taken.getsockname()[1])): "Cannot listen at 127.0.0.1",
        (str(file), str(file)): "Two models would be called m",
        (f"a/b={file}",): "cannot be the name of a model",
        ("nothing.safetensors",): "nothing.safetensors",
        (str(file), "--mode", "whole", "--port", "0"): "--mode is for segmenters",
        (str(file), "--token-file", str(tmp_path / "none")): "The token cannot be read",
        (str(file), "--queue", "0"): "--queue is 0",
    }.items():
        assert run(["serve", *words]) == 2
        assert sentence in capsys.readouterr().err
    taken.close()
