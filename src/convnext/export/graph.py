"""From a model to the graph that every format is made of: plain operators, no custom ones, no paths of this machine.

Legend: B batch, H W height and width, K classes.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import UserError
from torch.export import Dim, ExportedProgram
from torch.nn.utils.fusion import fuse_conv_bn_eval

from convnext.errors import ConvNextError
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
        dims |= {2: Dim("height", min=metadata.smallest), 3: Dim("width", min=metadata.smallest)}
        size = (2 * metadata.smallest, 3 * metadata.smallest)  # unequal, so that neither stands for the other
    images = torch.zeros(batch, metadata.in_chans, *size)
    try:
        with torch.no_grad(), backend("reference"):
            program = torch.export.export(graph_of(model, dtype), (images,), dynamic_shapes=({**dims},))
    except (RuntimeError, ValueError, UserError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConvNextError(
            f"{metadata.model} cannot be traced for inputs of {tuple(images.shape)} with {len(dims)} free axes: {reason}. "
            "Leave out --dynamic size, or give --dynamic none."
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of files of this machine
    return program
