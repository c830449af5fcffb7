"""Download a large file so that a broken connection costs nothing, and notice when a file has changed."""

import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from convnext.errors import ConvNextError
from convnext.files import replace_text, sha256

Progress = Callable[[int, int | None], None]
CHUNK = 1 << 20


def download(url: str, file: Path, progress: Progress | None = None) -> None:
    """Download into `file`, by way of `<file>.part`, from which a later call continues.

    Args:
        progress: called with the bytes that are there and the bytes in all (None where the server does not say).

    Raises:
        ConvNextError: no connection, no such file, broken off, or no space; the part is kept.
    """
    part = file.with_name(file.name + ".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        done, total = _continue(url, part, progress)
    except urllib.error.HTTPError as error:
        raise ConvNextError(
            f"{url} answers {error.code} {error.reason}. If CONVNEXT_MIRROR is set, it must be a URL or a folder that "
            f"has the file under the same name; or download the file elsewhere and put it at {file}."
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise ConvNextError(
            f"{url} could not be downloaded: {getattr(error, 'reason', error)}. Try again when there is a network "
            f"(what has arrived is kept), put the file at {file} by hand, or set CONVNEXT_MIRROR to a URL or a folder "
            "that has it."
        ) from error
    except OSError as error:
        raise ConvNextError(
            f"{part} could not be written: {error}. Free some space, or set CONVNEXT_CACHE to a folder that has it."
        ) from error
    if total is not None and done != total:
        raise ConvNextError(
            f"{url} broke off after {done} of {total} bytes. What has arrived is kept: try again to continue from "
            "there."
        )
    os.replace(part, file)


def _continue(url: str, part: Path, progress: Progress | None) -> tuple[int, int | None]:
    """Append to `part` what is missing; returns its size and the size that the server states."""
    done = part.stat().st_size if part.exists() else 0
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {}), timeout=30
        )
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink()  # nothing lies beyond it: it belongs to another file, or the last call died at its end
        return _continue(url, part, progress)
    with response:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            done = 0
        length = response.headers["Content-Length"]
        total = done + int(length) if length else None
        with open(part, "ab" if done else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
            file.flush()
            os.fsync(file.fileno())
    return done, total


def recorded_sha256(file: Path) -> str:
    """The hash in `<file>.sha256`, which is written from the file itself the first time, or when it holds no hash."""
    record = file.with_name(file.name + ".sha256")
    stated = record.read_bytes()[:64].decode("ascii", errors="replace") if record.is_file() else ""
    if not re.fullmatch(r"[0-9a-f]{64}", stated):
        stated = sha256(file)
        replace_text(record, f"{stated}  {file.name}\n")
    return stated


def verify(file: Path, expected: str) -> None:
    """Compare a file with its SHA-256 or the first digits of it, which is all that some sources publish.

    Raises:
        ConvNextError: the file has another hash.
    """
    if not (found := sha256(file)).startswith(expected):
        raise ConvNextError(
            f"{file} is not the file that is expected: its SHA-256 is {found}, and it should be {expected}. Delete it "
            "(and its .sha256 beside it) to download it again."
        )
