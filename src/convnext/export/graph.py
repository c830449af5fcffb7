"""From a model to the graph that every format is made of: plain operators, no custom ones, no paths of this machine.

Legend: B batch, H W height and width, K classes.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import UserError
from torch.export import Dim, ExportedProgram
from torch.nn.utils.fusion import fuse_conv_bn_eval

from convnext.data.conventions import PAD_MULTIPLE
from convnext.detection.detector import Detector
from convnext.errors import ConvNextError
from convnext.export.detector import DetectorGraph
from convnext.export.metadata import Metadata
from convnext.models.deploy import fold
from convnext.ops.backend import backend

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Graph(nn.Module):
    """images (B, 3, H, W) fp32 -> logits fp32, whatever the model computes in."""

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.to(self.dtype)).float()


def graph_of(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """What is exported in place of a model: the one place where its inference form is chosen.

    LayerNorm's affine part, LayerScale and a head's BatchNorm are folded into the layers beside them, and what only training
    needs is left out.
    """
    if hasattr(model, "deploy"):
        plain = fold(model)
    else:
        plain = copy.deepcopy(model)
        if hasattr(plain, "backbone"):
            plain.backbone = fold(model.backbone)
        if hasattr(plain, "auxiliary_head"):
            plain.auxiliary_head = None
        for part in plain.modules():
            if isinstance(getattr(part, "bn", None), nn.BatchNorm2d) and isinstance(
                getattr(part, "conv", None), nn.Conv2d
            ):
                part.conv, part.bn = fuse_conv_bn_eval(part.conv.eval(), part.bn.eval()), nn.Identity()
    if isinstance(model, Detector):
        return DetectorGraph(plain.cpu()).eval()
    return Graph(plain.cpu().to(dtype), dtype).eval()


def trace(model: nn.Module, metadata: Metadata, dtype: torch.dtype = torch.float32) -> ExportedProgram:
    """The graph of a model for inputs as `metadata` says (batch, size); no paths of this machine are in it.

    Raises:
        ConvNextError: the model cannot be traced for these inputs.
    """
    dims: dict[int, Any] = {}
    batch, size = metadata.batch or 2, metadata.size
    if metadata.batch is None:
        dims[0] = Dim("batch", min=1)
    if size is None:
        dims |= _free_sides(metadata)
        size = (2 * metadata.smallest, 3 * metadata.smallest)  # unequal, so that neither stands for the other
    images = torch.zeros(batch, metadata.in_chans, *size)
    inputs = (images, torch.tensor(size))[: len(metadata.inputs)]
    try:
        with torch.no_grad(), backend("reference"), hushed():
            program = torch.export.export(
                graph_of(model, dtype), inputs, dynamic_shapes=({**dims}, None)[: len(inputs)]
            )
    except (RuntimeError, ValueError, UserError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConvNextError(
            f"{metadata.model} cannot be traced for inputs of {tuple(images.shape)} with {len(dims)} free axes: {reason}. "
            "Leave out --dynamic size, or give --dynamic none."
        ) from error
    for node in list(program.graph.nodes):
        node.meta.pop("stack_trace", None)  # lines of files of this machine
        if metadata.task == "detection" and node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)  # torchvision claims that suppression leaves two boxes at least
    return program


@contextmanager
def hushed() -> Iterator[None]:
    """Without the warnings of what torchvision's suppression calls in PyTorch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def _free_sides(metadata: Metadata) -> dict[int, Any]:
    """Height and width as free axes; a detector's are padded to a multiple."""
    step = PAD_MULTIPLE if metadata.task == "detection" else 1
    sides = Dim("height", min=metadata.smallest // step), Dim("width", min=metadata.smallest // step)
    return {2: step * sides[0], 3: step * sides[1]} if step > 1 else {2: sides[0], 3: sides[1]}
