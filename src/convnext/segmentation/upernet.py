"""The decode head: UperNet (Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018).

Pyramid pooling on the deepest map, a feature pyramid from there up to stride 4, and all levels fused. Section A.3 of the
paper; parameter names are those of the reference's checkpoints.

Legend: B batch, Ci channels of backbone stage i, C channels of the head, K classes, H W of the image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convnext.segmentation.pyramid import ConvNorm, PyramidPooling, classifier, resize


class UperHead(nn.Module):
    """Four backbone maps of strides 4, 8, 16, 32 -> logits of stride 4."""

    def __init__(self, in_channels: Sequence[int], channels: int, num_classes: int, dropout: float = 0.1):
        super().__init__()
        *shallow, deepest = in_channels
        self.psp_modules = PyramidPooling(deepest, channels)
        self.bottleneck = ConvNorm(deepest + len(self.psp_modules) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvNorm(width, channels, 1) for width in shallow)
        self.fpn_convs = nn.ModuleList(ConvNorm(channels, channels, 3) for _ in shallow)
        self.fpn_bottleneck = ConvNorm(len(in_channels) * channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = classifier(channels, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps[i] (B, Ci, H/2^(i+2), W/2^(i+2)) -> (B, K, H/4, W/4)."""
        *shallow, deepest = maps
        top = self.bottleneck(torch.cat([deepest, *self.psp_modules(deepest)], dim=1))  # C3 + 4C -> C, stride 32
        laterals = [lateral(x) for lateral, x in zip(self.lateral_convs, shallow, strict=True)]
        above = top
        for i in reversed(range(len(laterals))):  # top-down: strides 16, 8, 4
            laterals[i] = above = laterals[i] + resize(above, laterals[i].shape[2:])
        levels = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=True)] + [top]
        size = levels[0].shape[2:]
        fused = self.fpn_bottleneck(torch.cat([levels[0], *(resize(x, size) for x in levels[1:])], dim=1))  # 4C -> C
        return self.conv_seg(self.dropout(fused))
