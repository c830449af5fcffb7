"""The kernels run in Triton's interpreter, which must be chosen before Triton is imported: in a process of their own.

That process is this file, run as a program: it prints one JSON line per case, and the tests read them.
"""

import sys
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from convnext.errors import ConvNextError
from convnext.ops import backend, mlp
from convnext.ops.mlp import fold_affine, fold_gamma, fused, mlp_residual, reference
from interpreter import interpreted, run_cases

if __name__ == "__main__":
    import triton
    import triton.language as tl

    from convnext.ops._triton.mlp import normal_cdf

    @triton.jit
    def cdf_kernel(z_, out_, N: tl.constexpr, EXACT: tl.constexpr):
        i = tl.arange(0, N)
        tl.store(out_ + i, normal_cdf(tl.load(z_ + i), EXACT))


NAMES = ("x", "y", "w1", "b1", "w2", "b2", "gamma")

# Error of an element, as a part of |element| + rms. fp32: sums of up to 4 * 768 terms, each off by half a unit in the last
# place (2^-24) of its partial sum, in random directions: sqrt(3072) / 2^24 = 3.3e-6, three times that for tails.
# Half precision: the pre-activation (its error grows by up to 2 where GELU is curved), the hidden layer or its gradient, and
# the result are rounded, by up to half a unit each (2^-9 in bf16, 2^-12 in fp16): 4 of those for each term of a sum, and four
# times that for elements whose terms cancel and for rows of w2 with a large gamma.
# The interpreter cuts bf16 off where hardware rounds to nearest: twice the error.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 16 / 2**9, torch.float16: 16 / 2**12}
CUT_OFF = {torch.bfloat16: 2}

QUICK = {  # shape (B,H,W,C), dtype, gamma, scale, recompute: what is special about it
    "one pixel": ((1, 1, 1, 16), torch.float32, True, True, False),
    "rows short of a tile, a width that fills no two tiles": ((3, 3, 5, 40), torch.float32, True, True, False),
    "the same made again": ((3, 3, 5, 40), torch.float32, True, True, True),
    "a width of two full tiles": ((2, 2, 3, 96), torch.float32, False, True, True),
    "more rows than a tile, in bf16": ((2, 9, 8, 96), torch.bfloat16, True, False, False),
    "the same made again, in bf16": ((2, 9, 8, 96), torch.bfloat16, True, False, True),
    "fused forward, split backward": ((2, 3, 3, 192), torch.bfloat16, True, True, False),
    "split in both, rows short of a tile": ((2, 7, 10, 256), torch.bfloat16, True, True, True),
    "split in both, columns short of a tile": ((2, 2, 3, 200), torch.float32, True, True, False),
    "fp16": ((2, 3, 3, 24), torch.float16, False, False, False),
}
SLOW = {
    f"{'x'.join(map(str, shape))} {dtype} {gamma=} {scale=} {recompute=}": (shape, dtype, gamma, scale, recompute)
    for shape in ((3, 5, 7, 40), (2, 11, 9, 96), (2, 7, 7, 192), (1, 7, 7, 384), (2, 1, 3, 768))
    for dtype in (torch.float32, torch.bfloat16)
    for gamma, scale in ((True, True), (False, False))
    for recompute in (False, True)
} | {"more rows of tiles than a group": ((1, 33, 33, 256), torch.bfloat16, True, True, True)}


# -- what the process does, and the tests on a GPU


