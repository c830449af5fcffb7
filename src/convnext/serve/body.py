"""Reads the body of a request in memory and within the limits: size, rate, number of files; no file is written.

A body that says that it is compressed is refused, so that none can unfold to more than its size.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Receive

from convnext.serve.options import Limits

MAX_NAME = 255  # characters of a file's name that are kept


class Refused(Exception):
    """A request that is not answered: HTTP code, a sentence for people, and headers."""

    def __init__(self, code: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.code, self.message, self.headers = code, message, dict(headers or {})


class Disconnected(Exception):
    """The client is gone."""


@dataclass
class Bodies:
    """Bytes of all bodies that are being received or worked on."""

    taken: int = 0


class Body:
    """The body of one request; inside the context its bytes count among all bodies."""

    def __init__(self, receive: Receive, headers: Mapping[str, str], limits: Limits, bodies: Bodies):
        self.receive, self.headers, self.limits, self.bodies = receive, headers, limits, bodies
        self.taken = 0

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        self.bodies.taken -= self.taken
        self.taken = 0

    def check_headers(self) -> None:
        """Raises Refused for what the headers already show: too large, compressed."""
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            raise Refused(415, "Send the body as it is: a Content-Encoding is not accepted.", CLOSE)
        length = self.headers.get("content-length")
        if length is not None and (not length.isdecimal() or int(length) > self.limits.max_body):
            raise self._too_large()

    def _too_large(self) -> Refused:
        return Refused(413, f"The body is larger than the limit of {self.limits.max_body:,} bytes.", CLOSE)

    async def read(self) -> bytes:
        """All bytes.

        Raises:
            Refused: too large (413), too slow (408), or all bodies together are too large (503).
            Disconnected: the client left before the end.
        """
        self.check_headers()
        began, parts, limits = time.monotonic(), [], self.limits
        while True:
            until = began + limits.slow_after + self.taken / limits.slow_rate
            try:
                message = await asyncio.wait_for(self.receive(), until - time.monotonic())
            except TimeoutError:
                raise Refused(408, f"The body came slower than {limits.slow_rate:,} bytes per second.", CLOSE) from None
            if message["type"] == "http.disconnect":
                raise Disconnected
            part = message.get("body", b"")
            self.taken += len(part)
            self.bodies.taken += len(part)
            if self.taken > limits.max_body:
                raise self._too_large()
            if self.bodies.taken > limits.max_bodies:
                raise Refused(
                    503, "Too many bytes are being received at once; try again.", {**CLOSE, "Retry-After": "1"}
                )
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)


CLOSE = {"Connection": "close"}  # the rest of the body is not read


def is_multipart(content_type: str) -> bool:
    """True for a form with files."""
    return content_type.strip().lower().startswith("multipart/form-data")


def files_of(content: bytes, content_type: str, max_files: int) -> list[tuple[str, bytes]]:
    """(name, bytes) of every file of a form, in order; fields without a file name count as files without a name.

    Raises:
        Refused: more files than `max_files` (413), or it is no form (400).
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary or len(boundary) > 200:
        raise Refused(400, "The Content-Type of a form must name its boundary.")
    files: list[tuple[str, bytes]] = []
    header: list[bytearray] = [bytearray(), bytearray()]  # the name and the value that are being read
    name, start = "", [0, 0]

    def part_begin() -> None:
        nonlocal name
        if len(files) >= max_files:
            raise Refused(413, f"The form holds more than {max_files} files.")
        name = ""
        start[:] = 0, 0
        parts.clear()

    parts: list[bytes] = []

    def header_end() -> None:
        nonlocal name
        if bytes(header[0]).lower() == b"content-disposition":
            name = file_name(parse_options_header(bytes(header[1]))[1].get(b"filename", b"").decode("utf-8", "replace"))
        header[0].clear()
        header[1].clear()

    callbacks = {
        "on_part_begin": part_begin,
        "on_header_field": lambda data, a, b: header[0].extend(data[a:b]),
        "on_header_value": lambda data, a, b: header[1].extend(data[a:b]),
        "on_header_end": header_end,
        "on_part_data": lambda data, a, b: parts.append(data[a:b]),
        "on_part_end": lambda: files.append((name or f"image {len(files) + 1}", b"".join(parts))),
    }
    parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
    try:
        parser.write(content)
        parser.finalize()
    except FormParserError:
        raise Refused(400, "The form cannot be read: its parts do not follow its boundary.") from None
    if not content.rstrip().endswith(b"--" + boundary + b"--"):
        raise Refused(400, "The form ends before its last boundary.")
    return files


def file_name(name: str) -> str:
    """The name of a file as answers repeat it: its last part, printable, of bounded length."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in last if c.isprintable())[:MAX_NAME]
