"""Depthwise convolution on (B, H, W, C): the reference, and matrix products for the tiny maps of small images on a CPU.

Legend: B batch, H W height and width, C channels, P = H W positions, K side of the kernel.
"""

from functools import lru_cache
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.ops.backend import Form
from convnext.ops.rule import geometry, intact

TINY = 16  # positions up to which the products win on a CPU: 3 to 20 times, forward and backward (docs/log.md)


# not for compiling: a choice by size would become a bound of a graph whose size is free
PRODUCTS = Form("products", pays=lambda x: x.device.type == "cpu" and x.shape[1] * x.shape[2] <= TINY)


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (B,H,W,C), weight (C,1,K,K) with K odd, bias (C,) -> (B,H,W,C), stride 1, zero padding K // 2."""
    return (tiny if PRODUCTS.takes(x) else reference)(x, weight, bias)


def depthwise_module(conv: nn.Module, x: Tensor) -> Tensor:
    """Apply `conv`, which maps (B,C,H,W) to (B,C,H,W), to x (B,H,W,C); it is called unless it is `unchanged`."""
    if PRODUCTS.takes(x) and unchanged(conv):
        return tiny(x, conv.weight, conv.bias)  # pyright: ignore[reportArgumentType]  `unchanged` has a bias
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def unchanged(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """True for an intact depthwise convolution with a bias, stride 1 and zero padding that keeps the map's size."""
    if not intact(conv, nn.Conv2d, biased=True):
        return False
    k = conv.kernel_size[0]
    kept = (k, k), (1, 1), (k // 2, k // 2), (1, 1), "zeros"
    return geometry(conv) == kept and conv.groups == conv.in_channels == conv.out_channels


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """PyTorch's convolution, through a channels-last view of the same memory."""
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))
    return y.permute(0, 2, 3, 1)


def tiny(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """For every channel, one product with the (P,P) matrix that the convolution is on a map of P positions."""
    b, h, w, c = x.shape
    with_zero = F.pad(weight.reshape(c, -1), (0, 1))  # (C, K*K + 1): the last tap is the one outside the kernel
    matrices = with_zero[:, tap_indices(h, w, weight.shape[-1])]  # (C, P, P)
    columns = x.reshape(b, h * w, c).permute(2, 1, 0).contiguous()  # (C, P, B)
    y = torch.baddbmm(bias[:, None, None], matrices, columns)
    if y.requires_grad:
        y.register_hook(Tensor.contiguous)  # or its products copy the matrix of each channel by itself
    return y.permute(2, 1, 0).reshape(b, h, w, c)


@lru_cache
@torch.inference_mode(False)  # or a prediction would cache a tensor that no training can use
def tap_indices(h: int, w: int, k: int) -> Tensor:
    """(P,P): the one of the K*K taps that takes input position q to output position p; K*K where none does."""
    positions = (torch.arange(n, device="cpu") for n in (h, w))  # whatever torch.device is the context
    y, x = (axis.reshape(-1) for axis in torch.meshgrid(*positions, indexing="ij"))
    dy, dx = (axis[None, :] - axis[:, None] + k // 2 for axis in (y, x))
    inside = (dy >= 0) & (dy < k) & (dx >= 0) & (dx < k)
    return torch.where(inside, dy * k + dx, k * k)
