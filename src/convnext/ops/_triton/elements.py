"""Parts that the kernels of both linear layers have in common: a product of tiles, GELU, and the block's last step.

Legend: M rows (pixels of the batch), P pixels of a sample, C channels. Argument names that end in _ are pointers.
"""
# pyright: basic, reportArgumentType=false
# Triton's constants have types of their own

import os

import triton
import triton.language as tl

# the interpreter multiplies the bits of bfloat16; widened, the products are what the tensor cores make of them
WIDEN = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def dot(a, b, acc=None):
    """a b^T + acc in fp32, of tiles that are both stored along the summed axis."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, tl.trans(b), acc, input_precision="ieee")


@triton.jit
def normal_cdf(z, EXACT: tl.constexpr):
    """The normal distribution function, with which GELU(z) is z * normal_cdf(z).

    libdevice's erf takes 31 issue slots of the GPU per element, more than the matrix products around it leave free, so
    half-precision activations take a polynomial of 13: 1/2 + z p(z^2) with the least largest error of z * normal_cdf(z)
    (1.7e-5, where bf16 rounds 0.01 by 3e-5), cut off where it reaches 0 and 1 (|z| = 4.7).
    """
    if EXACT:
        return 0.5 + 0.5 * tl.erf(z * 0.7071067811865476)  # 1 / sqrt(2)
    v = tl.minimum(tl.fma(z, z, -11.0), 11.09)  # around the middle of [0, 4.7^2], where the powers do not cancel
    p = tl.fma(v, -9.723081e-13, 3.1697793e-11)
    p = tl.fma(v, p, -4.5105197e-10)
    p = tl.fma(v, p, 6.4233711e-09)
    p = tl.fma(v, p, -1.2270577e-07)
    p = tl.fma(v, p, 2.0734825e-06)
    p = tl.fma(v, p, -3.0662725e-05)
    p = tl.fma(v, p, 4.4285881e-04)
    p = tl.fma(v, p, -6.7708654e-03)
    p = tl.fma(v, p, 1.5061882e-01)
    return tl.minimum(tl.maximum(tl.fma(z, p, 0.5), 0.0), 1.0)


@triton.jit
def write(acc, x_, b2_, gamma_, scale_, out_, twin_, m, c, M, P, C):
    """out = x + scale * gamma * (acc + b2), for the rows m and channels c of a tile; the same rounded unless twin_ is None."""
    o = acc + tl.load(b2_ + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    if gamma_ is not None:
        o *= tl.load(gamma_ + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    if scale_ is not None:
        o *= tl.load(scale_ + m // P, mask=m < M, other=0.0).to(tl.float32)[:, None]
    at = m.to(tl.int64)[:, None] * C + c[None, :]
    inside = (m < M)[:, None] & (c < C)[None, :]
    o += tl.load(x_ + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ + at, o.to(out_.dtype.element_ty), mask=inside)
    if twin_ is not None:
        tl.store(twin_ + at, o.to(twin_.dtype.element_ty), mask=inside)


@triton.jit
def finish(acc, x_, b2_, gamma_, scale_, out_, twin_, m, first, M, P, C, BM: tl.constexpr, BC: tl.constexpr):
    """`write` the BC channels from `first`, a wide tile one half after the other: the whole of x would spill registers."""
    if BC < 64:
        write(acc, x_, b2_, gamma_, scale_, out_, twin_, m, first + tl.arange(0, BC), M, P, C)
    else:
        a, b = tl.split(tl.permute(tl.reshape(acc, (BM, 2, BC // 2)), (0, 2, 1)))
        c = first + tl.arange(0, BC // 2)
        write(a, x_, b2_, gamma_, scale_, out_, twin_, m, c, M, P, C)
        write(b, x_, b2_, gamma_, scale_, out_, twin_, m, c + BC // 2, M, P, C)
