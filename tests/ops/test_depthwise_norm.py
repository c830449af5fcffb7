"""The kernels run in Triton's interpreter, which must be chosen before Triton is imported: in a process of their own.

That process is this file, run as a program: it prints one JSON line per case, and the tests read them.
"""

import sys
import threading
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from convnext.errors import ConvNextError
from convnext.ops import backend
from convnext.ops.depthwise_norm import depthwise_norm, fused, reference
from interpreter import interpreted, run_cases

NAMES = ("x", "weight", "bias", "norm_weight", "norm_bias")

# Error of an element, as a part of |element| + rms. fp32: 50 and more additions, each off by half a unit in the last place
# of its partial sum (2^-24), 50 / 2^24 = 3e-6. bf16 and fp16: the convolution, the normalised values, the gradient of the
# convolution and the result are rounded to 8 and 11 bits, half a unit each: 4 / 2^9 and 4 / 2^12, where the sum of an element
# and the rms is more than what was rounded; twice that for tails.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 8 / 2**9, torch.float16: 8 / 2**12}

QUICK = {  # shape (B,H,W,C), dtype, affine: what is special about it
    "one pixel": ((1, 1, 1, 8), torch.float32, True),
    "rows and columns short of a tile, channels short of a chunk": ((2, 3, 5, 40), torch.float32, True),
    "more than one strip, the last one cut": ((1, 2, 9, 40), torch.float32, False),
    "whole strips side by side in one program": ((1, 3, 56, 32), torch.float32, True),
    "whole strips in programs side by side": ((1, 2, 14, 256), torch.float32, False),
    "stage 4 in bf16": ((1, 3, 7, 384), torch.bfloat16, True),
    "fp16": ((1, 2, 3, 8), torch.float16, False),
}
SLOW = {
    f"{'x'.join(map(str, shape))} {dtype} {'affine' if affine else 'plain'}": (shape, dtype, affine)
    for shape in ((2, 14, 14, 96), (1, 8, 28, 192), (2, 7, 7, 384), (1, 7, 7, 768), (3, 13, 17, 40), (1, 12, 12, 96))
    for dtype in (torch.float32, torch.bfloat16)
    for affine in (True, False)
}


# -- what the process does, and the tests on a GPU


def draw(shape, affine=True, dtype=torch.float32, device="cpu", parameter_dtype=None):
    """The arguments: x, kernel, bias and the affine part, of the sizes of a trained network, and a gradient for the output."""
    generator = torch.Generator().manual_seed(sum(shape))
    c = shape[-1]
    scales = ((shape, 1, 0), ((c, 1, 7, 7), 1 / 7, 0), ((c,), 0.3, 0), ((c,), 0.3, 1), ((c,), 0.3, 0), (shape, 1, 0))
    drawn = [torch.randn(s, generator=generator) * scale + shift for s, scale, shift in scales]
    x, *parameters, seed = (t.to(device, dtype) for t in drawn)
    parameters = [p.to(parameter_dtype or dtype) for p in parameters[: 4 if affine else 2]]
    return [x, *parameters], seed


def with_gradients(function, given, seed):
    """Output and gradients by name."""
    leaves = [t.detach().clone().requires_grad_() for t in given]
    y = function(*leaves)
    return dict(zip(("y", *NAMES), (y.detach(), *torch.autograd.grad(y, leaves, seed)), strict=False))


def error(found, exact) -> float:
    """The largest error of an element, as a part of its size + the root mean square of all."""
    rms = exact.double().square().mean().sqrt()
    return ((found.double() - exact).abs() / (exact.abs() + rms)).max().item()


def errors(shape, dtype, affine, device="cpu") -> dict[str, float]:
    """Of the output and of every gradient, against the reference in fp64."""
    given, seed = draw(shape, affine, dtype, device)
    with backend.backend("triton"):
        found = with_gradients(depthwise_norm, given, seed)
    with backend.backend("reference"):
        exact = with_gradients(depthwise_norm, [t.double() for t in given], seed.double())
    assert all(t.dtype == dtype for t in found.values())
    return {name: error(found[name], exact[name]) for name in exact}


def case_operator():
    """PyTorch's own checks of an operator: schema, fake tensors, gradients, tracing."""
    given, _ = draw((1, 1, 2, 8))
    for arguments in (given, [*given[:3], None, None]):
        leaves = [None if t is None else t.clone().requires_grad_() for t in arguments]
        torch.library.opcheck(fused, (*leaves, 1e-6, True))


