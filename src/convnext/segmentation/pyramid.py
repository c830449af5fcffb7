"""The parts that both heads are made of: convolution with norm, bilinear resizing, pyramid pooling.

Legend: B batch, C channels, H W height and width of a feature map; maps are (B, C, H, W), whatever their memory layout.
"""

import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.ops.conv3x3 import conv3x3

POOL_SCALES = (1, 2, 3, 6)


def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, H, W) -> (B, C, *size), bilinear, corners not aligned, no antialiasing."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class ConvNorm(nn.Module):
    """Convolution without bias that keeps H and W -> batch norm -> ReLU: (B, Cin, H, W) -> (B, Cout, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(batch_norm(self.bn, conv3x3(self.conv, x)), inplace=True)


def batch_norm(norm: nn.BatchNorm2d | nn.SyncBatchNorm, x: Tensor) -> Tensor:
    """`norm(x)`, but also for one value per channel in training: one image, pooled to 1x1.

    A single value has no variance (PyTorch refuses it), and minus its own mean it would be 0 whatever the image shows.
    So that value is normalised by the running statistics, as in evaluation, and leaves them as they are. A synchronised
    norm (nn.SyncBatchNorm) has the values of the other processes too and needs none of this.
    """
    alone = norm.training and x.numel() == x.shape[1]
    if alone and isinstance(norm, nn.SyncBatchNorm) and dist.is_initialized():
        alone = dist.get_world_size(norm.process_group) == 1
    if alone:
        return F.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
        )
    return norm(x)


class PyramidPooling(nn.ModuleList):
    """Averages over grids of 1x1, 2x2, 3x3 and 6x6 cells, each projected and brought back to the size of the map."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvNorm(in_channels, channels, 1)) for scale in POOL_SCALES
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, Cin, H, W) -> four maps (B, C, H, W)."""
        return [resize(pool(x), x.shape[2:]) for pool in self]


def classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """The 1x1 convolution that ends a head, initialised as the reference does: weights of std 0.01, zero biases."""
    conv = nn.Conv2d(channels, num_classes, kernel_size=1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
