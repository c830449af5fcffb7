"""The service as an application of Ray Serve: replicas on many machines, each a process with its models and its own batches.

A replica is the application of `convnext serve`, so it batches by shape, knows deadlines and drops what nobody waits for;
Ray's own `@serve.batch` does none of the three, and makes a lone request wait. Ray gives it at most two batches at once and
keeps at most `limits.queue` requests waiting in front of it (503).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp

from convnext.errors import ConvNextError, nearest
from convnext.extras import require
from convnext.recipes.ranges import check_ranges
from convnext.serve.names import named
from convnext.serve.options import Limits, Options

OPTIONS = ("device", "precision", "weights", "image_size", "trust")


def application(
    models: Sequence[str],
    replicas: int,
    cpus: float,
    gpus: float,
    limits: Limits | None,
    token: str | None,
    options: dict[str, Any],
) -> Any:
    """See `convnext.serve.ray_app`."""
    for name in options:
        if name not in OPTIONS:
            raise ConvNextError(
                f"There is no option {name!r} of ray_app.{nearest(name, OPTIONS)} {', '.join(OPTIONS)}."
            )
    limits = limits or Limits()
    check_ranges(limits, "")
    serve = require("ray.serve", "ray")
    given = Options(named(models), {}, limits, token=token, loopback=False, **options)

    def build() -> ASGIApp:  # in the replica
        from convnext.serve.app import create_app
        from convnext.serve.service import Service

        return create_app(Service(given))

    deployment = serve.deployment(
        name="convnext",
        num_replicas=replicas,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        max_ongoing_requests=2 * limits.max_batch,
        max_queued_requests=limits.queue,
        graceful_shutdown_timeout_s=limits.drain,
    )
    return deployment(serve.ingress(build)()).bind()
