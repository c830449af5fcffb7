"""Requests of strangers to a real process: damaged images, bodies at the limits, lies and bombs, all that the API allows."""

import gzip
import random
import socket
import struct
import subprocess
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from served_models import Process, classifier, picture

from damaged import mutated

PICTURE = picture(0)
LIMIT = 1 << 20
GROWTH = 10_000_000  # bytes of memory that no request may take beyond what is in use
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return classifier(tmp_path_factory.mktemp("model") / "m.safetensors")


@pytest.fixture(scope="module")
def server(file):
    with Process(file, "--max-body", str(LIMIT), "--slow-after", "1") as server:
        for i in range(100):  # threads and pools are there
            httpx.post(f"{server.url}/predict", content=picture(i))
        yield server


def say(server: Process, *parts: bytes, cut: bool = False) -> bytes:
    """Send bytes as they are, and the end of all if `cut`; what comes back until the server closes the connection."""
    host, port = server.url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=20) as client:
        try:
            for part in parts:
                client.sendall(part)
            if cut:
                client.shutdown(socket.SHUT_WR)
            while part := client.recv(1 << 16):
                answer += part
        except (BrokenPipeError, ConnectionResetError):
            pass  # cut before all was sent
    return answer


def head(*lines: str) -> bytes:
    return "\r\n".join(["POST /predict HTTP/1.1", "Host: 127.0.0.1", *lines, "\r\n"]).encode()


@pytest.mark.slow
def test_no_damaged_image_fails_the_server(server):
    chance, codes = random.Random(0), []
    with httpx.Client() as client:
        for _ in range(1000):
            codes.append(client.post(f"{server.url}/predict", content=mutated(chance)).status_code)
        assert set(codes) == {200, 422}
        assert codes.count(422) > 300
        assert client.post(f"{server.url}/predict", content=PICTURE).status_code == 200
        assert 'code="500"' not in client.get(f"{server.url}/metrics").text


def form(parts: list[bytes]) -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


def part(content: bytes, name: str = "x.png") -> bytes:
    return f'Content-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'.encode() + content


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of any claimed size and with any chunks."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    found = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        found += struct.pack(">I", len(content)) + kind + content
        found += struct.pack(">I", zlib.crc32(kind + content))
    return found


def bombs() -> dict[str, tuple[bytes, dict[str, str], set[int]]]:
    """Body, headers and the codes that may answer it; each body has at most `LIMIT` bytes."""
    zeros = bytes(500 << 20)
    unfolded = zlib.compress(zeros, 9)  # 500 MiB in half a MiB
    nested = form([b"Content-Type: multipart/mixed; boundary=c\r\n\r\n" + b"--c\r\n" * 100_000])
    return {
        "gzip": (gzip.compress(zeros[: 100 << 20]), {"Content-Encoding": "gzip"}, {415}),
        "deflate": (unfolded, {"Content-Encoding": "deflate"}, {415}),
        "two encodings": (PICTURE, {"Content-Encoding": "gzip, gzip"}, {415}),
        "a gzip file": (gzip.compress(zeros[: 100 << 20]), {}, {422}),
        "pixels": (png(1 << 30, 1 << 30, (b"IDAT", unfolded)), {}, {422}),
        "more data than pixels": (png(8, 8, (b"IDAT", unfolded)), {}, {200, 422}),
        "text": (png(8, 8, (b"zTXt", b"a\0\0" + unfolded), (b"IDAT", zlib.compress(bytes(200)))), {}, {200, 422}),
        "a colour profile": (png(8, 8, (b"iCCP", b"a\0\0" + unfolded), (b"IDAT", zlib.compress(bytes(200)))), {}, {200, 422}),
        "empty parts": (form([b"\r\n"] * 100_000), FORM, {413}),
        "parts in a part": (nested, FORM, {422}),
        "a header of a part": (form([b"A: " + b"x" * (LIMIT - 100)]), FORM, {400, 422}),
        "headers of a part": (form([b"A: x\r\n" * 150_000 + b"\r\n"]), FORM, {400, 422}),
        "no end of a boundary": (b"--b\r\n\r\n" + b"\r\n--" * 250_000, FORM, {400}),
        "1,000 files": (form([part(picture(0, 8, 8))] * 1000), FORM, {413}),
    }  # fmt: skip


