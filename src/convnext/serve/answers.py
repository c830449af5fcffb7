"""Answers as HTTP responses."""

from __future__ import annotations

import time
from typing import Any

from starlette.responses import Response

from convnext.files import to_json
from convnext.serve.body import Refused
from convnext.serve.model import Served, Version


def json_response(text: str, code: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON that is written already."""
    return Response(text, code, headers, "application/json")


def answered(value: Any, code: int = 200) -> Response:
    """A JSON value."""
    return json_response(to_json(value), code)


def error(refused: Refused) -> Response:
    """The answer to a request that is refused: a code and a sentence."""
    return Response(to_json({"error": refused.message}), refused.code, refused.headers, "application/json")


def facts(served: Served, version: Version, began: float) -> dict[str, str]:
    """Headers of an answer: the model, which load of its file, and milliseconds in the server."""
    return {
        "X-Model": served.name,
        "X-Model-Version": str(version.number),
        "Server-Timing": f"total;dur={1000 * (time.monotonic() - began):.1f}",
    }
