"""3x3 convolutions of many channels: PyTorch's, and for training on a CPU one with a quarter of the multiplications.

Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, "Fast Algorithms for Convolutional Networks", CVPR 2016): 6x6
tiles of the input give 4x4 tiles of the output by 36 matrix products. Twice as fast forward and backward as oneDNN's
direct convolution at the sizes of the pyramid and of the heads, four times as fast as its channels-last backward; rounding
is 4 times larger (7e-6 of the largest value), so predictions use PyTorch's.

Legend: B batch, C D channels in and out, H W of the map, t u tiles down and across, T = B t u.
"""

from collections.abc import Sequence
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.ops.backend import Form
from convnext.ops.rule import geometry, intact

FEWEST_TILES = 40  # below, the transforms of the weights cost more than is saved
FEWEST_CHANNELS = 64

# for the points 0, 1, -1, 2, -2 and infinity: input, weight and output transforms of one axis
_INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_WEIGHT = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


def _both_axes(matrix: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """The transform of a tile whose pixels are in one row: (36, 36), (36, 9) or (16, 36)."""
    one = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(one, one).to(like)


def conv3x3(conv: nn.Module, x: Tensor) -> Tensor:
    """`conv(x)` for x (B, C, H, W)."""
    return winograd(x, conv.weight, conv.bias) if WINOGRAD.takes(x, conv) else conv(x)  # pyright: ignore[reportArgumentType]


def worthwhile(x: Tensor, conv: nn.Module) -> bool:
    """True if Winograd's form is the faster one: a training step on a CPU in fp32, and many channels and tiles."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.is_grad_enabled()
        and len(x) * (-(-x.shape[2] // 4)) * (-(-x.shape[3] // 4)) >= FEWEST_TILES
        and suits(conv)
        and (x.requires_grad or conv.weight.requires_grad)
        and not torch.is_autocast_enabled("cpu")
    )


def suits(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """True for an intact fp32 convolution of 3x3 that keeps H and W, with many channels in and out."""
    return (
        intact(conv, nn.Conv2d)
        and geometry(conv) == ((3, 3), (1, 1), (1, 1), (1, 1), "zeros")
        and conv.groups == 1
        and conv.weight.dtype == torch.float32
        and min(conv.in_channels, conv.out_channels) >= FEWEST_CHANNELS
    )


WINOGRAD = Form("winograd", pays=worthwhile)


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, C, H, W), weight (D, C, 3, 3), bias (D,) or None -> (B, D, H, W), channels last; zero padding 1."""
    return _Winograd.apply(x, weight, bias).permute(0, 3, 1, 2)


class _Winograd(torch.autograd.Function):
    """(B, C, H, W) -> (B, H, W, D)."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        b, c, h, w = x.shape
        t, u, d = -(-h // 4), -(-w // 4), len(weight)
        tiles = (_both_axes(_INPUT, x) @ _cut(x.permute(0, 2, 3, 1), t, u)).view(36, -1, c)
        taps = (_both_axes(_WEIGHT, x) @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, c, d)
        y = (_both_axes(_OUTPUT, x) @ (tiles @ taps).view(36, -1)).view(4, 4, b, t, u, d)
        y = y.permute(2, 3, 0, 4, 1, 5).reshape(b, 4 * t, 4 * u, d)[:, :h, :w]
        ctx.save_for_backward(tiles, taps)
        ctx.shape = (b, h, w, c)
        return y.contiguous() if bias is None else y + bias

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        tiles, taps = ctx.saved_tensors
        b, h, w, c = ctx.shape
        t, u, d = -(-h // 4), -(-w // 4), taps.shape[2]
        need_x, need_weight, need_bias = ctx.needs_input_grad
        padded = F.pad(grad, (0, 0, 0, 4 * u - w, 0, 4 * t - h)).view(b, t, 4, u, 4, d)
        products = (_both_axes(_OUTPUT, grad).T @ padded.permute(2, 4, 0, 1, 3, 5).reshape(16, -1)).view(36, -1, d)
        grad_x = grad_weight = None
        if need_x:
            pieces = _both_axes(_INPUT, grad).T @ (products @ taps.mT).view(36, -1)
            grad_x = _add_up(pieces, ctx.shape, t, u).permute(0, 3, 1, 2)
        if need_weight:
            taps_grad = _both_axes(_WEIGHT, grad).T @ (tiles.mT @ products).view(36, -1)
            grad_weight = taps_grad.view(3, 3, c, d).permute(3, 2, 0, 1)
        return grad_x, grad_weight, grad.sum((0, 1, 2)) if need_bias else None


def _cut(x: Tensor, t: int, u: int) -> Tensor:
    """(B, H, W, C) -> (36, T C): 6x6 tiles that overlap by 2, from one pixel before the map on."""
    b, h, w, c = x.shape
    x = F.pad(x, (0, 0, 1, 4 * u + 1 - w, 1, 4 * t + 1 - h))
    tiles = x.new_empty(6, 6, b, t, u, c)
    for i in range(6):
        for j in range(6):
            tiles[i, j] = x[:, i : i + 4 * t - 3 : 4, j : j + 4 * u - 3 : 4]
    return tiles.view(36, -1)


def _add_up(tiles: Tensor, shape: tuple[int, ...], t: int, u: int) -> Tensor:
    """The transpose of `_cut`."""
    b, h, w, c = shape
    x = tiles.new_zeros(b, 4 * t + 2, 4 * u + 2, c)
    for (i, j), tile in zip(((i, j) for i in range(6) for j in range(6)), tiles.view(36, b, t, u, c), strict=True):
        x[:, i : i + 4 * t - 3 : 4, j : j + 4 * u - 3 : 4] += tile
    return x[:, 1 : h + 1, 1 : w + 1]