def draw(shape, gamma=True, scale=True, dtype=torch.float32, device="cpu", parameter_dtype=None):
    """x, y and the parameters, with outputs of the size of their inputs; scale (B,) or None; a gradient for the output."""
    generator = torch.Generator().manual_seed(sum(shape))
    b, _, _, c = shape
    sizes = ((shape, 1), (shape, 1), ((4 * c, c), c**-0.5), ((4 * c,), 0.3), ((c, 4 * c), (2 * c) ** -0.5), ((c,), 0.3))
    drawn = [torch.randn(s, generator=generator) * size for s, size in (*sizes, ((c,), 0.3), (shape, 1))]
    drawn[6] += 1  # gamma
    x, y, *parameters, seed = (t.to(device, dtype) for t in drawn)
    parameters = [p.to(parameter_dtype or dtype) for p in parameters[: 5 if gamma else 4]]
    factors = (
        torch.tensor([0.0, 1.25, 2.0])[-b:].to(device) if scale else None
    )  # of one sample 2, of three one is dropped
    return [x, y, *parameters], factors, seed


def with_gradients(given, factors, seed, recompute=False, function=mlp_residual):
    """Output and gradients by name."""
    leaves = [t.detach().clone().requires_grad_() for t in given]
    gamma = leaves[6] if len(leaves) > 6 else None
    out = function(*leaves[:6], gamma, factors, recompute)
    return dict(zip(("out", *NAMES), (out.detach(), *torch.autograd.grad(out, leaves, seed)), strict=False))


def error(found, exact) -> float:
    """The largest error of an element, as a part of its size + the root mean square of all."""
    rms = exact.double().square().mean().sqrt()
    return ((found.double() - exact).abs() / (exact.abs() + rms)).max().item()


def errors(shape, dtype, gamma, scale, recompute, device="cpu", shrink=1.0, loss_scale=1.0) -> dict[str, float]:
    """Of the output and of every gradient, against the reference in fp64."""
    given, factors, seed = draw(shape, gamma, scale, dtype, device)
    given[6:] = [t * shrink for t in given[6:]]
    seed = seed * loss_scale
    with backend.backend("triton"):
        found = with_gradients(given, factors, seed, recompute)
    with backend.backend("reference"):
        exact = with_gradients(
            [t.double() for t in given], None if factors is None else factors.double(), seed.double()
        )
    assert all(t.dtype == dtype for t in found.values())
    return {name: error(found[name], exact[name]) for name in exact}


def cdf_error(kernel, device="cpu") -> tuple[float, float]:
    """The largest errors of z * normal_cdf(z), polynomial and exact, |z| <= 10; nothing else happens further out."""
    z = torch.linspace(-10, 10, 2**15, device=device)
    found = []
    for exact in (False, True):
        out = torch.empty_like(z)
        kernel[(1,)](z, out, N=len(z), EXACT=exact)
        found.append((z.double() * out.double() - F.gelu(z.double())).abs().max().item())
    ends = torch.tensor([-1e30, -float("inf"), 1e30, float("inf")], device=device)
    kernel[(1,)](ends, out, N=4, EXACT=False)
    assert out[:4].tolist() == [0, 0, 1, 1]
    return tuple(found)


def case_gelu():
    """The polynomial for half precision is as near as its docstring says, and the form for fp32 exact."""
    polynomial, exact = cdf_error(cdf_kernel)
    assert 1.6e-5 < polynomial < 1.8e-5, polynomial
    assert exact < 1e-6, exact


def case_small_gamma_in_fp16():
    """LayerScale's initial 1e-6, whose products with weights fp16 does not hold; the scaled loss of a GradScaler."""
    found = errors((2, 3, 3, 40), torch.float16, True, True, False, shrink=2.0**-20, loss_scale=2.0**12)
    del found["gamma"]  # 2^20 times as large as the others, beyond fp16, in which this test has its parameters
    assert all(e <= TOLERANCE[torch.float16] for e in found.values()), found


def case_operator():
    """PyTorch's own checks of an operator: schema, fake tensors, gradients, tracing."""
    for gamma, keep in ((True, True), (False, False)):
        given, factors, _ = draw((2, 1, 2, 16), gamma, gamma)
        leaves = [t.requires_grad_() for t in given] + ([] if gamma else [None])
        torch.library.opcheck(fused, (*leaves, factors, keep))


