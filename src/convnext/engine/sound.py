"""Check that weights and their metrics are finite."""

import math

import torch
from torch import nn


def is_sound(model: nn.Module, metrics: dict[str, float]) -> bool:
    """True if all weights and the loss, where there is one, are finite: else a classifier still has some accuracy."""
    floats = [value for value in model.state_dict().values() if value.is_floating_point()]
    return math.isfinite(metrics.get("loss", 0.0)) and bool(torch.stack([v.isfinite().all() for v in floats]).all())
