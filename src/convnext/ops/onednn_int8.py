"""Inference on a CPU in int8: a block's LayerNorm and two linear layers, by oneDNN's operators for quantised products.

Activations are u8 with one step and zero point for all of a tensor, weights s8 with a step for each output; sums are exact
in 32 bits. GELU and its rounding back to u8 cost no pass over memory, nor does the residual. PyTorch calls the operators
private; so `lacking` tries them once, with values that overflow where the processor has no VNNI.

Legend: M rows, K N features in and out, C channels.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convnext.ops import onednn
from convnext.ops.backend import Form
from convnext.ops.rule import observed

HIGHEST = 255  # of u8
TILE_BYTES = 2 * 2**20  # of a hidden layer that is made and used up piece by piece, without leaving the cache


@dataclass
class Rounded:
    """A linear layer on u8: x w^T + b with x = step * (u8 - zero) and w = scale * s8.

    Attributes:
        weight: (N,K) int8, or packed by `packed`; scale (N,), bias (N,) fp32.
        step, zero: of the input.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor
    step: float
    zero: int

    def __post_init__(self):
        self.zeros = torch.zeros(len(self.bias), dtype=torch.int32, device="cpu")  # zero points of the weights: none

    def packed(self) -> "Rounded":
        """The same with its weight in the order in which oneDNN reads it."""
        weight = self.weight.contiguous()
        return Rounded(_ops().qlinear_prepack(weight, [onednn.ROWS, weight.shape[1]]), *self._rest())

    def plain(self) -> "Rounded":
        """The same with its weight in PyTorch's order."""
        return Rounded(self.weight.to_dense().t().contiguous(), *self._rest()) if self.weight.is_mkldnn else self

    def _rest(self) -> tuple[Tensor, Tensor, float, int]:
        return self.scale, self.bias, self.step, self.zero

    def dequantised(self) -> Tensor:
        """The weight (N,K) in fp32."""
        return self.plain().weight.float() * self.scale[:, None]


def step_and_zero(low: float, high: float) -> tuple[float, int]:
    """The step and zero point with which u8 covers low..high, and 0 exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = max((high - low) / HIGHEST, 1e-12)
    return step, round(-low / step)


def quantize(x: Tensor, step: float, zero: int) -> Tensor:
    """x fp32 -> u8 of the same shape: round(x / step) + zero, to the nearest even, within 0..255."""
    if _one_pass:
        rounded = torch.quantize_per_tensor(x, step, zero, torch.quint8)
        empty: Any = torch.empty(0, dtype=torch.uint8, device=x.device)
        return empty.set_(rounded.untyped_storage(), 0, x.shape)  # its bytes as they are, without a copy
    return (x * (1 / step)).round_().add_(zero).clamp_(0, HIGHEST).to(torch.uint8)


_one_pass = hasattr(torch, "quantize_per_tensor")  # deprecated: without it there are five passes


def linear_gelu(x: Tensor, layer: Rounded, step: float, zero: int) -> Tensor:
    """GELU(x w^T + b), exact (erf), as u8 of that step and zero: x (M,K) u8, layer packed -> (M,N) u8."""
    return _ops().qlinear_pointwise(
        x, layer.step, layer.zero, layer.weight, layer.scale, layer.zeros, layer.bias, step, zero, torch.uint8, "gelu", [], "none"
    )  # fmt: skip


def add_linear(out: Tensor, x: Tensor, layer: Rounded) -> None:
    """Add x w^T + b to `out` in place: x (M,K) u8, layer packed, out (M,N) fp32 or bf16, contiguous."""
    _ops().qlinear_pointwise.binary(
        x, layer.step, layer.zero, layer.weight, layer.scale, layer.zeros, out, layer.bias, 1.0, 0, out.dtype, 1.0, 0, "sum",
        1.0, "none", [], "",
    )  # fmt: skip


def norm_mlp_residual(x: Tensor, y: Tensor, weight: Tensor | None, eps: float, first: Rounded, last: Rounded) -> Tensor:
    """x + last(GELU(first(weight * norm(y)))), piece by piece: x y (B,H,W,C) contiguous fp32 or bf16, weight (C,) -> x's shape.

    Args:
        weight: of LayerNorm over C; None: it has none.
        first, last: packed, 4C of C and C of 4C.
    """
    c, out = x.shape[-1], torch.empty_like(x)
    pieces = max(round(x.numel() // c * len(first.bias) / TILE_BYTES), 1)
    for result, residual, part in zip(*(t.view(-1, c).tensor_split(pieces) for t in (out, x, y)), strict=True):
        result.copy_(residual)
        normed = F.layer_norm(part, (c,), weight, None, eps).float()
        hidden = linear_gelu(quantize(normed, first.step, first.zero), first, last.step, last.zero)
        add_linear(result, hidden, last)
    return out


def lacking() -> str:
    """Say in a sentence what is missing here for these operators; empty if they can be used."""
    global _lacking
    if _lacking is None:
        if not (torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()):
            _lacking = (
                "int8 needs a processor that multiplies bytes by itself (AVX-512 VNNI or AMX), and this one does not."
            )
        elif observed():
            return "int8 cannot be tried while something watches PyTorch's operations."
        else:
            with torch.inference_mode(), torch.autocast("cpu", enabled=False), torch.device("cpu"):
                works = _trial()
            _lacking = (
                ""
                if works
                else f"int8 needs oneDNN's quantised products, which PyTorch {torch.__version__} lacks here."
            )
    return _lacking


_lacking: str | None = None


def _trial() -> bool:
    """True if the operators compute what they should on small tensors, which are not drawn from any generator."""
    x = torch.arange(128).mul(2.4).sin().view(8, 16).mul(3)
    w = torch.arange(256).mul(1.7).cos().view(16, 16).mul(300).clamp(-127, 127).round()
    scale, bias = torch.arange(1, 17) / 4096, torch.arange(16) / 16
    step, zero = step_and_zero(-3, 3)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that quantised tensors will go; said once in a process
            rounded = quantize(x, step, zero)
        layer = Rounded(w.to(torch.int8), scale, bias, step, zero)
        real = (rounded.float() - zero) * step
        expected = F.linear(real, layer.dequantised(), bias)
        packed, low, high = layer.packed(), *step_and_zero(-0.2, 4)
        hidden = linear_gelu(rounded, packed, low, high)
        out = torch.ones(8, 16)
        add_linear(out, rounded, packed)
    except (RuntimeError, AttributeError, TypeError):  # another PyTorch: not there, or called otherwise
        return False
    return (
        bool((real - x).abs().max() < 0.51 * step)
        and torch.allclose(out, expected + 1, 1e-4, 1e-4)
        and bool(((hidden.float() - high) * low - F.gelu(expected).clamp(max=4)).abs().max() < 0.6 * low)
        and torch.equal(packed.plain().weight, layer.weight)
    )


def _cannot(x: Tensor) -> str:
    if torch.is_autocast_enabled("cpu"):
        return "autocast chooses the type of each operation"
    return "the tensor is empty" if x.numel() == 0 else lacking()


INT8 = Form("int8", pays=lambda x: x.is_cpu and not torch.is_grad_enabled(), cannot=_cannot)
"""The operators of this file on x (..., C): on a CPU, where no gradient is asked for."""


def _ops():
    return torch.ops.onednn


def rounded_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 (N,K), scale (N,) fp32) of weight (N,K): 127 steps to either side, for each output."""
    scale = weight.abs().amax(1).clamp(min=1e-12) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale.float()
