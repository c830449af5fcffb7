"""Inference on a CPU: linear layers and convolutions with what follows them in one pass, by oneDNN.

These are the operators that torch.compile puts into the graphs it makes for a CPU, called without compiling. They go to
oneDNN in fp32 too, where `F.linear` takes MKL, which is slower on processors that are not Intel's; GELU and the residual
cost no pass over memory; and weights can be packed once, in the blocked order in which oneDNN reads them.

PyTorch calls them private. So `usable` tries them once against PyTorch's own, and where they are missing or differ nothing
uses them.

Legend: M rows, K N features in and out, B batch, H W height and width, C channels.
"""

import math
from functools import cache
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from convnext.ops.backend import Form
from convnext.ops.rule import observed

ROWS = 1024  # oneDNN picks the packed order for a number of rows; one in the middle of what a network has
PAYS = 0.8  # of fp32's time; processors are at about 0.5, or above 1
TILE_BYTES = 4 * 2**20  # of a hidden layer that is made and used up piece by piece, without leaving the cache


def _pays(x: Tensor) -> bool:
    return x.is_cpu and not torch.is_grad_enabled()


def _cannot(x: Tensor) -> str:
    if torch.is_autocast_enabled("cpu"):
        return "autocast chooses the type of each operation"
    if x.numel() == 0:
        return "the tensor is empty"
    return "" if usable(x.dtype) else f"oneDNN's operators are missing here, or not for {x.dtype}"


ONEDNN = Form("onednn", pays=_pays, cannot=_cannot, counted=True)
"""The operators of this file on x (..., C): on a CPU, where no gradient is asked for."""


def usable(dtype: torch.dtype) -> bool:
    """True if this PyTorch and processor have the operators in this type, fp32 or bf16, and they compute what they should."""
    if dtype not in _usable:
        if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
            return False
        if dtype == torch.bfloat16 and not bf16():
            return False
        if observed():
            return False  # a trial would be observed too, and say nothing about another time
        with torch.inference_mode(), torch.autocast("cpu", enabled=False), torch.device("cpu"):
            _usable[dtype] = _trial(dtype)
    return _usable[dtype]


_usable: dict[torch.dtype, bool] = {}


def _trial(dtype: torch.dtype) -> bool:
    """True if the operators agree with PyTorch's own on small tensors, which are not drawn from any generator."""
    x, w, b = (
        torch.arange(n).mul(2.4).sin().view(shape).to(dtype) for n, shape in ((128, (8, 16)), (256, (16, 16)), (16, 16))
    )
    try:
        expected = F.linear(F.gelu(F.linear(x, w, b)), w, b) + x
        found = linear_add(linear_gelu(x, pack_linear(w), b), w, b, x)
        kernel = torch.ones(16, 1, 7, 7, dtype=dtype)
        maps = x.view(1, 2, 4, 16)
        expected_map = F.conv2d(maps.permute(0, 3, 1, 2), kernel, b, padding=3, groups=16).permute(0, 2, 3, 1)
        found_map = depthwise(maps, pack_depthwise(kernel), b)
    except (RuntimeError, AttributeError, TypeError):  # another PyTorch: not there, or called otherwise
        return False
    rtol, atol = (0.05, 0.5) if dtype == torch.bfloat16 else (1e-4, 1e-4)
    pairs = (found, expected), (found_map, expected_map)
    return all(torch.allclose(one, other, rtol, atol) for one, other in pairs)


