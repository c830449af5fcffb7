"""The knobs and limits of a service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convnext.data.images import MAX_PIXELS
from convnext.recipes.ranges import ranged

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits and times. What goes beyond them is answered with the code in brackets."""

    max_batch: int = ranged(16, at_least=1, at_most=4096)
    """Images in one call of the model."""
    max_wait_ms: float = ranged(5.0, at_least=0, at_most=10_000)
    """Time that the model waits for images that are being decoded; it never waits for requests that may not come."""
    queue: int = ranged(128, at_least=1, at_most=100_000)
    """Images that may wait for the model [503]."""
    deadline: float = ranged(30.0, above=0, at_most=3600)
    """Seconds until a request has to be answered [504]; a request asks for less with the header X-Deadline-Seconds."""
    max_body: int = ranged(32 * MIB, at_least=1)
    """Bytes of a request [413]."""
    max_files: int = ranged(32, at_least=1, at_most=10_000)
    """Images of a request [413]."""
    max_pixels: int = ranged(MAX_PIXELS // 2, at_least=1)
    """Width times height of an image [422]."""
    max_bodies: int = ranged(256 * MIB, at_least=1)
    """Bytes of all requests that are being received, together [503]."""
    slow_after: float = ranged(10.0, above=0)
    """Seconds in which the headers of a request must have come, and after which its body must come at --slow-rate [408]."""
    slow_rate: int = ranged(16 * 1024, at_least=1)
    """Bytes per second."""
    idle: int = ranged(15, at_least=1)
    """Seconds after which an idle connection is closed."""
    connections: int = ranged(1000, at_least=1)
    """Open connections [503]."""
    drain: float = ranged(30.0, above=0)
    """Seconds in which accepted requests are finished after SIGTERM."""


@dataclass(frozen=True)
class Options:
    """All that a process of the service is told.

    Attributes:
        models: name -> what `convnext.load` takes; the first is the one of `/predict`.
        predict_options: task -> keyword options of its predictions.
        host, port: where it listens; port 0: any that is free.
        device, precision, weights, image_size, trust: as for `convnext.load`.
        workers: processes, each with its own copy of the models.
        token: bearer token that requests must show; None: none.
        admin: True: `POST /admin/reload` from this machine loads the models again.
        loopback: True: only this machine's own names are accepted as Host.
    """

    models: dict[str, str]
    predict_options: dict[str, dict[str, Any]]
    limits: Limits
    host: str = "127.0.0.1"
    port: int = 8000
    device: str = "auto"
    precision: str = "auto"
    weights: str = "best"
    image_size: int | None = None
    trust: bool = False
    workers: int = 1
    token: str | None = None
    admin: bool = False
    loopback: bool = True