@pytest.mark.slow
def test_bombs_are_refused_and_take_no_memory(server):
    before, seen = server.rss(), {}
    for name, (body, headers, codes) in bombs().items():
        assert len(body) <= LIMIT, name
        server.forget_peak()
        reply = httpx.post(f"{server.url}/predict", content=body, headers=headers, timeout=30)
        seen[name] = (reply.status_code, server.rss("VmHWM") - before)
        assert reply.status_code in codes, (name, reply.status_code, reply.text)
    assert max(peak for _, peak in seen.values()) < GROWTH, seen
    assert httpx.post(f"{server.url}/predict", content=PICTURE).status_code == 200


@pytest.mark.slow
def test_bodies_at_the_limit_and_bodies_that_lie(server):
    before = server.rss()
    server.forget_peak()
    for size, code in {LIMIT - 1: b"200", LIMIT: b"200", LIMIT + 1: b"413"}.items():
        body = PICTURE + bytes(size - len(PICTURE))
        told = head(f"Content-Length: {size}", "Connection: close") + body
        chunks = [
            f"{len(body[at : at + 9999]):x}\r\n".encode() + body[at : at + 9999] + b"\r\n"
            for at in range(0, size, 9999)
        ]
        chunked = (head("Transfer-Encoding: chunked", "Connection: close"), *chunks, b"0\r\n\r\n")
        assert say(server, told)[9:12] == code
        assert say(server, *chunked)[9:12] == code

    def code(*parts: bytes, cut: bool = False) -> bytes:
        return say(server, *parts, cut=cut)[9:12]

    length = len(PICTURE)
    less = head(f"Content-Length: {length + 5}")
    assert code(less, PICTURE) == b"408"
    assert code(less, PICTURE, cut=True) == b""
    fewer = say(server, head(f"Content-Length: {length - 5}"), PICTURE)  # more: the rest is no request
    assert fewer[9:12] in (b"422", b"400")
    assert fewer.count(b"HTTP/1.1 ") == fewer.count(b"HTTP/1.1 4")
    assert code(head("Content-Length: -1"), PICTURE) == b"400"
    assert code(head("Content-Length: 99999999999999999999999"), PICTURE) in (b"400", b"413")
    assert code(head(f"Content-Length: {length}", "Content-Length: 1"), PICTURE) == b"400"
    chunked = head("Transfer-Encoding: chunked")
    assert code(chunked, b"FFFFFFFFFFFFFFFFF\r\n", PICTURE) == b"400"
    assert code(chunked, b"zz\r\n", PICTURE) == b"400"
    assert code(chunked, b"FFFFFFFF\r\n", *[bytes(1 << 16)] * 100) == b"413"  # 4 GiB in one chunk
    assert server.rss("VmHWM") - before < GROWTH
    assert httpx.post(f"{server.url}/predict", content=PICTURE).status_code == 200


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("schemathesis"), reason="needs schemathesis")
def test_what_the_description_allows_and_forbids(server, tmp_path):
    (tmp_path / "schemathesis.toml").write_text(
        "[checks.positive_data_acceptance]\n"  # a description cannot say that bytes are an image, or as many as the shape says
        "expected-statuses = ['2xx', 400, 422]\n"
        "[checks.negative_data_rejection]\nexpected-statuses = [400, 401, 403, 404, 405, 406, 413, 415, 422]\n"
        "[generation]\nallow-extra-parameters = false\n"
        "[[operations]]\ninclude-method = 'GET'\nchecks.positive_data_acceptance.expected-statuses = ['2xx']\n"
    )
    command = "run --seed 0 --max-examples 30 --checks all".split()
    command = [sys.executable, "-m", "schemathesis.cli", *command, f"{server.url}/openapi.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
