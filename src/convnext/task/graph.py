"""The inference graph that is exported: constants folded, training-only parts left out.

Legend: B batch, H W height and width, K classes.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from convnext.models.fold import fold


class Graph(nn.Module):
    """images (B, 3, H, W) fp32 -> outputs fp32, in whatever precision the model computes."""

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.to(self.dtype)).float()


def folded_around(model: nn.Module, backbone: str = "backbone") -> nn.Module:
    """A copy on the CPU whose backbone is folded (`models.fold.fold`) and whose BatchNorms are fused into convolutions."""
    plain = copy.deepcopy(model).cpu()
    setattr(plain, backbone, fold(getattr(model, backbone)))
    for part in plain.modules():
        conv, bn = getattr(part, "conv", None), getattr(part, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
            part.conv, part.bn = fuse_conv_bn_eval(conv.eval(), bn.eval()), nn.Identity()
    return plain