def case_compile():
    """One graph, under autocast too, and the bits of the uncompiled form."""
    given, factors, seed = draw((2, 2, 3, 16))
    compiled = torch.compile(mlp_residual, fullgraph=True, backend="aot_eager")
    with backend.backend("triton"):
        for on in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=on):
                one, other = (with_gradients(given, factors, seed, function=f) for f in (compiled, mlp_residual))
            assert all(torch.equal(one[name], other[name]) for name in other)


def case_dtypes():
    """Autocast's dtype is taken, the result has the residual's dtype, each gradient that of what it is for."""
    given, factors, seed = draw((2, 2, 3, 16))
    with backend.backend("triton"):
        with torch.autocast("cpu", torch.bfloat16):
            mixed = with_gradients(given, factors, seed)
        assert all(t.dtype == torch.float32 for t in mixed.values())
        half = with_gradients([given[0], given[1].bfloat16(), *given[2:]], factors, seed)
        assert half.pop("y").dtype == torch.bfloat16
        assert all(torch.equal(mixed[name], half[name]) for name in half)
        half = with_gradients([*(t.bfloat16() for t in given[:2]), *given[2:]], factors, seed.bfloat16())
        assert [t.dtype for t in half.values()] == [torch.bfloat16] * 3 + [torch.float32] * 5
    with torch.autocast("cpu", torch.bfloat16):  # and the reference does the same
        expected = with_gradients(given, factors, seed)
    assert all(t.dtype == torch.float32 for t in expected.values())
    assert all(error(mixed[name], t.double()) < 3 * TOLERANCE[torch.bfloat16] for name, t in expected.items())


def case_subsets():
    """Gradients of some arguments only, none, views as inputs, no batch, twice the same bits."""
    given, factors, seed = draw((2, 3, 2, 16))
    with backend.backend("triton"):
        whole = with_gradients(given, factors, seed)
        assert all(torch.equal(t, whole[name]) for name, t in with_gradients(given, factors, seed).items())
        for i, name in enumerate(NAMES):
            leaves = [t.clone().requires_grad_(i == j) for j, t in enumerate(given)]
            (gradient,) = torch.autograd.grad(mlp_residual(*leaves, factors), leaves[i], seed)
            assert torch.equal(gradient, whole[name])
        assert torch.equal(mlp_residual(*given, factors), whole["out"])  # without a gradient, so with nothing kept
        views = [t.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1) for t in given[:2]]
        views += [t.t().contiguous().t() if t.ndim == 2 else t for t in given[2:]]
        for name, t in with_gradients(views, factors, seed.transpose(1, 2).contiguous().transpose(1, 2)).items():
            assert torch.equal(t, whole[name])
        empty = with_gradients([given[0][:0], given[1][:0], *given[2:]], factors[:0], seed[:0])
        assert empty["y"].shape == (0, 3, 2, 16)
        assert not empty["w1"].any()
        assert not empty["gamma"].any()


def case_memory():
    """5 C elements per pixel are kept for the gradient, C with `recompute`, and no gradient keeps nothing."""
    given, factors, _ = draw((2, 3, 2, 16))
    kept = []
    parameters = {id(t) for t in given[2:]} | {id(factors)}

    def pack(t):
        kept.append(0 if id(t) in parameters else t.numel())
        return t

    with backend.backend("triton"), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        for recompute, elements in ((False, 5), (True, 1)):
            kept.clear()
            mlp_residual(*(t.requires_grad_() for t in given), factors, recompute)
            assert sum(kept) == elements * given[0].numel(), kept


