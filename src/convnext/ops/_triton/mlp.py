"""Forward kernels of `convnext.ops.mlp`: x + scale * gamma * (GELU(y w1^T + b1) w2^T + b2).

Up to FUSED channels one kernel does everything: a program keeps BM rows of the output in registers and walks over the
hidden layer BH units at a time, so that the 4C-wide tensor never leaves the chip. Such a width is seldom a power of
two, which is what a tile must be: it is the sum of two, C0 + C1 (96 = 64 + 32), each with its own accumulator, and no
lane works for nothing. Above, two matrix products with their epilogues are at the tensor cores' roof as they are.

Products accumulate in fp32; GELU, biases, factors and the residual are fp32 too. No atomics: the same bits every time.

Legend: M rows (pixels of the batch), P pixels of a sample, C channels, BM BN BH BK the sides of a tile.
Argument names that end in _ are pointers.
"""
# pyright: basic, reportArgumentType=false
# Triton's constants have types of their own

import json
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from convnext.errors import ConvNextError
from convnext.ops._triton import Variant

FUSED = 192  # channels up to which the hidden layer stays on the chip

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


@triton.jit
def tile(M, N, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr = 8):
    """(row of tiles, rows, first column) of this program: GROUP rows of tiles side by side, so that L2 holds what they share."""
    wide, tall = tl.cdiv(N, BN), tl.cdiv(M, BM)
    pid = tl.program_id(0)
    first = pid // (GROUP * wide) * GROUP
    height = tl.minimum(tall - first, GROUP)
    i = first + pid % (GROUP * wide) % height
    j = pid % (GROUP * wide) // height
    return i, i * BM + tl.arange(0, BM), j * BN


