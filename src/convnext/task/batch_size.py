"""`--device-batch auto`: the most images of a forward and backward pass that the memory of a device takes."""

import gc
from collections.abc import Callable
from dataclasses import replace

import torch

from convnext.errors import ConvNextError
from convnext.recipes.plan import Plan
from convnext.runtime.memory import free_memory
from convnext.task.engine import DataTask

SHARE = 0.5
"""Part of the free memory of a machine that a step may take."""
OVER = 2.0
"""A step's peak over what the forward pass keeps for the backward one: gradients and intermediate values."""
COPIES = 5
"""Of the weights: themselves, gradients, two moments, the moving average."""


def largest_batch(task: DataTask, plan: Plan, free: Callable[[torch.device], int] = free_memory) -> int:
    """Images per forward pass: the largest of the equal parts of a device's share of the total batch that fits.

    On a GPU, steps of growing parts are tried. Elsewhere nothing is tried that could end in swapping: what a forward pass of
    two images keeps is counted, and a step may take `SHARE` of the free memory over the processes of this machine.

    Raises:
        ConvNextError: not even one image fits.
    """
    share = plan.total_batch // plan.devices
    sizes = [n for n in range(1, share + 1) if share % n == 0]
    try:
        fits = _tried(task) if task.world.device.type == "cuda" else _counted(task, min(2, share), free)
        best = 0
        for size in sizes:
            if not fits(size):
                break
            best = size
    finally:
        task.plan = plan
    if not best:
        raise ConvNextError(
            "The memory does not take a step with a single image. Choose a smaller --model.name or smaller images, or "
            "give --device-batch 1 to try it all the same."
        )
    return best


def _at(task: DataTask, size: int) -> torch.Tensor:
    """The loss of a batch of `size` images of the run."""
    plan = task.plan
    task.plan = replace(plan, device_batch=size, accumulation=plan.total_batch // plan.devices // size)
    batch = task.mix(next(iter(task.batches(0))))
    return torch.stack(list(task.losses(task.model, batch).values())).sum()


def _counted(task: DataTask, size: int, free: Callable[[torch.device], int]) -> Callable[[int], bool]:
    weights = {p.data_ptr() for p in task.model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    workers, task.workers = task.workers, 0
    try:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            _at(task, size)
    finally:
        task.workers = workers
    per_image = OVER * sum(kept.values()) / size
    model = COPIES * sum(p.nbytes for p in task.model.parameters())
    room = SHARE * free(task.world.device) / task.world.local_size - model
    return lambda n: n * per_image <= room


def _tried(task: DataTask) -> Callable[[int], bool]:
    def fits(size: int) -> bool:
        device = task.world.device
        try:
            _at(task, size).backward()
            peak = torch.cuda.max_memory_allocated(device) + COPIES * sum(p.nbytes for p in task.model.parameters())
            return peak <= 0.9 * torch.cuda.get_device_properties(device).total_memory
        except torch.OutOfMemoryError:
            return False
        finally:
            task.model.zero_grad(set_to_none=True)
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)

    return fits
