"""Forward kernels of `convnext.ops.mlp`: x + scale * gamma * (GELU(y w1^T + b1) w2^T + b2).

Up to FUSED channels one kernel does everything: a program keeps BM rows of the output in registers and walks over the
hidden layer BH units at a time, so that the 4C-wide tensor never leaves the chip. Such a width is seldom a power of
two, which is what a tile must be: it is the sum of two, C0 + C1 (96 = 64 + 32), each with its own accumulator, and no
lane works for nothing. Above, `products.py` makes it of two matrix products.

Products accumulate in fp32; GELU, biases, factors and the residual are fp32 too. No atomics: the same bits every time.

Legend: that of `elements.py`; BM BH the sides of a tile.
"""
# pyright: basic, reportArgumentType=false
# Triton's constants have types of their own

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from convnext.errors import ConvNextError
from convnext.ops._triton import Variant, products
from convnext.ops._triton.device import H100, LITTLE, Device, device_of, measured, variant
from convnext.ops._triton.elements import dot, finish, normal_cdf
from convnext.ops._triton.products import KEPT, RESIDUALS

FUSED = 192  # channels up to which the hidden layer stays on the chip


@triton.jit(do_not_specialize=["M", "P"])
def fused_forward(
    x_, y_, w1_, b1_, w2_, b2_, gamma_, scale_, out_, twin_, z_, M, P,
    C: tl.constexpr, C0: tl.constexpr, C1: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    """The whole of it for BM rows; z_ is None unless the pre-activation (M,4C) is to be kept."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    inside = (m < M)[:, None]
    row = m.to(tl.int64)[:, None]
    c0 = tl.arange(0, C0)
    y0 = tl.load(y_ + row * C + c0[None, :], mask=inside, other=0.0)
    acc0 = tl.zeros((BM, C0), tl.float32)
    if C1:
        c1 = C0 + tl.arange(0, C1)
        y1 = tl.load(y_ + row * C + c1[None, :], mask=inside & (c1 < C)[None, :], other=0.0)
        acc1 = tl.zeros((BM, C1), tl.float32)
    for start in range(0, 4 * C, BH):
        h = start + tl.arange(0, BH)
        w = tl.load(w1_ + h[:, None] * C + c0[None, :])  # (BH, C0)
        z = dot(y0, w)
        if C1:
            w = tl.load(w1_ + h[:, None] * C + c1[None, :], mask=(c1 < C)[None, :], other=0.0)
            z = dot(y1, w, z)
        z += tl.load(b1_ + h).to(tl.float32)[None, :]
        if z_ is not None:
            tl.store(z_ + row * (4 * C) + h[None, :], z.to(z_.dtype.element_ty), mask=inside)
        a = (z * normal_cdf(z, y0.dtype == tl.float32)).to(y0.dtype)  # (BM, BH), the hidden layer
        w = tl.load(w2_ + c0[:, None] * (4 * C) + h[None, :])  # (C0, BH)
        acc0 = dot(a, w, acc0)
        if C1:
            w = tl.load(w2_ + c1[:, None] * (4 * C) + h[None, :], mask=(c1 < C)[:, None], other=0.0)
            acc1 = dot(a, w, acc1)
    finish(acc0, x_, b2_, gamma_, scale_, out_, twin_, m, 0, M, P, C, BM, C0)
    if C1:
        finish(acc1, x_, b2_, gamma_, scale_, out_, twin_, m, C0, M, P, C, BM, C1)


class Tile(NamedTuple):
    """BM rows of the output, BH hidden units at a time, and how it is launched."""

    BM: int
    BH: int
    num_warps: int
    num_stages: int

    def shared(self, channels: int, form: str) -> int:
        """Bytes of shared memory in half precision, as the compiler comes to: both weights per stage, y, the kept z."""
        kept = self.BM * self.BH if form == "training" else 0
        return 2 * (2 * self.num_stages * self.BH * channels + self.BM * channels + kept) + 512


# {form: {channels up to which: tiles, the best first}}, chosen by what `benchmarks/compile_kernels.py` counts: no spills, then
# warps per multiprocessor and the issue slots of a warp of hidden units. The second is for less shared memory, and for hidden
# layers that are no multiple of 64.
TALL = (
    200 << 10
)  # bytes of shared memory of the devices for which tiles of 128 rows stay in registers; for sm_80 and sm_120 some spill
WIDE = (Tile(128, 64, 8, 2), Tile(64, 32, 4, 2))
TILES = {
    "inference": {128: (Tile(128, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 32, 4, 3)), 192: WIDE},
    "training": {128: (Tile(64, 32, 4, 3),), 192: WIDE},
    "backward": {128: (Tile(64, 32, 4, 3), Tile(64, 32, 4, 2))},
}


def split(channels: int) -> tuple[int, int]:
    """Two powers of two, at least 16 or none, that cover the channels: 96 -> (64, 32), 128 -> (128, 0), 40 -> (32, 16)."""
    first = 1 << (channels.bit_length() - 1)
    rest = channels - first
    return (first, max(triton.next_power_of_2(rest), 16)) if rest else (first, 0)


def fused_tiles(channels: int, dtype: torch.dtype, form: str = "inference", device: Device = H100) -> dict[str, int]:
    """Tile and launch options of a fused kernel: the fastest on this device where that was measured, else the best by count.

    `form`: "inference", "training" (the pre-activation is stored too, or the residual is fp32), "backward". fp32 takes small
    tiles, without tensor cores. Raises ConvNextError if none fits into the shared memory.
    """
    c0, c1 = split(channels)
    options = {"C": channels, "C0": c0, "C1": c1, "enable_fp_fusion": True}
    if dtype == torch.float32:
        return options | {"BM": 32, "BH": 32, "num_warps": 8, "num_stages": 2}
    if best := measured().get(device.name, {}).get(form, {}).get(str(channels)):
        return options | Tile(*best)._asdict()
    widths = TILES[form]
    for tile in widths[min(width for width in widths if width >= channels)]:
        if tile.BM >= 128 and device.shared < TALL:
            continue
        if 4 * channels % tile.BH == 0 and tile.shared(c0 + c1, form) <= device.shared:
            return options | tile._asdict()
    raise ConvNextError(
        f"no tile of the fused MLP of {channels} channels fits into the {device.shared >> 10} KiB of shared memory of this "
        'device; `backend("reference")` runs PyTorch\'s own operations.'
    )


def widest(form: str, device: Device) -> int:
    """Channels up to which the hidden layer stays on the chip: FUSED, or less where that was measured to be faster."""
    return measured().get(device.name, {}).get("fused", {}).get(form, FUSED)


def forward(
    x: Tensor, y: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gamma: Tensor | None, scale: Tensor | None,
    keep: bool, dtype: torch.dtype | None = None, pair: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """(out like x, or of `dtype`; pre-activation (M,4C) of y's dtype if `keep`; out in y's dtype if `pair`).

    w1 and w2 have y's dtype, all are contiguous.
    """
    channels, rows = y.shape[-1], y.numel() // y.shape[-1]
    pixels = rows // max(len(y), 1)
    out = torch.empty_like(x, dtype=dtype)
    twin = torch.empty_like(y) if pair else None
    if rows == 0:
        return out, y.new_empty(0, 4 * channels) if keep else None, twin
    form = "training" if keep or out.dtype != y.dtype else "inference"
    device = device_of(y.device)
    if channels <= widest(form, device):
        z = y.new_empty(rows, 4 * channels) if keep else None
        options = fused_tiles(channels, y.dtype, form, device)
        grid = (triton.cdiv(rows, options["BM"]),)
        fused_forward[grid](x, y, w1, b1, w2, b2, gamma, scale, out, twin, z, rows, pixels, **options)
        return out, z, twin
    hidden, z = products.expanded(y, w1, b1, keep)
    products.projected(hidden, w2, x, b2, gamma, scale, out, twin)
    return out, z, twin


WIDTHS = (40, 80, 96, 128, 160, 192)  # of the paper's models and of smaller ones


def variants() -> list[Variant]:
    """bf16 with LayerScale and drop-path, of a bf16 or, as autocast trains, an fp32 residual.

    "keep" keeps the pre-activation; "little" is the tile of devices with less shared memory, where it is another.
    """
    found, half = [], torch.bfloat16
    small = dict.fromkeys(("b1_", "b2_", "gamma_", "scale_"), "*fp32")
    fused = dict.fromkeys(fused_forward.arg_names[:11], "*bf16") | small
    for c in WIDTHS:
        for name, unkept in KEPT.items():
            for suffix, (types, absent) in RESIDUALS.items():
                if suffix == "_first" and not name:
                    continue
                form = "training" if suffix or name else "inference"
                launch = fused_tiles(c, half, form)
                given = fused | types, absent + unkept
                found.append(variant(f"forward{name}{suffix}_{c}", fused_forward, launch, *given))
                if (little := fused_tiles(c, half, form, LITTLE)) != launch:
                    title = f"forward{name}{suffix}_little_{c}"
                    found.append(variant(title, fused_forward, little, *given))
    return found


VARIANTS = variants()
