"""One image from a web address: http or https only, bounded in bytes and in time."""

import time
import urllib.request
from http.client import HTTPException
from pathlib import PurePosixPath
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from convnext.data.find import VIDEO_EXTENSIONS
from convnext.data.images import ImageError
from convnext.errors import ConvNextError

SCHEMES = ("http", "https")
LARGEST = 64 * 1024**2
"""Bytes of an image that are taken from the network."""
SILENCE, WHOLE = 10.0, 60.0
"""Seconds to wait for the next bytes, and for all of them."""


def check_address(url: str) -> None:
    """Raises ConvNextError for an address that is never taken, before anything is loaded."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConvNextError(f"{url!r} is no address: {error}.") from None
    if "@" in parts.netloc:
        raise ConvNextError(
            "An address with a name and a password is not taken, because it is shown with the answer. Download the file."
        )
    if PurePosixPath(parts.path).suffix.lower() in VIDEO_EXTENSIONS:
        raise ConvNextError(f"Videos are read from files, not from the network: download {url} first.")


def fetch(url: str, largest: int = LARGEST) -> bytes:
    """The bytes at a web address, for the one decoder.

    Redirects are followed to http and https, from https to https alone, and at most ten times. Nothing is kept on disk.

    Raises:
        ImageError: no such host, a refusal, more than `largest` bytes, more time than `SILENCE` and `WHOLE` allow.
    """
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "convnext", "Accept": "image/*"})
        began, parts, size = time.monotonic(), [], 0
        with _opener().open(request, timeout=SILENCE) as answer:
            while part := answer.read1(1 << 16):
                parts.append(part)
                size += len(part)
                if size > largest:
                    raise ImageError(
                        f"it has more than the {largest:,} bytes that are taken from the network; download it"
                    )
                if time.monotonic() - began > WHOLE:
                    raise ImageError(f"it takes more than {WHOLE:g} seconds; download it")
        return b"".join(parts)
    except ImageError as error:
        raise ImageError(f"Cannot read {url}: {error}.") from None
    except HTTPError as error:
        error.close()
        raise ImageError(
            f"Cannot read {url}: the server answers {error.code} ({error.reason}); check the address."
        ) from None
    except (URLError, OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ImageError(f"Cannot read {url}: {reason}; check the address and the network.") from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = urlsplit(newurl).scheme.lower()
        if scheme not in SCHEMES or (req.type == "https" and scheme != "https"):
            fp.close()
            raise ImageError(f"the server sends on from {req.type} to {scheme or 'nowhere'}; download the file")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """An opener that knows http and https, and neither files nor ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener
