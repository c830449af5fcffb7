"""The numbers at `/metrics`: requests by code, queue length, batch sizes, seconds by phase."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SHARED = "PROMETHEUS_MULTIPROC_DIR"  # the library's own name of the folder in which workers put their numbers together
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters of one process; those of several workers are summed where they share a folder."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "convnext_requests_total", "Requests by route and code.", ("route", "code"), registry=registry
        )
        self.waiting = Gauge(
            "convnext_queue_images", "Images that wait for the model.", ("model",),
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.batch = Histogram(
            "convnext_batch_images", "Images of a batch.", ("model",), buckets=IMAGES, registry=registry
        )
        self.phase = Histogram(
            "convnext_phase_seconds", "Seconds of a request by phase.", ("model", "phase"), buckets=SECONDS, registry=registry
        )  # fmt: skip
        self.reloads = Counter("convnext_reloads_total", "Models replaced.", ("model",), registry=registry)

    def text(self) -> bytes:
        """All numbers in Prometheus' format."""
        if not os.environ.get(SHARED):
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)
