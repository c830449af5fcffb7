"""A small HTTP load generator and the servers that it asks, for serve_load.py."""

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REFUSED, BROKEN = -1, 0  # codes of what never was answered: not accepted, and accepted but cut
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """One request: seconds of the monotonic clock when it began, how long it took, the code, and what the answer says."""

    began: float
    seconds: float
    code: int
    retry: bool = False
    version: str = ""
    body: bytes = b""


def message(content: bytes, kind: str = "image/jpeg") -> bytes:
    """A request with a body."""
    head = (
        f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


class Client:
    """A connection that is kept while the server keeps it."""

    def __init__(self, port: int):
        self.port, self.streams = port, None

    async def ask(self, request: bytes) -> Sample:
        """The answer to a request; a kept connection that the server has closed meanwhile is opened anew.

        One that it closes while the request is under way is cut, and marked by `retry`: nothing of an answer came.
        """
        if self.streams and self.streams[0].at_eof():
            self.close()
        began, sent, reused = time.monotonic(), False, self.streams is not None
        try:
            if self.streams is None:
                self.streams = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = self.streams
            writer.write(request)
            sent = True
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            closed = isinstance(error, asyncio.IncompleteReadError) and not error.partial and reused
            return Sample(began, time.monotonic() - began, BROKEN if sent else REFUSED, retry=closed)
        if b"connection: close" in head.lower():
            self.close()
        version = re.search(rb"(?i)x-model-version: (\d+)", head)
        told = version[1].decode() if version else ""
        return Sample(began, time.monotonic() - began, int(head[9:12]), b"retry-after" in head.lower(), told, body)

    def close(self) -> None:
        if self.streams:
            self.streams[1].close()
            self.streams = None


async def closed(
    port: int, requests: Sequence[bytes], clients: int, seconds: float, stop: asyncio.Event | None = None
) -> list[Sample]:
    """So many clients, each asking one request after the other, for some seconds or until `stop`."""
    found: list[Sample] = []
    until = time.monotonic() + seconds

    async def work(k: int) -> None:
        client = Client(port)
        while time.monotonic() < until and not (stop and stop.is_set()):
            found.append(await client.ask(requests[(k + len(found)) % len(requests)]))
            if found[-1].code == REFUSED:
                await asyncio.sleep(0.02)
        client.close()

    await asyncio.gather(*(work(k) for k in range(clients)))
    return found


async def opened(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> list[Sample]:
    """Requests at a rate, whether or not those before are answered."""
    found: list[Sample] = []
    free: list[Client] = []
    tasks: set[asyncio.Task] = set()

    async def work(request: bytes) -> None:
        client = free.pop() if free else Client(port)
        found.append(await client.ask(request))
        free.append(client)

    began, sent = time.monotonic(), 0
    while (now := time.monotonic() - began) < seconds:
        while sent < now * rate:
            task = asyncio.create_task(work(requests[sent % len(requests)]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)
    for client in free:
        client.close()
    return found


async def slow(port: int, clients: int, stop: asyncio.Event) -> list[int]:
    """Clients that send a byte a second and come again when they are cut; how often that was."""
    cuts = [0]

    async def work(k: int) -> None:
        await asyncio.sleep(k / clients)
        while not stop.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(message(bytes(9999), "application/json")[:-9999])
                while not stop.is_set() and not reader.at_eof():
                    writer.write(b"x")
                    await writer.drain()
                    try:
                        await asyncio.wait_for(reader.read(4096), 1.0)
                    except TimeoutError:
                        continue
                writer.close()
            except OSError:
                pass
            cuts[0] += 1

    await asyncio.gather(*(work(k) for k in range(clients)))
    return cuts


def latency(samples: Iterable[Sample]) -> dict[str, float]:
    """Count, milliseconds of the 50th and 99th percentile."""
    times = [1000 * each.seconds for each in samples]
    if not times:
        return {"requests": 0}
    p50, p99 = np.percentile(times, (50, 99))
    return {"requests": len(times), "p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}


def codes(samples: Iterable[Sample]) -> dict[str, int]:
    """How many requests had which code; `cut`: accepted and not answered, `refused`: no connection."""
    names = {BROKEN: "cut", REFUSED: "refused"}
    counted: dict[str, int] = {}
    for each in samples:
        key = names.get(each.code, str(each.code))
        counted[key] = counted.get(key, 0) + 1
    return dict(sorted(counted.items()))


class Server:
    """A server in a process of its own, at a free port; `kind`: convnext, litserve or fastapi."""

    def __init__(self, kind: str, model: str, *options: str):
        here = Path(__file__).parent
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        if kind == "convnext":
            command = ["-m", "convnext", "serve", f"m={model}", "--port", str(self.port), "--device", "cpu", *options]
        else:
            command = [str(here / f"serve_{kind}.py"), model, str(self.port)]
        self.kind, self.log = kind, Path(model).parent / f"{kind}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log, start_new_session=True)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)  # also what outlives its parent
        self.process.wait()

    async def ready(self, request: bytes, seconds: float = 60) -> None:
        """Wait until requests are answered."""
        end = time.monotonic() + seconds
        while (found := await asyncio.wait_for(Client(self.port).ask(request), seconds)).code != 200:
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError(f"{self.kind} does not answer ({found.code}): {self.log.read_text()[-2000:]}")
            await asyncio.sleep(0.1)

    def session(self) -> list[int]:
        """Processes of its session, those included whose parent is gone."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                found.append(int(path.parent.name))
        return found

    async def metrics(self) -> dict[str, float]:
        """Numbers of `/metrics`, the labels left out."""
        text = (await Client(self.port).ask(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")).body.decode()
        return {
            name: float(value) for name, value in re.findall(r"^convnext_(\w+)\{[^}]*\} (\S+)$", text, re.MULTILINE)
        }

    def pids(self) -> list[int]:
        """The process and all below it."""
        found = [self.process.pid]
        for pid in found:
            try:
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    found += map(int, children.read_text().split())
            except OSError:
                continue
        return found

    def cpu(self, pids: Sequence[int] | None = None) -> float:
        """Seconds of processor time so far, of all its processes or of some."""
        total = 0
        for pid in self.pids() if pids is None else pids:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            total += int(fields[11]) + int(fields[12])
        return total / TICK

    def rss(self) -> float:
        """MB of memory in use."""
        total = 0
        for pid in self.pids():
            try:
                total += int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])
            except (OSError, TypeError):
                continue
        return round(total / 1000, 1)

    def workers(self, least: float = 1.0) -> list[int]:
        """Processes with a model, which compute the most, for some seconds at least; the busiest first."""
        used = sorted(((self.cpu([pid]), pid) for pid in self.pids()[1:]), reverse=True)
        return [pid for seconds, pid in used[: 2 if self.kind == "convnext" else 1] if seconds > least]