def case_compile():
    """One graph, and the bits of the uncompiled form."""
    given, seed = draw((1, 2, 3, 8))
    compiled = torch.compile(depthwise_norm, fullgraph=True, backend="aot_eager")
    with backend.backend("triton"):
        one, other = (with_gradients(f, given, seed) for f in (compiled, depthwise_norm))
    assert all(torch.equal(one[name], other[name]) for name in other)


def case_dtypes():
    """Autocast changes nothing, and each parameter's gradient has the dtype of the parameter."""
    given, seed = draw((1, 2, 3, 8), dtype=torch.bfloat16, parameter_dtype=torch.float32)
    with backend.backend("triton"):
        found = with_gradients(depthwise_norm, given, seed)
        assert [t.dtype for t in found.values()] == [torch.bfloat16] * 2 + [torch.float32] * 4
        for x in (given[0], given[0].float()):
            expected = depthwise_norm(x, *given[1:])
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.equal(depthwise_norm(x, *given[1:]), expected)
            assert expected.dtype == x.dtype


def case_subsets():
    """Gradients of some arguments only, no bias, a view as input, no batch."""
    given, seed = draw((1, 2, 2, 8))
    with backend.backend("triton"):
        whole = with_gradients(depthwise_norm, given, seed)
        for i in range(5):
            arguments = [t.clone().requires_grad_(i == j) for j, t in enumerate(given)]
            (gradient,) = torch.autograd.grad(depthwise_norm(*arguments), arguments[i], seed)
            assert torch.equal(gradient, whole[NAMES[i]])
        assert torch.equal(depthwise_norm(*given), whole["y"])  # without a gradient, so with nothing kept
        view = given[0].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
        assert torch.equal(depthwise_norm(view, *given[1:]), whole["y"])
        expected = reference(*given[:2], None, *given[3:], 1e-6)
        torch.testing.assert_close(depthwise_norm(*given[:2], None, *given[3:]), expected, rtol=1e-5, atol=1e-5)
        empty = with_gradients(depthwise_norm, [given[0][:0], *given[1:]], seed[:0])
        assert empty["x"].shape == (0, 2, 2, 8)
        assert not empty["weight"].any()


def case_bf16_rows():
    """Rows that are summed in bf16 differ from fp32 ones, by what seven roundings (here cut off) of 2^-8 in each of seven rows may
    come to; with a gradient, in another dtype and by default nothing is rounded that was not."""
    given, _ = draw((1, 2, 3, 16), affine=False, dtype=torch.bfloat16)
    exact = reference(*(t.double() for t in given), None, None, 1e-6)
    with backend.backend("triton"):
        plain, rows = (depthwise_norm(*given, bf16_rows=on) for on in (False, True))
        assert error(plain, exact) <= TOLERANCE[torch.bfloat16]
        assert error(plain, exact) < error(rows, exact) <= TOLERANCE[torch.bfloat16] + 7 * 2**-8
        leaf = given[0].clone().requires_grad_()
        assert torch.equal(depthwise_norm(leaf, *given[1:], bf16_rows=True), plain)
        wide = [t.float() for t in given]
        assert torch.equal(depthwise_norm(*wide, bf16_rows=True), depthwise_norm(*wide))


def case_order():
    """Image by image or all images at once, by what a cache holds: the same bits, of every row of every image."""
    from convnext.ops._triton import depthwise

    given, _ = draw((3, 7, 5, 8))
    found = []
    with backend.backend("triton"):
        for depthwise.CACHED in (0, given[0].nbytes):
            found.append(depthwise_norm(*given))
    exact = reference(*(t.double() for t in given), 1e-6)
    assert torch.equal(*found)
    assert error(found[0], exact) <= TOLERANCE[torch.float32]


CHECKS = {f.__name__: f for f in (case_operator, case_compile, case_dtypes, case_subsets, case_bf16_rows, case_order)}


def main(names: list[str]) -> None:
    """Run cases by name, see `interpreter`."""
    from convnext.ops._triton import depthwise, norm

    depthwise.PROGRAMS = norm.PROGRAMS = 2  # so that a program has more than one piece to add up, in small tensors too
    run_cases(names, lambda name: CHECKS[name]() if name in CHECKS else errors(*(QUICK | SLOW)[name]))


# -- the tests


@pytest.fixture(scope="module")
def quick():
    return interpreted(__file__, [*QUICK, *CHECKS])


@pytest.fixture(scope="module")
def slow():
    return interpreted(__file__, SLOW)


def assert_within(result, dtype, affine):
    assert isinstance(result, dict), result
    assert set(result) == {"y", *(NAMES if affine else NAMES[:3])}
    assert all(e <= TOLERANCE[dtype] for e in result.values()), result  # a NaN is not


