"""Trace a model to the graph that every format is made of: plain operators, no custom ones, no paths of this machine."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import UserError
from torch.export import Dim, ExportedProgram

from convnext import tasks
from convnext.errors import ConvNextError
from convnext.ops.backend import backend
from convnext.task.exported import Metadata

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def trace(model: nn.Module, metadata: Metadata, dtype: torch.dtype = torch.float32) -> ExportedProgram:
    """The inference graph of a model for inputs as `metadata` says (batch, size); no paths of this machine are in it.

    Raises:
        ConvNextError: the model cannot be traced for these inputs.
    """
    spec = tasks.get(metadata.task)
    dims: dict[int, Any] = {}
    batch, size = metadata.batch or 2, metadata.size
    if metadata.batch is None:
        dims[0] = Dim("batch", min=1)
    if size is None:
        # a model for small images has one position there, which files of some formats take all the same
        least = max(metadata.smallest, spec.smallest_side(model))
        dims |= _free_sides(least, spec.size_multiple)
        size = (2 * least, 3 * least)  # unequal, so that neither stands for the other
    images = torch.zeros(batch, metadata.in_chans, *size)
    inputs = (images, torch.tensor(size))[: len(metadata.inputs)]
    try:
        with torch.no_grad(), backend("reference"), without_future_warnings():
            program = torch.export.export(
                spec.graph(model, dtype), inputs, dynamic_shapes=({**dims}, None)[: len(inputs)]
            )
    except (RuntimeError, ValueError, UserError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConvNextError(
            f"{metadata.model} cannot be traced for inputs of {tuple(images.shape)} with {len(dims)} free axes: {reason}. "
            "Leave out --dynamic size, or give --dynamic none."
        ) from error
    for node in list(program.graph.nodes):
        node.meta.pop("stack_trace", None)  # lines of files of this machine
    return spec.finished(program)


@contextmanager
def without_future_warnings() -> Iterator[None]:
    """Ignore the warnings about PyTorch functions that torchvision's suppression calls."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def _free_sides(least: int, step: int) -> dict[int, Any]:
    """Height and width as free axes from `least` pixels on, multiples of `step`."""
    sides = Dim("height", min=least // step), Dim("width", min=least // step)
    return {2: step * sides[0], 3: step * sides[1]} if step > 1 else {2: sides[0], 3: sides[1]}
