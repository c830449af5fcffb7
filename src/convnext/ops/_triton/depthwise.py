"""Depthwise 7x7 convolution of (B, H, W, C), alone or followed by LayerNorm over C, and the gradient of its kernel.

A thread keeps a strip of TW = 7 outputs of a few channels in registers, so a loaded pixel is used up to 7 times per kernel
row, and one program handles P strips of the same rows side by side, so that rows outside the image are skipped for all of
them at once. Sums are fp32 (but for `row_of_pairs`). The channels go through the program in chunks of BC; the
normalisation needs all of them, so the program writes the convolution to the output, waits for its own threads,
and normalises what it finds there in the L2 cache: x is read and z written about once from memory. The
convolution is fp32 arithmetic (98 of its operations for each element of x), not memory, on every device of today, which is
why registers come before anything else here.

Legend: B batch, H W height and width, C channels, BC channels of a chunk, P strips of a program, S programs per chunk.
"""
# Triton's kernels have no types
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportAssignmentType=false, reportAttributeAccessIssue=false
# ruff: noqa: RUF005  Triton knows sums of tuples, not unpacking

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from convnext.ops._triton import Variant
from convnext.ops._triton.norm import columns, normalise

K = tl.constexpr(7)
HALF = tl.constexpr(3)
TW = tl.constexpr(7)  # divides the map widths of images of 224
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")  # which has no instructions
WARPS = 2
# Registers of a thread, at most, by bytes of an element: six programs fit on a multiprocessor (fp32: five), and nothing spills.
REGISTERS = {2: 168, 4: 184}
CACHED = 24 << 20  # bytes of x of which an L2 cache still has the rows when the program of the next two rows comes
PROGRAMS = 2048  # of the weight gradient: several per multiprocessor on the largest devices


@triton.jit
def load_pixels(row, x0, width, channels, C: tl.constexpr, EVEN: tl.constexpr, DTYPE: tl.constexpr = tl.float32):
    """The TW + 6 pixels around the strip at x0 of one row, (P, BC) each, zero outside the image."""
    out = ()
    for j in tl.static_range(TW + K - 1):
        inside = channels
        if j < HALF:
            inside = inside & (x0 + (j - HALF) >= 0)
        if j >= TW + HALF or not EVEN:
            inside = inside & (x0 + (j - HALF) < width)
        out = out + (tl.load(row + (j - HALF) * C, mask=inside, other=0.0).to(DTYPE),)
    return out


@triton.jit
def row_of_pairs(pixels, taps, i: tl.constexpr):
    """The seven products of one kernel row for output i, added up in bf16: an instruction makes those of two channels."""
    if INTERPRETED:
        row = (pixels[i].to(tl.float32) * taps[0].to(tl.float32)).to(tl.bfloat16)
        for k in tl.static_range(1, K):
            row = (pixels[i + k].to(tl.float32) * taps[k].to(tl.float32) + row.to(tl.float32)).to(tl.bfloat16)
        return row
    # the first product is added to -0, because the oldest devices have no other instruction for it
    first: tl.constexpr = "{ .reg .b32 z; mov.b32 z, 0x80008000; fma.rn.bf16x2 $0, $1, $2, z; }"
    others: tl.constexpr = "fma.rn.bf16x2 $0, $1, $2, $3;"
    row = tl.inline_asm_elementwise(first, "=r,r,r", [pixels[i], taps[0]], tl.bfloat16, True, 2)
    for k in tl.static_range(1, K):
        row = tl.inline_asm_elementwise(others, "=r,r,r,r", [pixels[i + k], taps[k], row], tl.bfloat16, True, 2)
    return row


@triton.jit
def add_row(acc, pixels, w, channels, C: tl.constexpr, FLIP: tl.constexpr):
    """Add one kernel row, at w (K, C), to the TW sums of a strip, which are fp32 in any case."""
    taps = ()
    for k in tl.static_range(K):
        taps = taps + (tl.load(w + (K - 1 - k if FLIP else k) * C, mask=channels, other=0.0),)
    out = ()
    for i in tl.static_range(TW):
        a = acc[i]
        if pixels[0].dtype == tl.bfloat16:
            a += row_of_pairs(pixels, taps, i).to(tl.float32)
        else:
            for k in tl.static_range(K):
                a += pixels[i + k] * taps[k]
        out = out + (a,)
    return out


