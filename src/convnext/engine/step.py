"""One optimizer step: forward and backward over the micro-batches, clipping, and a skip decided on the device."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from convnext.engine.ema import MovingAverage
from convnext.engine.optim import SkippingAdamW
from convnext.runtime.precision import autocast
from convnext.runtime.world import World
from convnext.seeding import seed_all

GROWTH_STEPS = 2000  # good steps before the fp16 loss scale doubles


@dataclass
class LossScale:
    """Dynamic loss scaling for fp16, as tensors on the device: halves on overflow, doubles after 2,000 good steps."""

    scale: Tensor
    good_steps: Tensor

    @classmethod
    def on(cls, device: torch.device) -> "LossScale":
        return cls(torch.tensor(65536.0, device=device), torch.tensor(0.0, device=device))

    def update(self, skipped: Tensor) -> None:
        good = (self.good_steps + 1.0) * (1.0 - skipped)
        grow = good >= GROWTH_STEPS
        self.scale.mul_(torch.where(grow, 2.0, 1.0 - 0.5 * skipped))
        self.good_steps.copy_(torch.where(grow, 0.0, good))


class Step:
    """Callable: `step(batches, keys)` takes the micro-batches of one optimizer step and returns a tensor of floats on the
    device: gradient norm before clipping, 1 if the step was skipped, and each loss, its mean over all processes.

    `mix` and `losses` are those of a `convnext.engine.task.Task`; the sum of the losses is what is minimised, and `names` are
    theirs after the first step.

    A step is skipped, on every process alike, when the loss or a gradient of any of them is not finite: parameters, buffers
    (BatchNorm's statistics), moments, step count and EMA stay as they are. Modules in `frozen` compute as in evaluation.
    Each micro-batch starts from generators seeded with (keys, micro, rank).
    """

    def __init__(
        self,
        model: nn.Module,
        losses: Callable[[nn.Module, Any], dict[str, Tensor]],
        optimizer: SkippingAdamW,
        world: World,
        precision: str = "fp32",
        clip_grad: float | None = None,
        ema: MovingAverage | None = None,
        frozen: Sequence[nn.Module] = (),
        mix: Callable[[Any], Any] = lambda batch: batch,
    ):
        self.frozen = frozen
        self.model, self.optimizer, self.world, self.ema = model, optimizer, world, ema
        self.losses, self.mix = losses, mix
        self.precision = precision
        self.clip_grad = clip_grad
        self.names: list[str] = []
        self.loss_scale = LossScale.on(world.device) if precision == "fp16" else None
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.parallel = DistributedDataParallel(model) if world.size > 1 else None
        self.forward_model = self.parallel or model

    def __call__(self, batches: Iterable, accumulation: int, keys: tuple) -> Tensor:
        before, losses = self._begin()
        for micro, batch in enumerate(batches):
            seed_all(*keys, micro, self.world.rank)
            losses = losses + self._backward(self.mix(batch), accumulation, micro == accumulation - 1)
        return self._update(losses, before)

    def _begin(self) -> tuple[list[Tensor], Tensor]:
        """The buffers as they were, and no losses."""
        for part in self.frozen:  # an evaluation puts the whole model back into training mode
            part.eval()
        return [buffer.clone() for buffer in self.model.buffers()], torch.zeros((), device=self.world.device)

    def _backward(self, batch: Any, accumulation: int, last: bool) -> Tensor:
        """Add a micro-batch's gradients; its part of the losses."""
        sync = nullcontext() if last or self.parallel is None else self.parallel.no_sync()
        with sync:
            with autocast(self.precision, self.world.device):
                parts = self.losses(self.forward_model, batch)
                loss = torch.stack([part.float() for part in parts.values()]).sum() / accumulation
            (loss * self.loss_scale.scale if self.loss_scale else loss).backward()
        self.names = list(parts)
        return torch.stack([part.detach().float() for part in parts.values()]) / accumulation

    @torch.no_grad()
    def _update(self, losses: Tensor, before: list[Tensor]) -> Tensor:
        grads = [p.grad for p in self.parameters if p.grad is not None]
        if self.loss_scale:
            torch._foreach_mul_(grads, 1.0 / self.loss_scale.scale)
        norm = nn.utils.get_total_norm(grads)
        bad = ~(torch.isfinite(norm) & torch.isfinite(losses).all())
        if self.clip_grad is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip_grad, norm)
        # one small reduction a step: every process skips when one has to
        sums = self.world.sum(torch.cat([bad.float()[None], losses]))
        skipped = (sums[0] > 0).float()
        self.optimizer.step_unless(skipped)
        for buffer, value in zip(self.model.buffers(), before, strict=True):
            buffer.copy_(torch.where(skipped > 0, value, buffer))
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update(skipped)
        if self.loss_scale:
            self.loss_scale.update(skipped)
        return torch.cat([torch.stack([norm, skipped]), sums[1:] / self.world.size])
