"""Backward of `convnext.ops.mlp`: the two elementwise passes over the hidden layer, inside the products next to them.

With u = scale * g, z the pre-activation and a = GELU(z):

    dz = (u gamma) w2 * GELU'(z)     dy = dz w1     dw1 = dz^T y     db1 = sum dz
    G = u^T a     dw2 = gamma G     db2 = gamma sum u     dgamma = rows of (G * w2) summed + b2 sum u

so that the branch's output is not needed. A kernel makes dz and scale * a from z, or from y when z was not kept, and up
to FUSED channels dy on the way. The weight gradients sum over all pixels: on the chip they would need 8 C^2 fp32
accumulators in every program, or both products again in programs that each own a slice of the weights. Reading dz and a
back costs less than that at every width, and a plain product of two matrices is what cuBLAS splits and sums best.

LayerScale starts at 1e-6, which times a weight is nothing in fp16; so gamma / peak goes into w2, and peak = max |gamma|
into the fp32 epilogue. Legend: that of `elements.py`.
"""
# pyright: basic, reportArgumentType=false
# Triton's constants have types of their own

import torch
import triton
import triton.language as tl
from torch import Tensor

from convnext.ops._triton import Variant, mlp, products
from convnext.ops._triton.device import device_of, variant
from convnext.ops._triton.elements import dot, normal_cdf
from convnext.ops._triton.mlp import fused_tiles
from convnext.ops._triton.products import KEPT, product, product_tiles, tile, tiles

FUSED = 128  # channels up to which dy is made in the same kernel; above, its accumulators do not fit


@triton.jit
def hidden_gradient(z, dh, factor, peak_, EXACT: tl.constexpr):
    """(dz, scale * GELU(z)) of a tile from its z and (g gamma / peak) w2, all fp32; factor (BM,) is the scale of its rows."""
    p = normal_cdf(z, EXACT)
    slope = p + z * 0.3989422804014327 * tl.exp2(z * z * -0.7213475204444817)  # z / sqrt(2 pi) * exp(-z^2 / 2)
    a = z * p
    if factor is not None:
        a *= factor[:, None]
        dh *= factor[:, None]
    if peak_ is not None:
        dh *= tl.load(peak_)
    return dh * slope, a


