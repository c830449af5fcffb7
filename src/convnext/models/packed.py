"""Layers of a deployed model on a CPU: weights in the order in which oneDNN reads them, for inference only.

Legend: K N features in and out, B batch, C D channels in and out, H W height and width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from convnext.ops import onednn


class PackedLinear(nn.Module):
    """A linear layer whose weight (N,K) only oneDNN reads."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.bias = layer.bias
        self.weight = onednn.pack_linear(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        return onednn.linear(x.reshape(-1, x.shape[-1]), self.weight, self.bias).view(*x.shape[:-1], -1)


class PackedPatches(nn.Module):
    """A convolution whose stride is its kernel's side, without padding: one product over the patches."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.bias, self.side = conv.bias, conv.stride[0]
        self.weight = onednn.pack_linear(conv.weight.permute(0, 2, 3, 1).flatten(1))  # (D,C,K,K) -> (D, K K C)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) channels last -> (B,D,H//K,W//K) channels last."""
        b, c, k = x.shape[0], x.shape[1], self.side
        h, w = x.shape[2] // k, x.shape[3] // k
        rows = x[:, :, : h * k, : w * k].permute(0, 2, 3, 1).reshape(b, h, k, w, k * c).transpose(2, 3)
        y = onednn.linear(rows.reshape(b * h * w, k * k * c), self.weight, self.bias)
        return y.view(b, h, w, -1).permute(0, 3, 1, 2)


class PackedBlock(nn.Module):
    """A block whose LayerNorm has no affine part and which has no LayerScale, see `models.deploy.fold`."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.depthwise = onednn.pack_depthwise(block.dwconv.weight), block.dwconv.bias
        self.eps = block.norm.eps
        first, second = block.pwconv1, block.pwconv2
        self.mlp = onednn.pack_linear(first.weight), first.bias, onednn.pack_linear(second.weight), second.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B,H,W,C) both ways."""
        y = F.layer_norm(onednn.depthwise(x, *self.depthwise), x.shape[-1:], eps=self.eps)
        return onednn.mlp_residual(x, y, *self.mlp)
