"""Less memory in training for a little more time: activations inside the blocks are computed again when they are needed."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from convnext.errors import ConvNextError
from convnext.models.block import Block
from convnext.ops import backend


def recompute_blocks(model: nn.Module, enable: bool = True) -> None:
    """From now on, keep only the inputs of the model's blocks for the backward pass, and run each block again there.

    Same numbers, about a quarter more time. `model` is a ConvNeXt or an isotropic one.

    Args:
        enable: False takes it back.
    """
    for stage in stages_of(model):
        for block in stage:
            if is_recomputed(block):
                del block.forward
            if enable:
                block.forward = partial(run_twice, block.forward)


def is_recomputed(module: nn.Module) -> bool:
    """True for a block that `recompute_blocks` has changed."""
    forward = vars(module).get("forward")
    return isinstance(forward, partial) and forward.func is run_twice


def run_twice(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """forward(x), of which only x is kept. The second run takes the backend of the first: on a GPU it is in another thread."""
    if torch.compiler.is_compiling():
        return checkpoint(forward, x, use_reentrant=False)
    name = backend.chosen()
    return checkpoint(forward, x, use_reentrant=False, context_fn=lambda: (nullcontext(), backend.backend(name)))


def recompute_hidden(model: nn.Module, stages: Iterable[int]) -> None:
    """From now on, make the 4C-wide hidden layers of these stages' blocks again in the backward pass rather than keep them.

    Same numbers up to rounding. Of the MLP's input and hidden layer, 5 C elements per pixel, C are kept, for a seventh product
    beside six in a training step. Only the fused operations of a GPU do so (`ops.mlp`); everything else ignores it.

    Args:
        model: a ConvNeXt (stages 0 to 3), an isotropic one (stage 0), or a detector or segmenter with one of these.

    Raises:
        ConvNextError: there is no such stage, or its blocks are not ConvNeXt's.
    """
    parts = stages_of(getattr(model, "backbone", model))
    for stage in stages:
        if not 0 <= stage < len(parts):
            raise ConvNextError(f"There is no stage {stage} to recompute; the model has stages 0 to {len(parts) - 1}.")
        blocks = [block for block in parts[stage] if isinstance(block, Block)]
        if len(blocks) != len(parts[stage]):
            raise ConvNextError(
                f"Stage {stage} has no ConvNeXt blocks, and only these can recompute their hidden layer."
            )
        for block in blocks:
            block.recompute_hidden = True


def stages_of(model: Any) -> list[nn.Sequential]:
    """The four stages; of an isotropic model one."""
    return list(getattr(model, "stages", None) or [model.blocks])
