"""Convolutions whose stride is their kernel, as one matrix product over gathered patches.

By itself it is taken for a stem only, where cuDNN would have to pad the three colours to the eight channels that its
kernels for tensor cores take. A 2x2 downsampling has such channels, and gathering would write and read its input once more
than cuDNN does (docs/kernels.md). Neither has been timed on a GPU yet.

Legend: B batch, H W height and width, C D channels in and out, K side of the kernel, h w = H // K, W // K.
"""

from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.ops.backend import Form
from convnext.ops.mlp import compute_dtype
from convnext.ops.rule import geometry, intact

TENSOR_CORES = torch.float16, torch.bfloat16


def patchify(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of x (B,H,W,C), in any memory order, with weight (D,C,K,K) and bias (D,), stride K, no padding:
    (B,h,w,D) contiguous. What is left of H and W beyond a multiple of K is not seen, as in PyTorch's convolution."""
    b, h, w, c = x.shape
    k = weight.shape[-1]
    x = x[:, : h // k * k, : w // k * k].unflatten(2, (w // k, k)).unflatten(1, (h // k, k))  # (B,h,K,w,K,C)
    patches = x.permute(0, 1, 3, 2, 4, 5).reshape(b, h // k, w // k, k * k * c)
    return F.linear(patches, weight.permute(0, 2, 3, 1).reshape(len(weight), -1), bias)


def suits(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """True for an intact convolution of patches with a number of input channels that cuDNN pads."""
    if not intact(conv, nn.Conv2d):
        return False
    k = conv.kernel_size[0]
    patches = (k, k), (k, k), (0, 0), (1, 1), "zeros"
    return geometry(conv) == patches and conv.groups == 1 and conv.in_channels % 8 != 0


PATCHES = Form(
    "patches",
    pays=lambda x, conv: x.device.type == "cuda" and compute_dtype(x) in TENSOR_CORES and suits(conv),
    compiles=True,
    counted=True,
)
"""`patchify` in place of `conv` on x (B,H,W,C): for a stem on a GPU, in half precision or autocast to it."""


def patches_module(conv: nn.Module, x: Tensor) -> Tensor:
    """Apply a convolution to x (B,H,W,C), of any memory order, through its channels-last view: (B,H',W',C') contiguous."""
    if PATCHES.takes(x, conv):
        return patchify(x, conv.weight, conv.bias)  # pyright: ignore[reportArgumentType]  `suits` made sure
    return conv(x.contiguous().permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()
