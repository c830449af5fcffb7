"""The gradient of LayerNorm over the last axis, from the normalised values themselves.

With h = (y - mean) * rstd and z = h * g + b: dy = rstd * (dz g - mean(dz g) - h mean(dz g h)), dg = sum(dz h), db = sum(dz).
Keeping h instead of y and mean costs nothing where there is no affine part (h is the output, which the next layer keeps
anyway), and in bf16 it is the better rounded of the two when |mean| is large.
"""
# Triton's kernels have no types
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from convnext.ops._triton import Variant

WARPS = 2
PROGRAMS = 2048  # several per multiprocessor on the largest devices


@triton.jit(do_not_specialize=["rows", "share"])
def norm_backward_kernel(
    dz_ptr, hat_ptr, rstd_ptr, g_ptr, dy_ptr, partial_ptr, rows, share,
    C: tl.constexpr, CP: tl.constexpr, PX: tl.constexpr,
):  # fmt: skip
    """`share` rows (pixels) of C values, PX at a time: dy (rows, C), and the sums for g and b: partial (programs, 2, C)."""
    c = tl.arange(0, CP)[None, :]
    begin = tl.program_id(0) * share
    end = min(begin + share, rows)
    if g_ptr is not None:
        g = tl.load(g_ptr + c, mask=c < C, other=0.0).to(tl.float32)
        dg = tl.zeros([PX, CP], tl.float32)
        db = tl.zeros([PX, CP], tl.float32)
    for at in range(begin, end, PX):
        row = (at + tl.arange(0, PX)[:, None]).to(tl.int64)  # (PX, 1)
        inside = (row < end) & (c < C)
        dz = tl.load(dz_ptr + row * C + c, mask=inside, other=0.0).to(tl.float32)
        hat = tl.load(hat_ptr + row * C + c, mask=inside, other=0.0).to(tl.float32)
        rstd = tl.load(rstd_ptr + row, mask=row < end, other=0.0)
        if g_ptr is not None:
            dg += dz * hat
            db += dz
            dz *= g
        dy = rstd * (dz - tl.sum(dz, 1)[:, None] * (1.0 / C) - hat * (tl.sum(dz * hat, 1)[:, None] * (1.0 / C)))
        tl.store(dy_ptr + row * C + c, dy.to(dy_ptr.dtype.element_ty), mask=inside)
    if g_ptr is not None:
        out = partial_ptr + tl.program_id(0).to(tl.int64) * (2 * C) + c
        tl.store(out, tl.sum(dg, 0)[None, :], mask=c < C)
        tl.store(out + C, tl.sum(db, 0)[None, :], mask=c < C)


def pixels_at_once(channels_padded: int) -> int:
    """Rows of a step: 16 values a thread."""
    return max(1024 // channels_padded, 1)


def norm_backward(
    dz: Tensor, hat: Tensor, rstd: Tensor, g: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """dz, hat (..., C), rstd (...) fp32 -> dy (..., C), and dg, db (C,) fp32 if there is a g; the same bits every time."""
    c = dz.shape[-1]
    rows = dz.numel() // c
    dy = torch.empty_like(dz)
    padded = triton.next_power_of_2(c)
    px = pixels_at_once(padded)
    share = triton.cdiv(triton.cdiv(rows, px), PROGRAMS) * px
    programs = triton.cdiv(rows, share) if rows else 0
    partial = torch.empty(programs, 2, c, dtype=torch.float32, device=dz.device) if g is not None else None
    if rows:
        norm_backward_kernel[(programs,)](
            dz, hat, rstd, g, dy, partial, rows, share, C=c, CP=padded, PX=px,
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
        padded = triton.next_power_of_2(c)
        constants = {"C": c, "CP": padded, "PX": pixels_at_once(padded)}
        data = {"dz_ptr": "*bf16", "hat_ptr": "*bf16", "rstd_ptr": "*fp32"}
        integers = {"rows": "i32", "share": "i32"}
        affine = data | {"g_ptr": "*fp32", "dy_ptr": "*bf16", "partial_ptr": "*fp32"} | integers
        plain = data | {"dy_ptr": "*bf16"} | integers
        found.append(Variant(f"norm_backward_affine_{c}", norm_backward_kernel, affine, constants, WARPS, 1))
        absent = {"g_ptr": None, "partial_ptr": None}
        found.append(Variant(f"norm_backward_{c}", norm_backward_kernel, plain, constants | absent, WARPS, 1))
    return found


VARIANTS = variants()