@cache
def bf16() -> bool:
    """True if the processor multiplies bf16 by itself."""
    return torch.backends.mkldnn.is_available() and bool(
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def bf16_pays() -> bool:
    """True if it does so faster than fp32, by a trial of some hundredths of a second.

    Not all do: a Xeon with AVX-512's bf16 and without AMX multiplies fp32 half as fast again.
    """
    return bf16() and (observed() or _bf16_faster())  # a trial would be observed too


@cache
def _bf16_faster() -> bool:
    def seconds(dtype: torch.dtype) -> float:
        rows, weight = torch.ones(392, 384, dtype=dtype), torch.ones(1536, 384, dtype=dtype)
        took = []
        for _ in range(4):  # the first makes oneDNN's code
            began = perf_counter()
            F.linear(rows, weight)
            took.append(perf_counter() - began)
        return min(took)

    with torch.inference_mode(), torch.autocast("cpu", enabled=False), torch.device("cpu"):
        return seconds(torch.bfloat16) < PAYS * seconds(torch.float32)


def pack_linear(weight: Tensor) -> Tensor:
    """weight (N,K) in the order in which oneDNN reads it; only the functions of this file can take it."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU(x w^T + b), exact (erf): x (M,K), weight (N,K) plain or packed, bias (N,) -> (M,N)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")


def linear_add(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """x w^T + b + residual: x (M,K), weight (N,K) plain or packed, bias (N,), residual (M,N) -> (M,N)."""
    return torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x w^T + b: x (M,K), weight (N,K) plain or packed, bias (N,) -> (M,N)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def pack_depthwise(weight: Tensor) -> Tensor:
    """weight (C,1,K,K) in oneDNN's order, for `depthwise`. The order is the same for every height and width, as that of
    other convolutions is not: packed for another map than they meet, those are repacked at every call."""
    c, pad = len(weight), weight.shape[-1] // 2
    return torch.ops.mkldnn._reorder_convolution_weight(weight, [pad] * 2, [1, 1], [1, 1], c, [1, c, 56, 56])


def depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (B,H,W,C), weight (C,1,K,K) with K odd, plain or packed, bias (C,) -> (B,H,W,C), stride 1, zero padding K // 2."""
    pad = [weight.shape[-1] // 2] * 2
    y = torch.ops.mkldnn._convolution_pointwise(
        x.permute(0, 3, 1, 2), weight, bias, pad, [1, 1], [1, 1], len(bias), "none", [], ""
    )
    return y.permute(0, 2, 3, 1).contiguous()


def mlp_residual(
    x: Tensor, y: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gamma: Tensor | None = None
) -> Tensor:
    """x + gamma * (GELU(y w1^T + b1) w2^T + b2), (B,H,W,C) contiguous, w1 (4C,C) and w2 (C,4C) plain or packed.

    The hidden layer is made in pieces of `TILE_BYTES`: whole, it would be allocated and touched anew in every block.
    """
    rows, branch = x.view(-1, x.shape[-1]), y.reshape(-1, x.shape[-1])

    def compute(branch: Tensor, residual: Tensor) -> Tensor:
        hidden = linear_gelu(branch, w1, b1)
        if gamma is None:
            return linear_add(hidden, w2, b2, residual)
        return torch.addcmul(residual, linear(hidden, w2, b2), gamma)

    pieces = round(len(rows) * len(b1) * x.element_size() / TILE_BYTES)
    if pieces <= 1:
        return compute(branch, rows).view(x.shape)
    out = torch.empty_like(x)
    for result, *given in zip(*(t.tensor_split(pieces) for t in (out.view(rows.shape), branch, rows)), strict=True):
        result.copy_(compute(*given))
    return out


if torch.backends.mkldnn.is_available():

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def linear_flops(x_shape, *given, out_shape, **kwargs) -> int:
        """Two per multiply-accumulate; what is fused behind the product is not counted, as nowhere in PyTorch."""
        return 2 * math.prod(x_shape) * out_shape[-1]

    @register_flop_formula(torch.ops.mkldnn._convolution_pointwise)
    def convolution_flops(x_shape, weight_shape, *given, out_shape, **kwargs) -> int:
        """Two per multiply-accumulate: x (B,C,H,W), weight (D,C / groups,K,K), out (B,D,H',W')."""
        return 2 * math.prod(out_shape) * math.prod(weight_shape[1:])
