"""LayerNorm over the last axis, as other kernels end with it, and its gradient, from the normalised values themselves.

With h = (y - mean) * rstd and z = h * g + b: dy = rstd * (dz g - mean(dz g) - h mean(dz g h)), dg = sum(dz h), db = sum(dz).
Keeping h instead of y and mean costs nothing where there is no affine part (h is the output, which the next layer keeps
anyway), and in bf16 it is the better rounded of the two when |mean| is large.
"""
# Triton's kernels have no types
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# ruff: noqa: RUF005  Triton knows sums of tuples, not unpacking

import torch
import triton
import triton.language as tl
from torch import Tensor

from convnext.ops._triton import Variant

WARPS = 2
PROGRAMS = 2048  # several per multiprocessor on the largest devices
MOST_PARTS = 5  # of the channels; the paper's models have 1 or 3, smaller ones 5


def columns(channels: int, warps: int = WARPS) -> dict[str, int]:
    """How a program takes rows of channels: PARTS tensors (PX, PART), at most 16 values a thread.

    The parts are a few powers of two, which leave no lane idle (96 = 3 x 32) and are added up before one reduction; where
    they would be many, one that is padded.
    """
    part = channels & -channels
    padded = triton.next_power_of_2(channels)
    parts = channels // part
    if parts > MOST_PARTS:
        part, parts = padded, 1
    return {"PART": part, "PARTS": parts, "PX": max(16 * 32 * warps // padded, 1)}


@triton.jit
def zeros(PX: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr):
    """PARTS times fp32 zeros (PX, PART)."""
    out = ()
    for _ in tl.static_range(PARTS):
        out = out + (tl.zeros([PX, PART], tl.float32),)
    return out


@triton.jit
def sum_of(a, PARTS: tl.constexpr):
    """Sum over the channels of tensors (PX, PART): (PX, 1)."""
    total = a[0]
    for k in tl.static_range(1, PARTS):
        total += a[k]
    return tl.sum(total, 1)[:, None]


@triton.jit
def sum_of_products(a, b, PARTS: tl.constexpr):
    """Sum over the channels of a * b, tensors (PX, PART) each: (PX, 1)."""
    total = a[0] * b[0]
    for k in tl.static_range(1, PARTS):
        total += a[k] * b[k]
    return tl.sum(total, 1)[:, None]


@triton.jit
def normalise(
    z_ptr, hat_ptr, rstd_ptr, g_ptr, nb_ptr, pixel, strip, eps, C: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr
):
    """LayerNorm of the pixels (PX, 1) of z where `strip`, in place; the channels are PARTS tensors (PX, PART)."""
    c = tl.arange(0, PART)[None, :]
    inside = strip & (c < C) if PART * PARTS > C else strip
    z = z_ptr + pixel * C + c
    values = ()
    for k in tl.static_range(PARTS):
        values = values + (tl.load(z + k * PART, mask=inside, other=0.0).to(tl.float32),)
    mean = sum_of(values, PARTS) * (1.0 / C)
    centred = ()
    for k in tl.static_range(PARTS):
        centred = centred + (tl.where(inside, values[k] - mean, 0.0) if PART * PARTS > C else values[k] - mean,)
    rstd = tl.rsqrt(sum_of_products(centred, centred, PARTS) * (1.0 / C) + eps)
    if rstd_ptr is not None:
        tl.store(rstd_ptr + pixel, rstd, mask=strip)
    for k in tl.static_range(PARTS):
        hat = centred[k] * rstd
        if hat_ptr is not None:
            tl.store(hat_ptr + pixel * C + c + k * PART, hat.to(hat_ptr.dtype.element_ty), mask=inside)
        if g_ptr is not None:
            known = c < C if PART * PARTS > C else tl.full([1, PART], True, tl.int1)
            hat *= tl.load(g_ptr + c + k * PART, mask=known, other=0.0).to(tl.float32)
            hat += tl.load(nb_ptr + c + k * PART, mask=known, other=0.0).to(tl.float32)
        tl.store(z + k * PART, hat.to(z_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "share"])
def norm_backward_kernel(
    dz_ptr, hat_ptr, rstd_ptr, g_ptr, dy_ptr, partial_ptr, rows, share,
    C: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr, PX: tl.constexpr,
):  # fmt: skip
    """`share` rows (pixels) of C values, PX at a time: dy (rows, C), and the sums for g and b: partial (programs, 2, C).

    A row's channels are PARTS tensors (PX, PART).
    """
    c = tl.arange(0, PART)[None, :]
    known = c < C if PART * PARTS > C else tl.full([1, PART], True, tl.int1)
    begin = tl.program_id(0) * share
    end = min(begin + share, rows)
    g = ()
    for k in tl.static_range(PARTS):
        if g_ptr is not None:
            g = g + (tl.load(g_ptr + c + k * PART, mask=known, other=0.0).to(tl.float32),)
        else:
            g = g + (1.0,)
    dg = zeros(PX, PART, PARTS)
    db = zeros(PX, PART, PARTS)
    for at in range(begin, end, PX):
        row = (at + tl.arange(0, PX)[:, None]).to(tl.int64)  # (PX, 1)
        inside = (row < end) & known
        here = row * C + c
        rstd = tl.load(rstd_ptr + row, mask=row < end, other=0.0)
        hat = ()
        dhat = ()  # the gradient of the normalised values
        sums_g = ()
        sums_b = ()
        for k in tl.static_range(PARTS):
            dz = tl.load(dz_ptr + here + k * PART, mask=inside, other=0.0).to(tl.float32)
            hat = hat + (tl.load(hat_ptr + here + k * PART, mask=inside, other=0.0).to(tl.float32),)
            sums_g = sums_g + (dg[k] + dz * hat[k],)
            sums_b = sums_b + (db[k] + dz,)
            dhat = dhat + (dz * g[k],)
        if g_ptr is not None:
            dg = sums_g
            db = sums_b
        mean = sum_of(dhat, PARTS) * (1.0 / C)
        along = sum_of_products(dhat, hat, PARTS) * (1.0 / C)
        for k in tl.static_range(PARTS):
            dy = rstd * (dhat[k] - mean - hat[k] * along)
            tl.store(dy_ptr + here + k * PART, dy.to(dy_ptr.dtype.element_ty), mask=inside)
    if g_ptr is not None:
        out = partial_ptr + tl.program_id(0).to(tl.int64) * (2 * C) + c
        for k in tl.static_range(PARTS):
            tl.store(out + k * PART, tl.sum(dg[k], 0)[None, :], mask=known)
            tl.store(out + (C + k * PART), tl.sum(db[k], 0)[None, :], mask=known)


def norm_backward(
    dz: Tensor, hat: Tensor, rstd: Tensor, g: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """dz, hat (..., C), rstd (...) fp32 -> dy (..., C), and dg, db (C,) fp32 if there is a g; the same bits every time."""
    c = dz.shape[-1]
    rows = dz.numel() // c
    dy = torch.empty_like(dz)
    how = columns(c)
    px = how["PX"]
    share = triton.cdiv(triton.cdiv(rows, px), PROGRAMS) * px
    programs = triton.cdiv(rows, share) if rows else 0
    partial = torch.empty(programs, 2, c, dtype=torch.float32, device=dz.device) if g is not None else None
    if rows:
        norm_backward_kernel[(programs,)](
            dz, hat, rstd, g, dy, partial, rows, share, C=c, **how,
            num_warps=WARPS, num_stages=1, enable_fp_fusion=True,
        )  # fmt: skip
    if partial is None:
        return dy, None, None
    dg, db = partial.sum(0)
    return dy, dg.clone(), db.clone()


def variants() -> list[Variant]:
    """The narrowest and widest stages and some between, in bf16, with and without an affine part."""
    found = []
    for c in (40, 96, 384, 768, 2048):
        constants = {"C": c, **columns(c)}
        data = {"dz_ptr": "*bf16", "hat_ptr": "*bf16", "rstd_ptr": "*fp32"}
        integers = {"rows": "i32", "share": "i32"}
        affine = data | {"g_ptr": "*fp32", "dy_ptr": "*bf16", "partial_ptr": "*fp32"} | integers
        plain = data | {"dy_ptr": "*bf16"} | integers
        found.append(Variant(f"norm_backward_affine_{c}", norm_backward_kernel, affine, constants, WARPS, 1))
        absent = {"g_ptr": None, "partial_ptr": None}
        found.append(Variant(f"norm_backward_{c}", norm_backward_kernel, plain, constants | absent, WARPS, 1))
    return found


VARIANTS = variants()
