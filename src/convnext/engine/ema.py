"""An exponential moving average of a model's parameters and buffers, per optimizer step (Table 5)."""

import copy

import torch
from torch import Tensor, nn


class MovingAverage:
    """`module` is a copy of the model whose tensors follow it: ema <- decay * ema + (1 - decay) * value.

    Integer buffers are copied. A skipped step leaves the average where it is.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        pairs = list(zip(self.module.state_dict().values(), model.state_dict().values(), strict=True))
        self._floats = [(mine, theirs) for mine, theirs in pairs if mine.is_floating_point()]
        self._others = [(mine, theirs) for mine, theirs in pairs if not mine.is_floating_point()]

    @torch.no_grad()
    def update(self, skipped: Tensor) -> None:
        """Move towards the model, unless `skipped` (0-d float, 0 or 1, on the device: the host need not know it)."""
        mine, theirs = (list(tensors) for tensors in zip(*self._floats, strict=True))
        change = torch._foreach_sub(theirs, mine)
        torch._foreach_mul_(change, (1.0 - self.decay) * (1.0 - skipped))
        torch._foreach_add_(mine, change)
        for copy_, original in self._others:
            copy_.copy_(original)