@triton.jit
def store_strip(acc, z_ptr, r_ptr, twin_ptr, row, x0, c, width, channels, C: tl.constexpr, EVEN: tl.constexpr):
    """z = acc + r for the TW sums of a strip, once in z's dtype and once in the twin's; r and the twin may be None."""
    z = z_ptr + row + x0 * C + c
    if r_ptr is not None:
        r = r_ptr + row + x0 * C + c
    if twin_ptr is not None:
        twin = twin_ptr + row + x0 * C + c
    for i in tl.static_range(TW):
        inside = channels if EVEN else channels & (x0 + i < width)
        value = acc[i]
        if r_ptr is not None:
            value += tl.load(r + i * C, mask=inside, other=0.0).to(tl.float32)
        tl.store(z + i * C, value.to(z_ptr.dtype.element_ty), mask=inside)
        if twin_ptr is not None:
            tl.store(twin + i * C, value.to(twin_ptr.dtype.element_ty), mask=inside)


@triton.jit
def place(unit, group, pairs):
    """The image and the pair of rows of a unit of work: group after group of images, in each the middle pairs of all first.

    Pairs at the edges have fewer rows to read, and so little work that they fill the multiprocessors' last gaps.
    """
    first = unit // pairs // group * group
    within = unit - first * pairs
    rank = within // group
    half = (rank + 1) // 2
    return first + within % group, (pairs - 1) // 2 + half * (rank % 2 * 2 - 1)


