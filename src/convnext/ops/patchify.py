"""Convolutions whose stride is their kernel, as one matrix product over gathered patches.

By itself it is taken for a stem only, where cuDNN would have to pad the three colours to the eight channels that its
kernels for tensor cores take. A 2x2 downsampling has such channels, and gathering would write and read its input once more
than cuDNN does (docs/kernels.md). Neither has been timed on a GPU yet.

Legend: B batch, H W height and width, C D channels in and out, K side of the kernel, h w = H // K, W // K.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.ops import backend
from convnext.ops.mlp import compute_dtype

TENSOR_CORES = torch.float16, torch.bfloat16


def patchify(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of x (B,H,W,C), in any memory order, with weight (D,C,K,K) and bias (D,), stride K, no padding:
    (B,h,w,D) contiguous. What is left of H and W beyond a multiple of K is not seen, as in PyTorch's convolution."""
    b, h, w, c = x.shape
    k = weight.shape[-1]
    x = x[:, : h // k * k, : w // k * k].unflatten(2, (w // k, k)).unflatten(1, (h // k, k))  # (B,h,K,w,K,C)
    patches = x.permute(0, 1, 3, 2, 4, 5).reshape(b, h // k, w // k, k * k * c)
    return F.linear(patches, weight.permute(0, 2, 3, 1).reshape(len(weight), -1), bias)


def use(conv: nn.Module, x: Tensor) -> bool:
    """Whether `patchify` stands in for conv on x (B,H,W,C): a stem on a GPU, in half precision or autocast to it."""
    return (
        x.device.type == "cuda"
        and backend.chosen() != "reference"
        and not torch.compiler.is_exporting()
        and compute_dtype(x) in TENSOR_CORES
        and suits(conv)
    )


def suits(conv: nn.Module) -> bool:
    """Whether the convolution is one of patches, with channels that cuDNN pads, and nobody watches it."""
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size == conv.stride == (conv.kernel_size[0],) * 2
        and conv.padding == (0, 0)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.in_channels % 8 != 0
        and not backend.watched(conv)
    )