@triton.jit(do_not_specialize=["M", "P"])
def fused_backward(
    g_, y_, z_, w1_, b1_, w2_, scale_, peak_, dy_, dz_, a_, db1_, M, P,
    C: tl.constexpr, C0: tl.constexpr, C1: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    """dy, dz, scale * a and this program's part of db1 for BM rows; z_ is None if it is to be made from y again.

    w2_ is (4C,C): gamma / peak * w2, transposed.
    """
    i = tl.program_id(0)
    m = i * BM + tl.arange(0, BM)
    inside = (m < M)[:, None]
    row = m.to(tl.int64)[:, None]
    factor = None
    if scale_ is not None:
        factor = tl.load(scale_ + m // P, mask=m < M, other=0.0).to(tl.float32)
    c0 = tl.arange(0, C0)
    at0 = row * C + c0[None, :]
    g0 = tl.load(g_ + at0, mask=inside, other=0.0)
    dy0 = tl.zeros((BM, C0), tl.float32)
    if z_ is None:
        y0 = tl.load(y_ + at0, mask=inside, other=0.0)
    if C1:
        c1 = C0 + tl.arange(0, C1)
        at1 = row * C + c1[None, :]
        inside1 = inside & (c1 < C)[None, :]
        g1 = tl.load(g_ + at1, mask=inside1, other=0.0)
        dy1 = tl.zeros((BM, C1), tl.float32)
        if z_ is None:
            y1 = tl.load(y_ + at1, mask=inside1, other=0.0)
    for start in range(0, 4 * C, BH):
        h = start + tl.arange(0, BH)
        at = row * (4 * C) + h[None, :]
        u0 = tl.load(w1_ + h[:, None] * C + c0[None, :])  # (BH, C0)
        dh = dot(g0, tl.load(w2_ + h[:, None] * C + c0[None, :]))
        if C1:
            u1 = tl.load(w1_ + h[:, None] * C + c1[None, :], mask=(c1 < C)[None, :], other=0.0)
            dh = dot(g1, tl.load(w2_ + h[:, None] * C + c1[None, :], mask=(c1 < C)[None, :], other=0.0), dh)
        if z_ is None:
            z = dot(y0, u0)
            if C1:
                z = dot(y1, u1, z)
            z = (z + tl.load(b1_ + h).to(tl.float32)[None, :]).to(g0.dtype).to(tl.float32)  # as a kept one is
        else:
            z = tl.load(z_ + at, mask=inside, other=0.0).to(tl.float32)
        dz, a = hidden_gradient(z, dh, factor, peak_, g0.dtype == tl.float32)
        tl.store(db1_ + i * (4 * C) + h, tl.sum(dz, 0))  # rows beyond M have g = 0
        d = dz.to(g0.dtype)
        tl.store(dz_ + at, d, mask=inside)
        tl.store(a_ + at, a.to(g0.dtype), mask=inside)
        dy0 = dot(d, tl.trans(u0), dy0)
        if C1:
            dy1 = dot(d, tl.trans(u1), dy1)
    tl.store(dy_ + at0, dy0.to(g0.dtype), mask=inside)
    if C1:
        tl.store(dy_ + at1, dy1.to(g0.dtype), mask=inside1)


@triton.jit(do_not_specialize=["M", "P"])
def wide_backward(
    g_, y_, z_, w1_, b1_, w2_, scale_, peak_, dz_, a_, db1_, M, P, C: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One tile of dz and scale * a, and its part of db1; arguments as those of `fused_backward`."""
    i, m, first = tile(M, 4 * C, BM, BN)
    n = first + tl.arange(0, BN)
    at = m.to(tl.int64)[:, None] * (4 * C) + n[None, :]
    inside = (m < M)[:, None] & (n < 4 * C)[None, :]
    dtype: tl.constexpr = dz_.dtype.element_ty
    if z_ is None:
        z = product(y_, w1_, m, n, M, 4 * C, C, BM, BN, BK)
        z = (z + tl.load(b1_ + n, mask=n < 4 * C, other=0.0).to(tl.float32)[None, :]).to(dtype)
    dh = product(g_, w2_, m, n, M, 4 * C, C, BM, BN, BK)
    if z_ is not None:
        z = tl.load(z_ + at, mask=inside, other=0.0)
    factor = None
    if scale_ is not None:
        factor = tl.load(scale_ + m // P, mask=m < M, other=0.0).to(tl.float32)
    dz, a = hidden_gradient(z.to(tl.float32), dh, factor, peak_, dtype == tl.float32)
    tl.store(db1_ + i * (4 * C) + n, tl.sum(dz, 0), mask=n < 4 * C)
    tl.store(dz_ + at, dz.to(dtype), mask=inside)
    tl.store(a_ + at, a.to(dtype), mask=inside)


def backward(
    g: Tensor, y: Tensor, z: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor,
    gamma: Tensor | None, scale: Tensor | None, need_weights: bool = True,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """(dy, dw1, db1, dw2, db2, dgamma); dy has y's dtype, the others are fp32, or None where not needed or not there.

    g, w1 and w2 have y's dtype and all are contiguous; z is (M,4C), or None if the forward did not keep it.
    """
    channels, rows = y.shape[-1], y.numel() // y.shape[-1]
    pixels = rows // max(len(y), 1)
    peak, weight = None, w2
    if gamma is not None:
        gamma = gamma.float()
        peak = gamma.abs().amax().clamp_min(1e-30)
        weight = w2 * (gamma / peak)[:, None]
    weight = weight.t().to(y.dtype).contiguous()  # (4C, C)
    dz, a = y.new_empty(2, rows, 4 * channels)
    dy = torch.empty_like(y)
    fused = channels <= FUSED
    options = (
        fused_tiles(channels, y.dtype, "backward", device_of(y.device)) if fused else product_tiles(y.dtype, columns=64)
    )
    db1 = y.new_empty(triton.cdiv(rows, options["BM"]), 4 * channels, dtype=torch.float32)
    if rows and fused:
        grid = (len(db1),)
        fused_backward[grid](g, y, z, w1, b1, weight, scale, peak, dy, dz, a, db1, rows, pixels, **options)
    elif rows:
        grid = tiles(rows, 4 * channels, options)
        wide_backward[grid](g, y, z, w1, b1, weight, scale, peak, dz, a, db1, rows, pixels, channels, **options)
        torch.mm(dz, w1, out=dy.view(rows, channels))
    if not need_weights:
        return dy, None, None, None, None, None
    sums = g.sum((1, 2), dtype=torch.float32)  # (B, C)
    sums = sums.sum(0) if scale is None else (scale.float()[:, None] * sums).sum(0)
    dw1, dw2 = transposed_product(dz, y.view(rows, channels)), transposed_product(g.view(rows, channels), a)
    if gamma is None:
        return dy, dw1, db1.sum(0), dw2, sums, None
    dgamma = (dw2 * w2).sum(1) + b2 * sums
    return dy, dw1, db1.sum(0), gamma[:, None] * dw2, gamma * sums, dgamma


def transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """a (M,I), b (M,J) -> a^T b (I,J) in fp32, not rounded to their dtype in between."""
    if a.dtype != torch.float32 and a.is_cuda:
        return torch.mm(a.t(), b, out_dtype=torch.float32)
    return a.t().float() @ b.float()


def variants() -> list[Variant]:
    """bf16, with LayerScale and drop-path; "keep" reads the pre-activation that the forward kept."""
    found, half = [], torch.bfloat16
    names = ("g_", "y_", "z_", "w1_", "b1_", "w2_", "scale_", "peak_", "dy_", "dz_", "a_", "db1_")
    fused = dict.fromkeys(names, "*bf16") | dict.fromkeys(("b1_", "scale_", "peak_", "db1_"), "*fp32")
    wide = {k: v for k, v in fused.items() if k != "dy_"}
    for c in (*mlp.WIDTHS, *products.WIDTHS):
        for name, absent in KEPT.items():
            if c <= FUSED:
                launch = fused_tiles(c, half, "backward")
                found.append(variant(f"backward{name}_{c}", fused_backward, launch, fused, absent))
            else:
                launch = product_tiles(half, columns=64)
                found.append(variant(f"backward{name}_{c}", wide_backward, launch, wide, absent, C=c))
    return found


VARIANTS = variants()
