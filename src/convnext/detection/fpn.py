"""The neck: a feature pyramid (Lin et al., CVPR 2017) with 256 channels on five levels; names as in the reference.

Legend: B batch, Ci channels of backbone stage i, C channels of the pyramid, H W of the image.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from convnext.ops.conv3x3 import conv3x3


class Conv(nn.Module):
    """Convolution that keeps H and W -> batch norm (if `norm`, in place of the bias) -> ReLU (if `relu`)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, norm: bool = False, relu: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(out_channels) if norm else None
        self.relu = relu
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = conv3x3(self.conv, x)
        if self.bn is not None:
            x = batch_norm(self.bn, x)
        return F.relu(x, inplace=True) if self.relu else x


def batch_norm(norm: nn.BatchNorm2d | nn.SyncBatchNorm, x: Tensor) -> Tensor:
    """`norm(x)`, but no proposals leave the running statistics as they are: the mean of nothing is nan.

    A synchronised norm (nn.SyncBatchNorm) knows that, and needs every process to take part.
    """
    if x.numel() == 0 and not isinstance(norm, nn.SyncBatchNorm):
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return norm(x)


class FPN(nn.Module):
    """The backbone's four maps -> five levels of C channels, half as large each."""

    def __init__(self, in_channels: Sequence[int], channels: int):
        super().__init__()
        laterals = [Conv(width, channels, 1, relu=False) for width in in_channels]
        outputs = [Conv(channels, channels, 3, relu=False) for _ in in_channels]
        self.lateral_convs, self.fpn_convs = nn.ModuleList(laterals), nn.ModuleList(outputs)
        for conv in (*laterals, *outputs):
            nn.init.xavier_uniform_(conv.conv.weight)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """maps[i] (B, Ci, H/2^(i+2), W/2^(i+2)) -> five levels (B, C, H/2^(i+2), W/2^(i+2)), i = 0..4."""
        laterals = [lateral(x) for lateral, x in zip(self.lateral_convs, maps, strict=True)]
        for i in reversed(range(len(laterals) - 1)):  # top-down
            laterals[i] = laterals[i] + F.interpolate(laterals[i + 1], size=laterals[i].shape[2:], mode="nearest")
        levels = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=True)]
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]  # every other position
