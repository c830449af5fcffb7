"""A trained model as an HTTP service: `convnext serve` on one machine, `ray_app` on many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convnext.serve.options import Limits


def ray_app(
    *models: str,
    replicas: int = 1,
    cpus: float = 1.0,
    gpus: float = 0.0,
    limits: Limits | None = None,
    token: str | None = None,
    **options: Any,
) -> Any:
    """Application of Ray Serve with the routes, answers, limits and page of `convnext serve`; extra `ray`.

        app = convnext.serve.ray_app("runs/pets", replicas=4, gpus=1)     # in module.py; then: serve run module:app

    Args:
        models: what `convnext.load` takes, or NAME=MODEL; each machine of the cluster has to find it under that name.
        replicas: processes with a copy of the models each; Ray replaces those that die.
        cpus, gpus: of a replica; a share of a GPU lets replicas share it.
        limits: those of `convnext serve`; where a replica has two batches, up to `queue` requests wait for it at Ray's proxy.
        token: bearer token that requests must show.
        options: device, precision, weights, image_size, trust: as for `convnext.load`.

    Raises:
        ConvNextError: Ray is not installed, an option is not there, or two models have one name.
    """
    from convnext.serve.on_ray import application

    return application(models, replicas, cpus, gpus, limits, token, options)
