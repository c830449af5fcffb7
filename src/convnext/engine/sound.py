"""Check that weights and their metrics are finite, and what is said of steps that were not."""

import math
from pathlib import Path

import torch
from torch import nn

from convnext.errors import ConvNextError


def is_sound(model: nn.Module, metrics: dict[str, float]) -> bool:
    """True if all weights and the loss, where there is one, are finite: else a classifier still has some accuracy."""
    floats = [value for value in model.state_dict().values() if value.is_floating_point()]
    return math.isfinite(metrics.get("loss", 0.0)) and bool(torch.stack([v.isfinite().all() for v in floats]).all())


def unsound(count: int, step: int, rate: float, file: Path) -> ConvNextError:
    """The end of a run after `count` steps in a row that were not finite, up to `step`; `file` lists their samples."""
    return ConvNextError(
        f"The loss or a gradient was not finite in {count} steps in a row, up to step {step} (learning rate {rate:.2e}); none of "
        f"them changed the weights. The samples are listed in {file}. Lower --optim.lr, set --optim.clip-grad 1.0, or use "
        "--precision fp32, in a new folder."
    )
