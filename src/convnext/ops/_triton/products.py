"""The two products of wide layers: `expand`, GELU(y w1^T + b1), and `project`, x + scale * gamma * (a w2^T + b2).

Three ways, of which a sweep on a device takes the fastest by width (`benchmarks/gpu_sweep.py`):

    tiles       a program makes one tile of the result; cp.async brings what it multiplies
    persistent  as many programs as there are multiprocessors, each of which makes tile after tile; TMA brings and takes them,
                so that the next tile's loads run beside the last step of this one; with its warps SPECIALIZED where the
                generation has it in Triton (compute capability 10.0 and later)
    cublas      cuBLAS's product, then GELU or the block's last step in a pass of its own

The first is the way of a device that was not measured. Legend: that of `elements.py`; BM BN BK the sides of a tile.
"""
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false
# Triton's constants have types of their own

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from convnext.ops._triton import Variant
from convnext.ops._triton.device import Device, device_of, measured, variant
from convnext.ops._triton.elements import dot, finish, normal_cdf, write


@triton.jit
def place(number, M, N, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr = 8):
    """(row, column) of a tile in the grid of tiles: GROUP rows of tiles side by side, so that L2 holds what they share."""
    wide, tall = tl.cdiv(N, BN), tl.cdiv(M, BM)
    first = number // (GROUP * wide) * GROUP
    height = tl.minimum(tall - first, GROUP)
    return first + number % (GROUP * wide) % height, number % (GROUP * wide) // height


@triton.jit
def tile(M, N, BM: tl.constexpr, BN: tl.constexpr):
    """(row of tiles, rows, first column) of this program."""
    i, j = place(tl.program_id(0), M, N, BM, BN)
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


# -- persistent: every tensor but vectors is a descriptor, whose tiles end where it ends