@triton.jit(do_not_specialize=["group", "height", "width", "blocks_x", "eps"])
def conv_kernel(
    x_ptr, w_ptr, b_ptr, z_ptr, hat_ptr, rstd_ptr, g_ptr, nb_ptr, r_ptr, twin_ptr,
    group, height, width, blocks_x, eps,
    C: tl.constexpr, BC: tl.constexpr, P: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr, PX: tl.constexpr,
    EVEN: tl.constexpr, FLIP: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Two rows of P strips of one image, all channels: z = x * w + b + r, normalised if NORM (z = hat * g + nb).

    With taps in bf16 the products of a kernel row are bf16, too, and its sum.
    """
    DTYPE: tl.constexpr = w_ptr.dtype.element_ty
    pid = tl.program_id(0)
    start = pid % blocks_x * (P * TW)
    x0 = start + tl.arange(0, P)[:, None] * TW  # (P, 1)
    image, pair = place(pid // blocks_x, group, (height + 1) // 2)
    y0 = pair * 2
    stride = width.to(tl.int64) * C
    image = image.to(tl.int64) * height  # in rows
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)[None, :]  # (1, BC)
        channels = c < C if C % BC else tl.full([1, BC], True, tl.int1)
        zero = tl.zeros([P, BC], tl.float32)
        if b_ptr is not None:
            zero += tl.load(b_ptr + c, mask=channels, other=0.0).to(tl.float32)
        first = ()
        second = ()
        for _ in tl.static_range(TW):
            first = first + (zero,)
            second = second + (zero,)
        x = x_ptr + image * stride + x0 * C + c
        # kernel row r of an output row y lies on input row y + r - 3; the kernel is stored as (K * K, C)
        w = w_ptr + c
        last: tl.constexpr = (K - 1) * K * C if FLIP else 0
        step: tl.constexpr = -K * C if FLIP else K * C
        for y in range(max(y0 - HALF, 0), y0 - HALF + 1):  # the input row that only the first output row sees
            pixels = load_pixels(x + y * stride, x0, width, channels, C, EVEN, DTYPE)
            first = add_row(first, pixels, w + last, channels, C, FLIP)
        for y in range(max(y0 - HALF + 1, 0), min(y0 + HALF + 1, height)):
            pixels = load_pixels(x + y * stride, x0, width, channels, C, EVEN, DTYPE)
            first = add_row(first, pixels, w + (last + (y - y0 + HALF) * step), channels, C, FLIP)
            second = add_row(second, pixels, w + (last + (y - y0 + HALF - 1) * step), channels, C, FLIP)
        for y in range(y0 + HALF + 1, min(y0 + HALF + 2, height)):  # the one that only the second sees
            pixels = load_pixels(x + y * stride, x0, width, channels, C, EVEN, DTYPE)
            second = add_row(second, pixels, w + (last + (K - 1) * step), channels, C, FLIP)
        row = (image + y0) * stride
        store_strip(first, z_ptr, r_ptr, twin_ptr, row, x0, c, width, channels, C, EVEN)
        if y0 + 1 < height:
            store_strip(second, z_ptr, r_ptr, twin_ptr, row + stride, x0, c, width, channels, C, EVEN)
    if NORM:
        tl.debug_barrier()  # what the other threads of this program wrote is read below
        for y in range(y0, min(y0 + 2, height)):
            for at in range(start, min(start + P * TW, width), PX):
                column = at + tl.arange(0, PX)[:, None]
                pixel = (image + y) * width + column  # (PX, 1) int64
                strip = (column < width) & (column < start + P * TW)
                normalise(z_ptr, hat_ptr, rstd_ptr, g_ptr, nb_ptr, pixel, strip, eps, C, PART, PARTS)


@triton.jit
def load_strip(row, x0, width, channels, C: tl.constexpr, EVEN: tl.constexpr):
    """The TW values of a strip, fp32 (P, BC) each, zero outside the image."""
    out = ()
    for i in tl.static_range(TW):
        inside = channels if EVEN else channels & (x0 + i < width)
        out = out + (tl.load(row + i * C, mask=inside, other=0.0).to(tl.float32),)
    return out


@triton.jit
def add_taps(acc, r: tl.constexpr, first, second, pixels):
    """Add to the 49 sums the products of input row r with two output rows, to which it is kernel row r and r - 1."""
    out = ()
    for row in tl.static_range(K):
        for k in tl.static_range(K):
            a = acc[row * K + k]
            for i in tl.static_range(TW):
                if row == r:
                    a += first[i] * pixels[i + k]
                if row == r - 1:
                    a += second[i] * pixels[i + k]
            out = out + (a,)
    return out


@triton.jit(do_not_specialize=["height", "width", "blocks_x", "units", "share"])
def weight_kernel(
    x_ptr, dy_ptr, out_ptr, height, width, blocks_x, units, share,
    C: tl.constexpr, BC: tl.constexpr, P: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Sums of dy * x for the 49 taps, and of dy, for a chunk of channels over `share` pairs of rows of P strips: out (S, 50, C)."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)[None, :]
    channels = c < C if C % BC else tl.full([1, BC], True, tl.int1)
    stride = width.to(tl.int64) * C
    pairs = (height + 1) // 2
    zero = tl.zeros([P, BC], tl.float32)
    total = zero
    acc = ()
    for _ in tl.static_range(K * K):
        acc = acc + (zero,)
    begin = tl.program_id(1) * share
    for unit in range(begin, min(begin + share, units)):
        x0 = (unit % blocks_x * P + tl.arange(0, P)[:, None]) * TW  # (P, 1)
        y0 = unit // blocks_x % pairs * 2
        image = (unit // blocks_x // pairs).to(tl.int64) * height  # in rows
        here = x0 * C + c
        dy = dy_ptr + (image + y0) * stride + here
        first = load_strip(dy, x0, width, channels, C, EVEN)
        second = load_strip(dy + stride, x0, width, channels & (y0 + 1 + 0 * c < height), C, EVEN)
        for i in tl.static_range(TW):
            total += first[i] + second[i]
        for r in tl.static_range(K + 1):
            y = y0 + (r - HALF)
            if (y >= 0) & (y < height):
                pixels = load_pixels(x_ptr + (image + y) * stride + here, x0, width, channels, C, EVEN)
                acc = add_taps(acc, r, first, second, pixels)
    out = out_ptr + tl.program_id(1).to(tl.int64) * ((K * K + 1) * C) + c
    for t in tl.static_range(K * K):
        tl.store(out + t * C, tl.sum(acc[t], 0)[None, :], mask=channels)
    tl.store(out + K * K * C, tl.sum(total, 0)[None, :], mask=channels)


def blocks(channels: int, width: int, elements: int) -> tuple[int, int]:
    """(BC, P) with BC * P = elements that leave the fewest threads idle; among equals the longest run of channels."""
    sizes = [size for size in (32, 64, 128, 256) if size <= elements]

    def idle(size: int) -> tuple[int, int]:
        strip = int(TW) * (elements // size)
        return triton.cdiv(channels, size) * size * triton.cdiv(width, strip) * strip, -size

    chunk = min(sizes, key=idle)
    return chunk, elements // chunk


def conv_launch(
    x: Tensor, taps: Tensor, bias, z: Tensor, hat, rstd, g, nb, eps: float, *, flip: bool, norm: bool,
    added: Tensor | None = None, twin: Tensor | None = None,
):  # fmt: skip
    b, h, w, c = x.shape
    chunk, strips = blocks(c, w, 4 * 32 * WARPS)  # 4 channels a thread: loads of 8 bytes in bf16, 56 sums in registers
    blocks_x = triton.cdiv(w, int(TW) * strips)
    conv_kernel[(b * triton.cdiv(h, 2) * blocks_x,)](
        x, taps, bias, z, hat, rstd, g, nb, added, twin,
        b if x.nbytes <= CACHED else 1, h, w, blocks_x, eps,
        C=c, BC=chunk, P=strips, **columns(c, WARPS), EVEN=w % (int(TW) * strips) == 0, FLIP=flip, NORM=norm,
        num_warps=WARPS, num_stages=1, maxnreg=REGISTERS[x.element_size()], enable_fp_fusion=True,
    )  # fmt: skip


def transposed(weight: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(C,1,7,7) -> (49, C), so that neighbouring threads read neighbouring channels."""
    c = len(weight)
    return torch.empty(49, c, dtype=dtype, device=weight.device).copy_(weight.view(c, 49).t())


def forward(
    x: Tensor, weight: Tensor, bias, g, nb, eps: float, keep: bool, bf16_rows: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """z (B,H,W,C) and, for the gradient if `keep`, hat (B,H,W,C) where it differs from z, and rstd (B,H,W) fp32."""
    z = torch.empty_like(x)
    hat = torch.empty_like(x) if keep and g is not None else None
    rstd = torch.empty(x.shape[:3], dtype=torch.float32, device=x.device) if keep else None
    if z.numel():
        taps = transposed(weight, torch.bfloat16 if bf16_rows else torch.float32)
        conv_launch(x, taps, bias, z, hat, rstd, g, nb, eps, flip=False, norm=True)
    return z, hat, rstd


def input_gradient(dy: Tensor, weight: Tensor) -> Tensor:
    """dy (B,H,W,C) -> dx (B,H,W,C): the convolution with the kernel turned by 180 degrees."""
    dx = torch.empty_like(dy)
    if dx.numel():
        conv_launch(dy, transposed(weight), None, dx, None, None, None, None, 0.0, flip=True, norm=False)
    return dx


def residual_gradient(
    dy: Tensor, weight: Tensor, added: Tensor, dtype: torch.dtype, pair: bool
) -> tuple[Tensor, Tensor | None]:
    """`input_gradient` of dy (B,H,W,C) plus `added` (B,H,W,C), of any dtype, as `dtype`; if `pair`, in dy's dtype too."""
    dx = torch.empty_like(dy, dtype=dtype)
    twin = torch.empty_like(dy) if pair else None
    if dx.numel():
        conv_launch(
            dy, transposed(weight), None, dx, None, None, None, None, 0.0, flip=True, norm=False, added=added, twin=twin
        )  # fmt: skip
    return dx, twin


def weight_gradient(x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """x, dy (B,H,W,C) -> gradients of the kernel (C,1,7,7) and the bias (C,), fp32; the same bits every time."""
    b, h, w, c = x.shape
    chunk, strips = blocks(c, w, 2 * 32 * WARPS)  # 2 channels a thread: 98 sums in registers
    chunks, blocks_x = triton.cdiv(c, chunk), triton.cdiv(w, int(TW) * strips)
    units = b * triton.cdiv(h, 2) * blocks_x
    share = triton.cdiv(units, min(max(PROGRAMS // chunks, 1), max(units, 1)))
    splits = triton.cdiv(units, share) if units else 0
    partial = torch.empty(splits, 50, c, dtype=torch.float32, device=x.device)
    if units:
        weight_kernel[(chunks, splits)](
            x, dy, partial, h, w, blocks_x, units, share, C=c, BC=chunk, P=strips, EVEN=w % (int(TW) * strips) == 0,
            num_warps=WARPS, num_stages=1, maxnreg=REGISTERS[x.element_size()], enable_fp_fusion=True,
        )  # fmt: skip
    total = partial.sum(0)  # (50, C)
    return total[:49].t().contiguous().view(c, 1, 7, 7), total[49].clone()


SHAPES = ((96, 56), (192, 28), (384, 14), (768, 7), (2048, 7), (40, 56), (96, 50))  # (C, W); 50 is no multiple of 7
POINTERS = ("x_ptr", "w_ptr", "b_ptr", "z_ptr", "hat_ptr", "rstd_ptr", "g_ptr", "nb_ptr", "r_ptr", "twin_ptr")
FORWARD, GRADIENT = {"FLIP": False, "NORM": True}, {"FLIP": True, "NORM": False}
FORMS = {  # which pointers are not None, those of the activations' dtype first, and the flags
    "inference": ("x_ptr z_ptr", "w_ptr b_ptr", FORWARD),
    "bf16_rows": ("x_ptr z_ptr w_ptr", "b_ptr", FORWARD),
    "training": ("x_ptr z_ptr hat_ptr", "w_ptr b_ptr rstd_ptr g_ptr nb_ptr", FORWARD),
    "input_gradient": ("x_ptr z_ptr", "w_ptr", GRADIENT),
    # of a whole block: in bf16; under autocast, with a bf16 twin; and that of a stage's first block, whose x is fp32 or bf16
    "residual_gradient": ("x_ptr z_ptr r_ptr", "w_ptr", GRADIENT),
    "residual_gradient_pair": ("x_ptr twin_ptr", "w_ptr z_ptr r_ptr", GRADIENT),
    "residual_gradient_single": ("x_ptr", "w_ptr z_ptr r_ptr", GRADIENT),
    "residual_gradient_first": ("x_ptr z_ptr", "w_ptr r_ptr", GRADIENT),
}


def variants() -> list[Variant]:
    """The launches of the networks on images of 224 (C, W of their stages), with fp32 parameters."""
    found = []
    for c, w in SHAPES:
        for dtype in ("bf16", "fp32") if c == 96 else ("bf16",):
            chunk, strips = blocks(c, w, 4 * 32 * WARPS)
            even = w % (int(TW) * strips) == 0
            shape = {"C": c, "BC": chunk, "P": strips, **columns(c, WARPS), "EVEN": even}
            for form, (data, floats, flags) in FORMS.items():
                if form.startswith(("residual", "bf16")) and (dtype == "fp32" or c == 2048):
                    continue
                types = dict.fromkeys(data.split(), f"*{dtype}") | dict.fromkeys(floats.split(), "*fp32")
                signature = {p: types[p] for p in POINTERS if p in types}
                signature |= dict.fromkeys(("group", "height", "width", "blocks_x"), "i32") | {"eps": "fp32"}
                constants = shape | flags | dict.fromkeys(p for p in POINTERS if p not in types)
                found.append(
                    Variant(
                        f"depthwise_{form}_{dtype}_{c}x{w}",
                        conv_kernel,
                        signature,
                        constants,
                        WARPS,
                        1,
                        registers=REGISTERS[2 if dtype == "bf16" else 4],
                    )
                )
            chunk, strips = blocks(c, w, 2 * 32 * WARPS)
            constants = {"C": c, "BC": chunk, "P": strips, "EVEN": w % (int(TW) * strips) == 0}
            signature = {"x_ptr": f"*{dtype}", "dy_ptr": f"*{dtype}", "out_ptr": "*fp32"}
            signature |= dict.fromkeys(("height", "width", "blocks_x", "units", "share"), "i32")
            name = f"depthwise_weight_gradient_{dtype}_{c}x{w}"
            found.append(
                Variant(
                    name,
                    weight_kernel,
                    signature,
                    constants,
                    WARPS,
                    1,
                    registers=REGISTERS[2 if dtype == "bf16" else 4],
                )
            )
    return found


VARIANTS = variants()