def case_ways():
    """The ways of a wide layer's products: persistent ones to the bits of a program for each tile, cuBLAS's within rounding."""
    from convnext.ops._triton import mlp as kernels
    from convnext.ops._triton import products

    few = products.device_of(torch.device("cpu"))._replace(multiprocessors=3)  # so that each makes several tiles
    (x, *given), factors, _ = draw((2, 5, 7, 200), dtype=torch.bfloat16)
    y, gamma = given[0], given[5]
    narrow = products.Way("persistent", BM=64, BK=32, num_warps=4)
    found = {}
    for chosen in (products.TILES._replace(BM=64, BK=32), narrow, narrow._replace(SPECIALIZED=True), products.CUBLAS):
        with mock.patch.multiple(products, way=lambda *_, w=chosen: w, device_of=lambda _: few):
            plain = kernels.forward(x, *given[:5], gamma, factors, keep=False)[0]
            kept = kernels.forward(x.float(), *given[:5], None, None, keep=True, pair=True)
        assert [t.dtype for t in kept] == [torch.float32, torch.bfloat16, torch.bfloat16]
        found[chosen] = plain, *kept
    first, *others, last = found.values()
    assert all(torch.equal(a, b) for other in others for a, b in zip(other, first, strict=True))
    assert all(error(a, b.double()) < 2 * TOLERANCE[torch.bfloat16] for a, b in zip(last, first, strict=True))
    assert y.shape[-1] > kernels.FUSED


CHECKS = {name: f for name, f in list(globals().items()) if name.startswith("case_")}


def main(names: list[str]) -> None:
    """Run cases by name, see `interpreter`."""
    run_cases(names, lambda name: CHECKS[name]() if name in CHECKS else errors(*(QUICK | SLOW)[name]))


# -- the tests


@pytest.fixture(scope="module")
def quick():
    return interpreted(__file__, [*QUICK, *CHECKS])


@pytest.fixture(scope="module")
def slow():
    return interpreted(__file__, SLOW)


def assert_within(result, dtype, gamma, cut_off=1):
    assert isinstance(result, dict), result
    assert set(result) == {"out", *(NAMES if gamma else NAMES[:6])}
    assert all(e <= TOLERANCE[dtype] * cut_off for e in result.values()), result  # a NaN is not


