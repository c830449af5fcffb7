"""A block in int8, and how its layers are rounded: ranges and scales from what flows through them on real images.

LayerNorm's channels differ in size, and one step for all of them loses the small ones. So each channel may be divided by a
factor that goes into the next layer's weights (SmoothQuant, Xiao et al., 2023), which costs nothing: it is LayerNorm's weight.
Ranges are cut where that lowers the error of the layer's outputs.

Legend: K N features in and out, R rows, C channels, B batch, H W height and width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.models.block import Block
from convnext.models.packed import Packed, folded
from convnext.ops import depthwise, mlp, onednn, onednn_int8
from convnext.ops.onednn_int8 import HIGHEST, Rounded, rounded_weight, step_and_zero

ROWS = 512  # of a layer's input, on which the error of its outputs is measured
CUTS = (1.0, 0.85, 0.7, 0.55, 0.4)  # of a range
BATCH = 8  # calibration images at once


@dataclass
class RoundedBlock:
    """The layers of a block in int8, and the factors by which LayerNorm's channels are multiplied, (C,) or None."""

    first: Rounded
    last: Rounded
    factors: Tensor | None


class Int8Block(Packed):
    """A folded block (`models.fold`) whose two linear layers multiply bytes; the depthwise convolution does not."""

    def __init__(self, block: Block, rounded: RoundedBlock, dtype: torch.dtype):
        """`dtype` is that of all but the products: fp32 or bf16."""
        conv, norm = block.dwconv, folded(block)
        assert norm is not None and conv.bias is not None  # noqa: PT018  `blocks_of` made sure
        self.eps, self.factors = norm.eps, rounded.factors
        self.layers = rounded.first, rounded.last
        super().__init__((onednn.pack_depthwise, conv.weight.detach().to(dtype), conv.bias.detach().to(dtype)))

    def pack(self) -> None:
        super().pack()
        if not onednn_int8.lacking():
            self.layers = tuple(layer if layer.weight.is_mkldnn else layer.packed() for layer in self.layers)

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"layers": tuple(layer.plain() for layer in self.layers)}

    def forward(self, x: Tensor) -> Tensor:
        """(B,H,W,C) both ways. Where the operators do not serve (`INT8.takes`), its weights as floating-point numbers."""
        (kernel,), (bias,), (first, last) = self.weights, self.biases, self.layers
        assert bias is not None
        if onednn_int8.INT8.takes(x):
            y = onednn.depthwise(x, kernel, bias)
            return onednn_int8.norm_mlp_residual(x, y, self.factors, self.eps, first, last)
        (kernel,) = self.plain()
        y = depthwise.reference(x, kernel, bias)
        y = F.layer_norm(y, x.shape[-1:], None if self.factors is None else self.factors.to(x.dtype), eps=self.eps)
        w1, b1, w2, b2 = (t.to(x.dtype) for layer in self.layers for t in (layer.dequantised(), layer.bias))
        return mlp.reference(x, y, w1, b1, w2, b2, None, None)


class Observed:
    """A record of what flows through a block's linear layers.

    Attributes:
        normed (R,C), hidden (R,4C): rows of the two inputs.
        low, high: (C,) the extremes of each channel of the first; highest: of the second.
    """

    def __init__(self, block: Block, rows: int):
        """Begin to watch; `rows`: how many of each image are kept."""
        c = block.dwconv.in_channels
        self.rows, self.parts = rows, ([], [])
        self.low, self.high, self.highest = torch.zeros(c), torch.zeros(c), 0.0
        self.hooks = [
            block.pwconv1.register_forward_pre_hook(lambda _, given: self.see(0, given[0])),
            block.pwconv2.register_forward_pre_hook(lambda _, given: self.see(1, given[0])),
        ]

    def see(self, i: int, x: Tensor) -> None:
        """Take note of the input x (B,H,W,K) of layer i."""
        flat = x.reshape(len(x), -1, x.shape[-1])
        apart = max(flat.shape[1] // self.rows, 1)
        positions = (torch.arange(self.rows) * apart + len(self.parts[i]) % apart).clamp(max=flat.shape[1] - 1)
        self.parts[i].append(flat[:, positions].flatten(0, 1))
        if i == 0:
            self.low = torch.minimum(self.low, flat.amin((0, 1)))
            self.high = torch.maximum(self.high, flat.amax((0, 1)))
        else:
            self.highest = max(self.highest, float(flat.max()))

    def end(self) -> None:
        """Watch no more."""
        for hook in self.hooks:
            hook.remove()
        self.normed, self.hidden = (torch.cat(parts) for parts in self.parts)


@torch.no_grad()
def observe(model: nn.Module, blocks: Sequence[Block], images: Sequence[Tensor]) -> list[Observed]:
    """Record what flows through the blocks of a folded fp32 model on images (3,H,W)."""
    found = [Observed(block, -(-ROWS // len(images))) for block in blocks]
    try:
        for x in batches(images):
            model(x)
    finally:
        for each in found:
            each.end()
    return found


def batches(images: Sequence[Tensor]) -> Iterator[Tensor]:
    """Batches (B,3,H,W) of images (3,H,W) that follow each other and have one size."""
    for _, alike in groupby(images, lambda image: image.shape):
        yield from torch.stack(list(alike)).split(BATCH)


@torch.no_grad()
def rounded_block(block: Block, seen: Observed, smoothing: float, cuts: Sequence[float] = CUTS) -> RoundedBlock:
    """The block's layers rounded.

    Args:
        smoothing: how much of the channels' differences the weights take over: 0 none, 1 all.
        cuts: shares of the ranges to choose from.
    """
    w1, normed, low, high, factors = block.pwconv1.weight, seen.normed, seen.low, seen.high, None
    if smoothing:
        size = torch.maximum(-low, high).clamp(min=1e-5)
        factors = w1.abs().amax(0).clamp(min=1e-5) ** (1 - smoothing) / size**smoothing
        factors = factors / factors.log().mean().exp()
        w1, normed, low, high = w1 / factors, normed * factors, low * factors, high * factors
    ends = float(low.min()), float(high.max())
    first = _rounded(w1, block.pwconv1.bias, normed, [(cut * ends[0], cut * ends[1]) for cut in cuts])
    lowest = float(seen.hidden.min())
    ranges = [(lowest, cut * seen.highest) for cut in cuts]
    return RoundedBlock(first, _rounded(block.pwconv2.weight, block.pwconv2.bias, seen.hidden, ranges), factors)


def _rounded(weight: Tensor, bias: Tensor, x: Tensor, ranges: Sequence[tuple[float, float]]) -> Rounded:
    """The layer with the one of some ranges for its input x (R,K) that gives the least error."""
    integers, scale = rounded_weight(weight)
    exact, real, best = F.linear(x, weight), integers.float() * scale[:, None], (float("inf"), 1.0, 0)
    for low, high in ranges:
        step, zero = step_and_zero(low, high)
        levels = ((x / step).round() + zero).clamp(0, HIGHEST)
        lost = float((F.linear((levels - zero) * step, real) - exact).square().mean())
        best = min(best, (lost, step, zero))
    return Rounded(integers, scale, bias.detach().float(), *best[1:])