@triton.jit
def product(a_, b_, m, n, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """Rows m of a (M,K) times rows n of b (N,K) -> (BM,BN) fp32."""
    k = tl.arange(0, BK)
    a_ += m.to(tl.int64)[:, None] * K + k[None, :]
    b_ += n[:, None] * K + k[None, :]
    acc = tl.zeros((BM, BN), tl.float32)
    for start in range(0, K, BK):
        inside = (start + k < K)[None, :]
        a = tl.load(a_ + start, mask=inside & (m < M)[:, None], other=0.0)
        b = tl.load(b_ + start, mask=inside & (n < N)[:, None], other=0.0)
        acc = dot(a, b, acc)
    return acc


@triton.jit(do_not_specialize=["M"])
def expand(
    y_, w1_, b1_, a_, z_, M, C: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """a (M,4C) = GELU(y w1^T + b1); also the pre-activation z (M,4C) unless z_ is None."""
    _, m, first = tile(M, 4 * C, BM, BN)
    n = first + tl.arange(0, BN)
    z = product(y_, w1_, m, n, M, 4 * C, C, BM, BN, BK)
    z += tl.load(b1_ + n, mask=n < 4 * C, other=0.0).to(tl.float32)[None, :]
    at = m.to(tl.int64)[:, None] * (4 * C) + n[None, :]
    inside = (m < M)[:, None] & (n < 4 * C)[None, :]
    if z_ is not None:
        tl.store(z_ + at, z.to(z_.dtype.element_ty), mask=inside)
    tl.store(a_ + at, (z * normal_cdf(z, a_.dtype.element_ty == tl.float32)).to(a_.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["M", "P"])
def project(
    a_, w2_, x_, b2_, gamma_, scale_, out_, twin_, M, P, C: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """out (M,C) = x + scale * gamma * (a w2^T + b2)."""
    _, m, first = tile(M, C, BM, BN)
    acc = product(a_, w2_, m, first + tl.arange(0, BN), M, C, 4 * C, BM, BN, BK)
    finish(acc, x_, b2_, gamma_, scale_, out_, twin_, m, first, M, P, C, BM, BN)


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
WIDE = (Tile(128, 64, 8, 2), Tile(64, 32, 4, 2))
TILES = {
    "inference": {128: (Tile(128, 64, 4, 2), Tile(64, 32, 4, 3)), 192: WIDE},
    "training": {128: (Tile(64, 32, 4, 3),), 192: WIDE},
    "backward": {128: (Tile(64, 32, 4, 3), Tile(64, 32, 4, 2))},
}


def split(channels: int) -> tuple[int, int]:
    """Two powers of two, at least 16 or none, that cover the channels: 96 -> (64, 32), 128 -> (128, 0), 40 -> (32, 16)."""
    first = 1 << (channels.bit_length() - 1)
    rest = channels - first
    return (first, max(triton.next_power_of_2(rest), 16)) if rest else (first, 0)


class Device(NamedTuple):
    """Facts about a device on which the choice of tiles depends: bytes of shared memory that a program may have, and its name."""

    shared: int
    name: str


H100 = Device(227 << 10, "")


@cache
def device_of(device: torch.device) -> Device:
    """In the interpreter, which has no limits, as an H100."""
    if device.type != "cuda":
        return H100
    properties = torch.cuda.get_device_properties(device)
    return Device(properties.shared_memory_per_block_optin, properties.name)


@cache
def measured() -> dict[str, dict[str, dict[str, list[int]]]]:
    """{name of a device: {form: {channels: the fastest tile}}}, as `benchmarks/gpu_sweep.py` writes it."""
    return json.loads(Path(__file__).with_name("tiles.json").read_text())


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
        if 4 * channels % tile.BH == 0 and tile.shared(c0 + c1, form) <= device.shared:
            return options | tile._asdict()
    raise ConvNextError(
        f"no tile of the fused MLP of {channels} channels fits into the {device.shared >> 10} KiB of shared memory of this "
        'device; `backend("reference")` runs PyTorch\'s own operations.'
    )


def product_tiles(dtype: torch.dtype, columns: int = 128) -> dict[str, int]:
    """Tile and launch options of a product that is not fused with the next."""
    options = {"num_warps": 8, "enable_fp_fusion": True}
    if dtype == torch.float32:
        return options | {"BM": 64, "BN": 64, "BK": 16, "num_stages": 2}
    return options | {"BM": 128, "BN": columns, "BK": 64, "num_stages": 3}


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
    z = y.new_empty(rows, 4 * channels) if keep else None
    if rows == 0:
        return out, z, twin
    last = (b2, gamma, scale, out, twin)
    if channels <= FUSED:
        form = "training" if keep or out.dtype != y.dtype else "inference"
        options = fused_tiles(channels, y.dtype, form, device_of(y.device))
        grid = (triton.cdiv(rows, options["BM"]),)
        fused_forward[grid](x, y, w1, b1, w2, *last, z, rows, pixels, **options)
        return out, z, twin
    hidden = y.new_empty(rows, 4 * channels)
    options = product_tiles(y.dtype)
    expand[tiles(rows, 4 * channels, options)](y, w1, b1, hidden, z, rows, channels, **options)
    project[tiles(rows, channels, options)](hidden, w2, x, *last, rows, pixels, channels, **options)
    return out, z, twin


def tiles(rows: int, columns: int, options: dict[str, int]) -> tuple[int]:
    """The grid of a product."""
    return (triton.cdiv(rows, options["BM"]) * triton.cdiv(columns, options["BN"]),)


def variant(
    name: str, kernel, launch: dict, dtypes: dict[str, str], absent: tuple[str, ...] = (), **constants
) -> Variant:
    """A kernel's form: pointers of the given types but those that are absent, M and P, the launch options and constants."""
    signature = {k: v for k, v in dtypes.items() if k not in absent}
    signature |= {k: "i32" for k in ("M", "P") if k in kernel.arg_names}
    tile = {k: v for k, v in launch.items() if k.isupper()}
    values = tile | constants | dict.fromkeys(absent)
    return Variant(f"mlp_{name}", kernel, signature, values, launch["num_warps"], launch["num_stages"])


WIDTHS = (40, 80, 96, 128, 160, 192, 256, 384, 768, 1536)  # of the paper's models and of smaller ones


LITTLE = Device(99 << 10, "")  # consumer devices (compute capability 12.0)


def variants() -> list[Variant]:
    """bf16 with LayerScale and drop-path, of a bf16 or, as autocast trains, an fp32 residual.

    "keep" keeps the pre-activation; "pair" writes the fp32 output's twin, too, and "first" does so with a bf16 input, as
    the first block of a stage; "little" is the tile of devices with less shared memory, where it is another.
    """
    found, half = [], torch.bfloat16
    small = dict.fromkeys(("b1_", "b2_", "gamma_", "scale_"), "*fp32")
    fused = dict.fromkeys(fused_forward.arg_names[:11], "*bf16") | small
    hidden = dict.fromkeys(("y_", "w1_", "b1_", "a_", "z_"), "*bf16") | {"b1_": "*fp32"}
    last = dict.fromkeys(project.arg_names[:8], "*bf16")
    last |= {k: v for k, v in small.items() if k in last}
    single, wide = ("twin_",), {"x_": "*fp32", "out_": "*fp32"}
    residuals = {
        "": ({}, single),
        "_residual32": (wide, single),
        "_pair": (wide, ()),
        "_first": ({"out_": "*fp32"}, ()),
    }
    for c in WIDTHS:
        for name, unkept in (("", ("z_",)), ("_keep", ())):
            if c > FUSED:
                found.append(variant(f"expand{name}_{c}", expand, product_tiles(half), hidden, unkept, C=c))
                continue
            for suffix, (types, absent) in residuals.items():
                if suffix == "_first" and not name:
                    continue
                form = "training" if suffix or name else "inference"
                launch = fused_tiles(c, half, form)
                given = fused | types, absent + unkept
                found.append(variant(f"forward{name}{suffix}_{c}", fused_forward, launch, *given))
                if (little := fused_tiles(c, half, form, LITTLE)) != launch:
                    title = f"forward{name}{suffix}_little_{c}"
                    found.append(variant(title, fused_forward, little, *given))
        if c > FUSED:
            for suffix, (types, absent) in residuals.items():
                launch = product_tiles(half)
                found.append(variant(f"project{suffix}_{c}", project, launch, last | types, absent, C=c))
    return found


VARIANTS = variants()