@pytest.mark.parametrize("name", QUICK)
def test_kernels_equal_fp64_forward_and_every_gradient(quick, name):
    _, dtype, gamma, *_ = QUICK[name]
    assert_within(quick[name], dtype, gamma, CUT_OFF.get(dtype, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_kernels_equal_fp64_on_the_table(slow, name):
    _, dtype, gamma, *_ = SLOW[name]
    assert_within(slow[name], dtype, gamma, CUT_OFF.get(dtype, 1))


@pytest.mark.parametrize("name", CHECKS)
def test_the_operator(quick, name):
    """What each `case_` says."""
    assert quick[name] is None, quick[name]


@pytest.mark.parametrize("gamma", [True, False])
def test_reference_is_the_formula(gamma):
    """Pixel by pixel, with erf written out; a sample whose factor is 0 is the residual."""
    given, factors, _ = draw((2, 2, 3, 8), gamma, True, torch.float64)
    x, y, w1, b1, w2, b2, *rest = given
    factors = factors.double()
    z = torch.einsum("bhwc,dc->bhwd", y, w1) + b1
    branch = torch.einsum("bhwd,cd->bhwc", z * (1 + torch.erf(z / 2**0.5)) / 2, w2) + b2
    expected = x + factors.view(2, 1, 1, 1) * branch * (rest[0] if gamma else 1)
    torch.testing.assert_close(mlp_residual(*given[:6], *(rest or [None]), factors), expected, rtol=0, atol=1e-13)
    dropped = mlp_residual(*given[:6], *(rest or [None]), torch.zeros(2))
    assert torch.equal(dropped, x)
    without = mlp_residual(*given[:6], *(rest or [None]))
    torch.testing.assert_close(without, mlp_residual(*given[:6], *(rest or [None]), torch.ones(2).double()))


def test_folding_changes_nothing():
    """LayerNorm's affine part and LayerScale, taken over by the linear layers: to 1e-12 in fp64."""
    given, factors, _ = draw((2, 2, 3, 8), dtype=torch.float64)
    x, y, w1, b1, w2, b2, gamma = given
    weight, bias = gamma.flip(0), b2.flip(0)
    expected = mlp_residual(x, F.layer_norm(y, (8,), weight, bias), w1, b1, w2, b2, gamma, factors.double())
    first, last = fold_affine(weight, bias, w1, b1), fold_gamma(gamma, w2, b2)
    found = mlp_residual(x, F.layer_norm(y, (8,)), *first, *last, None, factors.double())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    half = (
        *fold_affine(*(t.bfloat16() for t in (weight, bias, w1, b1))),
        *fold_gamma(*(t.bfloat16() for t in (gamma, w2, b2))),
    )
    assert all(t.dtype == torch.bfloat16 for t in half)


@pytest.mark.parametrize("gamma", [True, False])
@pytest.mark.parametrize("recompute", [True, False])
def test_flops_are_those_that_pytorch_counts_for_the_reference(gamma, recompute):
    """Forward and backward, on fake tensors, which compute nothing; one product more if the hidden layer is made again."""
    with FakeTensorMode():
        given, factors, _ = draw((2, 3, 5, 16), gamma)
        given = [t.requires_grad_() for t in given] + ([] if gamma else [None])
        counts = []
        for function in (reference, lambda *a: fused(*a, not recompute)[0]):
            with FlopCounterMode(display=False) as counter:
                out = function(*given, factors)
            counts.append(counter.get_total_flops())
            with FlopCounterMode(display=False) as counter:
                gradients = torch.autograd.grad(out.sum(), [t for t in given if t is not None])
            counts.append(counter.get_total_flops())
            assert [t.shape for t in gradients] == [t.shape for t in given if t is not None]
    one = 2 * 30 * 16 * 64  # a product: two per multiply-accumulate
    assert counts == [2 * one, 4 * one, 2 * one, (5 if recompute else 4) * one]


def test_fp32_takes_the_reference_unless_triton_is_demanded(monkeypatch):
    """Where Triton could run, which this test pretends."""
    monkeypatch.setattr(mlp, "obstacle", lambda y: "")
    on_gpu = mlp.KERNELS.pays
    monkeypatch.setattr(
        mlp,
        "KERNELS",
        replace(mlp.KERNELS, pays=lambda y: on_gpu(SimpleNamespace(device=torch.device("cuda"), dtype=y.dtype))),
    )
    monkeypatch.setattr(mlp, "fused", lambda *a: ("kernels",))
    given, _, _ = draw((1, 1, 1, 16))
    assert isinstance(mlp_residual(*given), torch.Tensor)
    assert mlp_residual(*(t.bfloat16() for t in given)) == "kernels"
    with backend.backend("triton"):
        assert mlp_residual(*given) == "kernels"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"x": (2, 2, 8)}, "batch, height, width, channels"),
        ({"y": (1, 2, 2, 4)}, "x and y have shapes"),
        ({"w1": (8, 32)}, r"w1 has shape \(8, 32\); \(32, 8\) was expected"),
        ({"b2": (32,)}, "b2 has shape"),
        ({"gamma": (1,)}, "gamma has shape"),
        ({"scale": (2,)}, "scale has shape"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, expected):
    shapes = {"x": (1, 2, 2, 8), "y": (1, 2, 2, 8), "w1": (32, 8), "b1": (32,), "w2": (8, 32), "b2": (8,)}
    with pytest.raises(ConvNextError, match=expected):
        mlp_residual(**{name: torch.ones(shape) for name, shape in (shapes | change).items()})


def test_channels_that_do_not_fill_a_product_are_refused(monkeypatch):
    """Where Triton could run, which this test pretends: its products have 16 terms at least, which the interpreter ignores."""
    monkeypatch.setattr(mlp, "obstacle", lambda y: "")
    given, _, _ = draw((1, 1, 1, 8))
    with pytest.raises(ConvNextError, match="8 channels; the kernels take 16 or more"), backend.backend("triton"):
        mlp_residual(*given)


if __name__ == "__main__":
    main(sys.argv[1:])