@triton.jit
def sums(a_, b_, r, c, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """BM rows of a (M,K) from r times BN rows of b (N,K) from c -> its left and right half in fp32, each (BM,BN/2)."""
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        acc = dot(a_.load([r, k]), b_.load([c, k]), acc)
    return tl.split(tl.permute(tl.reshape(acc, (BM, 2, BN // 2)), (0, 2, 1)))


@triton.jit
def activate(z, b1_, a_, z_, r, c, N, BN: tl.constexpr):
    """The last step of `persistent_expand` for a tile of the products z."""
    n = c + tl.arange(0, BN)
    z += tl.load(b1_ + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    if z_ is not None:
        z_.store([r, c], z.to(z_.dtype))
    a_.store([r, c], (z * normal_cdf(z, a_.dtype == tl.float32)).to(a_.dtype))


@triton.jit
def add(o, x_, b2_, gamma_, scale_, out_, twin_, r, c, M, P, C, BM: tl.constexpr, BN: tl.constexpr):
    """The last step of `persistent_project` for a tile of the products o."""
    n = c + tl.arange(0, BN)
    o += tl.load(b2_ + n, mask=n < C, other=0.0).to(tl.float32)[None, :]
    if gamma_ is not None:
        o *= tl.load(gamma_ + n, mask=n < C, other=0.0).to(tl.float32)[None, :]
    if scale_ is not None:
        m = r + tl.arange(0, BM)
        o *= tl.load(scale_ + m // P, mask=m < M, other=0.0).to(tl.float32)[:, None]
    o += x_.load([r, c]).to(tl.float32)
    out_.store([r, c], o.to(out_.dtype))
    if twin_ is not None:
        twin_.store([r, c], o.to(twin_.dtype))


@triton.jit(do_not_specialize=["M"])
def persistent_expand(
    y_, w1_, b1_, a_, z_, M, C: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    SPECIALIZED: tl.constexpr,
):  # fmt: skip
    """`expand`, tile after tile."""
    tiles = tl.cdiv(M, BM) * tl.cdiv(4 * C, BN)
    for number in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True, warp_specialize=SPECIALIZED):
        i, j = place(number, M, 4 * C, BM, BN)
        left, right = sums(y_, w1_, i * BM, j * BN, C, BM, BN, BK)
        activate(left, b1_, a_, z_, i * BM, j * BN, 4 * C, BN // 2)
        activate(right, b1_, a_, z_, i * BM, j * BN + BN // 2, 4 * C, BN // 2)


@triton.jit(do_not_specialize=["M", "P"])
def persistent_project(
    a_, w2_, x_, b2_, gamma_, scale_, out_, twin_, M, P, C: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPECIALIZED: tl.constexpr,
):  # fmt: skip
    """`project`, tile after tile."""
    tiles = tl.cdiv(M, BM) * tl.cdiv(C, BN)
    for number in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True, warp_specialize=SPECIALIZED):
        i, j = place(number, M, C, BM, BN)
        left, right = sums(a_, w2_, i * BM, j * BN, 4 * C, BM, BN, BK)
        add(left, x_, b2_, gamma_, scale_, out_, twin_, i * BM, j * BN, M, P, C, BM, BN // 2)
        add(right, x_, b2_, gamma_, scale_, out_, twin_, i * BM, j * BN + BN // 2, M, P, C, BM, BN // 2)


@triton.jit(do_not_specialize=["M", "P"])
def last_step(
    o_, x_, b2_, gamma_, scale_, out_, twin_, M, P, C: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """out (M,C) = x + scale * gamma * (o + b2), after cuBLAS's product o."""
    _, m, first = tile(M, C, BM, BN)
    c = first + tl.arange(0, BN)
    at = m.to(tl.int64)[:, None] * C + c[None, :]
    o = tl.load(o_ + at, mask=(m < M)[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
    write(o, x_, b2_, gamma_, scale_, out_, twin_, m, c, M, P, C)


# -- which way is taken, and how


class Way(NamedTuple):
    """One of the three ways, the sides of its tiles, and how it is launched; cuBLAS has its own."""

    name: str
    BM: int = 128
    BN: int = 128
    BK: int = 64
    num_warps: int = 8
    num_stages: int = 3
    SPECIALIZED: bool = False
    programs: int = 1  # of a multiprocessor, where they are persistent


TILES, CUBLAS = Way("tiles"), Way("cublas")
WAYS = (
    TILES,
    Way("tiles", BN=256),
    Way("tiles", num_warps=4, num_stages=4),
    Way("tiles", BM=64, num_warps=4, num_stages=4),
    Way("persistent"),
    Way("persistent", num_stages=4),
    Way("persistent", programs=2),
    Way("persistent", BN=256),
    Way("persistent", BM=64, BK=32, num_warps=4),
    Way("persistent", SPECIALIZED=True),
    Way("persistent", BN=256, SPECIALIZED=True),
    CUBLAS,
)
"""What the sweep tries. What does not fit into a device's shared memory fails there, and is not taken."""


def way(form: str, channels: int, dtype: torch.dtype, device: Device) -> Way:
    """The fastest on this device where that was measured, else tiles.

    `form`: "expand", "expand_keep" (the pre-activation is stored too), "project", "project_wide" (an fp32 residual).
    TMA needs rows whose bytes are a multiple of 16.
    """
    best = measured().get(device.name, {}).get(form, {}).get(str(channels))
    if not best or dtype == torch.float32 or channels % 8:
        return TILES
    return Way(*best)


def product_tiles(dtype: torch.dtype, columns: int = 128) -> dict[str, Any]:
    """Tile and launch options of a product that has one tile for each program."""
    if dtype == torch.float32:
        return {"num_warps": 8, "enable_fp_fusion": True, "BM": 64, "BN": 64, "BK": 16, "num_stages": 2}
    return options(TILES._replace(BN=columns))


def options(way: Way) -> dict[str, Any]:
    """Launch options and constants of a way with kernels of ours."""
    found = way._asdict() | {"enable_fp_fusion": True}
    del found["name"], found["programs"]
    if way.name != "persistent":
        del found["SPECIALIZED"]
    return found


def tiles(rows: int, columns: int, options: dict[str, Any]) -> tuple[int]:
    """The grid of a product that has one tile for each program."""
    return (triton.cdiv(rows, options["BM"]) * triton.cdiv(columns, options["BN"]),)


def expanded(y: Tensor, w1: Tensor, b1: Tensor, keep: bool) -> tuple[Tensor, Tensor | None]:
    """(a (M,4C), the pre-activation z (M,4C) if `keep`) of y (..,C), both of its dtype."""
    channels, rows, device = y.shape[-1], y.numel() // y.shape[-1], device_of(y.device)
    chosen = way("expand_keep" if keep else "expand", channels, y.dtype, device)
    if chosen.name == "cublas":
        z = torch.addmm(b1.to(y.dtype), y.view(rows, channels), w1.t())
        return F.gelu(z) if keep else torch.ops.aten.gelu_(z), z if keep else None
    a = y.new_empty(rows, 4 * channels)
    z = torch.empty_like(a) if keep else None
    if chosen.name == "persistent":
        y_, w1_ = described(y, chosen.BM, chosen.BK), described(w1, chosen.BN, chosen.BK)
        a_, z_ = (described(t, chosen.BM, chosen.BN // 2) for t in (a, z))
        grid = persistent_grid(rows, 4 * channels, chosen, device)
        persistent_expand[grid](y_, w1_, b1, a_, z_, rows, channels, **options(chosen))
        return a, z
    launch = product_tiles(y.dtype) if y.dtype == torch.float32 else options(chosen)
    expand[tiles(rows, 4 * channels, launch)](y, w1, b1, a, z, rows, channels, **launch)
    return a, z


def projected(
    a: Tensor, w2: Tensor, x: Tensor, b2: Tensor, gamma: Tensor | None, scale: Tensor | None,
    out: Tensor, twin: Tensor | None,
) -> None:  # fmt: skip
    """Write out (B,H,W,C), and twin, the same rounded, unless it is None; x (B,H,W,C), a (M,4C)."""
    channels, rows, device = x.shape[-1], len(a), device_of(a.device)
    pixels = rows // len(x)
    chosen = way("project" if out.dtype == a.dtype else "project_wide", channels, a.dtype, device)
    last = (b2, gamma, scale)
    if chosen.name == "cublas":
        launch = {"BM": 32, "BN": 128, "num_warps": 4}
        grid = tiles(rows, channels, launch)
        last_step[grid](torch.mm(a, w2.t()), x, *last, out, twin, rows, pixels, channels, **launch)
    elif chosen.name == "persistent":
        a_, w2_ = described(a, chosen.BM, chosen.BK), described(w2, chosen.BN, chosen.BK)
        x_, out_, twin_ = (described(t, chosen.BM, chosen.BN // 2) for t in (x, out, twin))
        grid = persistent_grid(rows, channels, chosen, device)
        persistent_project[grid](a_, w2_, x_, *last, out_, twin_, rows, pixels, channels, **options(chosen))
    else:
        launch = product_tiles(a.dtype) if a.dtype == torch.float32 else options(chosen)
        grid = tiles(rows, channels, launch)
        project[grid](a, w2, x, *last, out, twin, rows, pixels, channels, **launch)


def described(t: Tensor | None, height: int, width: int) -> TensorDescriptor | None:
    """For TMA: t as a matrix, of which a tile of this size is brought or taken at once."""
    return None if t is None else TensorDescriptor.from_tensor(t.view(-1, t.shape[-1]), [height, width])


def persistent_grid(rows: int, columns: int, way: Way, device: Device) -> tuple[int]:
    """As many programs as the multiprocessors hold, but no more than there are tiles."""
    return (min(way.programs * device.multiprocessors, *tiles(rows, columns, way._asdict())),)


def variants() -> list[Variant]:
    """bf16 with LayerScale and drop-path; "keep", "residual32", "pair" and "first" as in `mlp.py`."""
    found = []
    small = dict.fromkeys(("b1_", "b2_", "gamma_", "scale_"), "*fp32")
    hidden = dict.fromkeys(("y_", "w1_", "b1_", "a_", "z_"), "*bf16") | {"b1_": "*fp32"}
    last = dict.fromkeys(project.arg_names[:8], "*bf16")
    last |= {k: v for k, v in small.items() if k in last}
    for c in WIDTHS:
        launch = product_tiles(torch.bfloat16)
        for name, absent in KEPT.items():
            found.append(variant(f"expand{name}_{c}", expand, launch, hidden, absent, C=c))
        for name, (types, absent) in RESIDUALS.items():
            found.append(variant(f"project{name}_{c}", project, launch, last | types, absent, C=c))
    for title, each in PERSISTENT.items():
        launch, c = options(each), 384
        for name, absent in KEPT.items():
            types = tile_types(hidden, {"y_": (each.BM, each.BK), "w1_": (each.BN, each.BK)}, each)
            found.append(variant(f"expand{name}_{title}_{c}", persistent_expand, launch, types, absent, C=c))
        for name, (wide, absent) in RESIDUALS.items():
            if wide and each.BN > 128:
                continue  # its last step would need 280 KiB
            types = tile_types(last | wide, {"a_": (each.BM, each.BK), "w2_": (each.BN, each.BK)}, each)
            found.append(variant(f"project{name}_{title}_{c}", persistent_project, launch, types, absent, C=c))
    found = [each._replace(measured="persistent" in each.name) for each in found]
    launch = {"BM": 32, "BN": 128, "num_warps": 4, "num_stages": 3}
    given = {"o_" if k == "a_" else k: v for k, v in last.items() if k != "w2_"}
    found.append(variant("last_step_384", last_step, launch, given, ("twin_",), C=384))
    return found


WIDTHS = (256, 384, 768, 1536)  # of the paper's models
KEPT = {"": ("z_",), "_keep": ()}
WIDE = {"x_": "*fp32", "out_": "*fp32"}
RESIDUALS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "": ({}, ("twin_",)),
    "_residual32": (WIDE, ("twin_",)),
    "_pair": (WIDE, ()),
    "_first": ({"out_": "*fp32"}, ()),
}
"""{form: types of the residual stream that are not bf16, what is absent}: "pair" writes the twin of an fp32 output, too, and
"first" does so with a bf16 input, as the first block of a stage."""
PERSISTENT = {
    "persistent": WAYS[4],
    "persistent_wide": WAYS[7],
    "persistent_little": WAYS[8],
    "persistent_specialized": WAYS[9],
}


def tile_types(types: dict[str, str], factors: dict[str, tuple[int, int]], way: Way) -> dict[str, str]:
    """The types with descriptors for tensors: of the factors' tiles as said, of others (BM, BN / 2)."""
    vectors = ("b1_", "b2_", "gamma_", "scale_")
    sizes = {name: factors.get(name, (way.BM, way.BN // 2)) for name in types if name not in vectors}
    return types | {k: f"tensordesc<{types[k][1:]}[{height}, {width}]>" for k, (height, width) in sizes.items()}


VARIANTS = variants()
