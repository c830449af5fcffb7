"""The whole optimizer step as one CUDA graph, for batches so small that launching its kernels takes longer than they do."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convnext.engine.ema import MovingAverage
from convnext.engine.optim import SkippingAdamW, lr_to_device
from convnext.engine.step import Step
from convnext.engine.task import Task
from convnext.errors import ConvNextError
from convnext.recipes.plan import Plan
from convnext.recipes.schema import Recipe
from convnext.runtime import graphs
from convnext.runtime.world import World
from convnext.seeding import seed_all

WARM = 3  # steps before one is recorded


def make_step(
    recipe: Recipe,
    plan: Plan,
    task: Task,
    optimizer: SkippingAdamW,
    world: World,
    precision: str,
    ema: MovingAverage | None,
    frozen: Sequence[nn.Module],
) -> Step:
    """The step of a run, recorded where the recipe asks for it; raises as `check_graph`."""
    check_graph(recipe, plan, world)
    kind = GraphedStep if recipe.runtime.cuda_graph else Step
    return kind(
        task.model, task.losses, optimizer, world, precision, recipe.optim.clip_grad, ema, frozen, task.mix
    )  # fmt: skip


def check_graph(recipe: Recipe, plan: Plan, world: World) -> None:
    """Refuse a recording that cannot be.

    Raises:
        ConvNextError: it is asked for, and there is no GPU, or several processes, accumulation, or a detector.
    """
    if not recipe.runtime.cuda_graph:
        return
    parts = f"a step here is {plan.accumulation} micro-batches; give --device-batch {plan.total_batch}"
    reasons = [
        (world.device.type != "cuda", f"it needs a GPU, and this run is on {world.device.type}"),
        (world.size > 1, f"it is for one process, and there are {world.size}"),
        (plan.accumulation > 1, parts),
        (
            not recipe.steps_alike,
            "the operations of this task differ from step to step, by what is found in the images",
        ),
    ]
    if found := next((reason for true, reason in reasons if true), None):
        raise ConvNextError(f"--runtime.cuda-graph cannot be had: {found}. Leave it out.")


class GraphedStep(Step):
    """A `Step` of one micro-batch whose work is recorded in the fourth step and replayed from then on.

    A batch of other shapes than the recorded one is computed as by `Step`. Learning rates are fp32 numbers on the device, so
    results differ from those of `Step` in the last bits.
    """

    recorded = staticmethod(graphs.recorded)
    aside = staticmethod(graphs.aside)

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        lr_to_device(self.optimizer, self.world.device)
        self.warm = 0
        self.replay: Callable[[], None] | None = None
        self.inputs: list[Tensor] = []  # where the recording reads a batch
        self.result: Tensor | None = None

    def __call__(self, batches: Iterable, accumulation: int, keys: tuple) -> Tensor:
        (batch,) = batches
        seed_all(*keys, 0, self.world.rank)
        batch = self.mix(batch)
        tensors = tensors_of(batch)
        if self.replay is None and self.warm < WARM:
            self.warm += 1
            return self.aside(lambda: self._whole(batch))
        if self.replay is None or self.result is None:
            self._record(batch, tensors)
        elif [(t.shape, t.dtype) for t in tensors] != [(t.shape, t.dtype) for t in self.inputs]:
            return self._whole(batch)
        else:
            for mine, new in zip(self.inputs, tensors, strict=True):
                mine.copy_(new)
        assert self.replay is not None
        assert self.result is not None
        self.replay()
        return self.result.clone()  # the next replay overwrites it, and the log reads many at once

    def _whole(self, batch: Any) -> Tensor:
        before, losses = self._begin()
        return self._update(losses + self._backward(batch, 1, True), before)

    def _record(self, batch: Any, tensors: list[Tensor]) -> None:
        try:
            self.replay, self.result = self.recorded(lambda: self._whole(batch))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).split("\n", 1)[0]
            raise ConvNextError(
                f"The step of this run cannot be recorded as a CUDA graph ({reason}). Leave --runtime.cuda-graph out."
            ) from error
        self.inputs = tensors


def tensors_of(batch: Any) -> list[Tensor]:
    """What a batch has on the device."""
    return [batch] if isinstance(batch, Tensor) else batch.tensors()