@pytest.mark.parametrize("name", QUICK)
def test_kernels_equal_fp64_forward_and_every_gradient(quick, name):
    assert_within(quick[name], *QUICK[name][1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_kernels_equal_fp64_on_the_table(slow, name):
    assert_within(slow[name], *SLOW[name][1:])


@pytest.mark.parametrize("name", CHECKS)
def test_the_operator(quick, name):
    """What each `case_` says."""
    assert quick[name] is None, quick[name]


@pytest.mark.parametrize("affine", [True, False])
def test_reference_is_the_convolution_and_the_norm(affine):
    (x, weight, bias, *rest), _ = draw((2, 9, 6, 16), affine, torch.float64)
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=3, groups=16).permute(0, 2, 3, 1)
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    expected = y * rest[0] + rest[1] if affine else y
    found = depthwise_norm(x, weight, bias, *rest)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    without = depthwise_norm(x, weight, None, *rest)
    torch.testing.assert_close(without, depthwise_norm(x, weight, 0 * bias, *rest), rtol=0, atol=0)


def test_reference_follows_the_dtype_of_x_and_not_autocast():
    given, _ = draw((1, 8, 8, 16))
    with torch.autocast("cpu", torch.bfloat16):
        found = depthwise_norm(*given)
    assert torch.equal(found, depthwise_norm(*given))
    assert depthwise_norm(given[0].bfloat16(), *given[1:]).dtype == torch.bfloat16


@pytest.mark.parametrize("affine", [True, False])
def test_flops_are_those_that_pytorch_counts_for_the_convolution(affine):
    """Forward and backward, on fake tensors, which compute nothing."""
    with FakeTensorMode():
        given = [torch.empty(s, requires_grad=True) for s in ((2, 9, 5, 16), (16, 1, 7, 7), (16,), (16,), (16,))]
        given = given if affine else [*given[:3], None, None]
        with FlopCounterMode(display=False) as counter:
            z, hat, rstd = fused(*given, 1e-6, True)
        assert counter.get_total_flops() == 2 * 49 * given[0].numel()
        assert (z.shape, hat.shape, rstd.shape) == (given[0].shape, given[0].shape if affine else (0,), (2, 9, 5))
        with FlopCounterMode(display=False) as counter:
            z.sum().backward()
        assert [t.grad.shape for t in given if t is not None] == [t.shape for t in given if t is not None]
        found = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        x, weight = torch.empty(2, 16, 9, 5), torch.empty(16, 1, 7, 7)
        F.conv2d(x, weight, padding=3, groups=16)
    assert found == 2 * counter.get_total_flops() == 4 * 49 * 2 * 9 * 5 * 16


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"x": (2, 5, 8)}, "batch, height, width, channels"),
        ({"weight": (8, 1, 3, 3)}, r"\(8, 1, 7, 7\) was expected"),
        ({"bias": (4,)}, "bias has shape"),
        ({"norm_bias": None}, "Only one of"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, expected):
    shapes = {"x": (1, 2, 2, 8), "weight": (8, 1, 7, 7), "bias": (8,), "norm_weight": (8,), "norm_bias": (8,)} | change
    with pytest.raises(ConvNextError, match=expected):
        depthwise_norm(**{name: None if shape is None else torch.ones(shape) for name, shape in shapes.items()})


# -- the switch


def test_the_switch_says_what_is_wrong():
    x = torch.empty(1, 2, 2, 8)
    with pytest.raises(ConvNextError, match="Did you mean 'triton'"), backend.backend("tritn"):
        pass
    for wrong, why in (
        (x, "TRITON_INTERPRET"),
        (x[..., :7], "7 channels"),
        (x.double(), "float64"),
        (x.to("meta"), "meta"),
    ):
        assert not backend.TRITON.takes(wrong)
        pytest.importorskip("triton")
        with pytest.raises(ConvNextError, match=why), backend.backend("triton"):
            backend.TRITON.takes(wrong)


def test_the_switch_is_of_the_thread_and_ends_with_its_block():
    form = replace(backend.TRITON, cannot=lambda x: "")
    x, seen = torch.empty(1, 2, 2, 8), []
    with backend.backend("triton"):
        thread = threading.Thread(target=lambda: seen.append(form.takes(x)))
        thread.start()
        thread.join()
        with backend.backend("reference"):
            seen.append(form.takes(x))
        seen.append(form.takes(x))
    assert seen == [False, False, True]
    assert not form.takes(x)


if __name__ == "__main__":
    main(sys.argv[1:])
