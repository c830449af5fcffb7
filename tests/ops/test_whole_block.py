"""The kernels run in Triton's interpreter, which must be chosen before Triton is imported: in a process of their own.

That process is this file, run as a program: it prints one JSON line per case, and the tests read them.
"""

import sys
from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from convnext.errors import ConvNextError
from convnext.ops import backend
from convnext.ops.whole_block import fused, whole_block
from interpreter import interpreted, run_cases

NAMES = ("weight", "bias", "norm_weight", "norm_bias", "w1", "b1", "w2", "b2", "gamma")

# Error of an element, as a part of |element| + rms. fp32: an operation is within 1e-5 (test_mlp.py, test_depthwise_norm.py); a
# gradient comes through the two of each block, with errors of either sign: three times that for up to three blocks.
FP32 = 3e-5
# Under bf16 autocast PyTorch's own operations round after each of them and are what the kernels are compared with: their mean
# error against fp64, times 4 because the interpreter cuts bf16 off: twice the error of rounding to nearest, and all of one sign.
AUTOCAST = 4.0

FULL = {"affine": True, "gamma": True, "scale": True, "recompute": False}
BARE = dict.fromkeys(FULL, False)
EXACT = {  # shape (B,H,W,C), blocks, what they have: fp32
    "rows and columns short of a tile": ((1, 3, 5, 24), 2, FULL),
    "no affine part, LayerScale or drop-path": ((1, 2, 2, 16), 1, BARE),
}
ROUNDED = {  # shape, blocks, what they have, dtype of the input: bf16 autocast
    "three blocks": ((2, 2, 3, 16), 3, FULL, torch.float32),
    "the first of a stage has a bf16 input": ((1, 2, 3, 16), 2, FULL | {"recompute": True}, torch.bfloat16),
}
SHAPES = ((2, 7, 7, 96), (1, 4, 9, 192), (1, 2, 7, 256), (2, 5, 9, 40))
SLOW_EXACT = {
    f"{'x'.join(map(str, shape))} {'bare' if parts is BARE else 'full'}": (shape, 2, parts)
    for shape in SHAPES
    for parts in (FULL, BARE)
}
SLOW_ROUNDED = {
    f"{'x'.join(map(str, shape))} {dtype} {recompute=}": (shape, 3, FULL | {"recompute": recompute}, dtype)
    for shape in SHAPES
    for dtype in (torch.float32, torch.bfloat16)
    for recompute in (False, True)
} | {"without LayerScale": ((1, 2, 3, 16), 2, BARE, torch.float32)}


# -- what the process does, and the tests on a GPU


def draw(shape, blocks, parts, dtype=torch.float32, device="cpu"):
    """x, the parameters of each block by name (fp32, those of parts that it has not are None), and factors of drop-path."""
    generator = torch.Generator().manual_seed(sum(shape))
    c = shape[-1]
    sizes = {"weight": ((c, 1, 7, 7), 1 / 7), "bias": ((c,), 0.3), "norm_weight": ((c,), 0.3), "norm_bias": ((c,), 0.3)}
    sizes |= {
        "w1": ((4 * c, c), c**-0.5),
        "b1": ((4 * c,), 0.3),
        "w2": ((c, 4 * c), (2 * c) ** -0.5),
        "b2": ((c,), 0.3),
    }
    sizes |= {"gamma": ((c,), 0.3)}
    made: list[dict] = []
    for _ in range(blocks):
        drawn = {
            name: (torch.randn(size, generator=generator) * scale).to(device) for name, (size, scale) in sizes.items()
        }
        for name in ("norm_weight", "gamma"):
            drawn[name] += 1
        absent = (["norm_weight", "norm_bias"] if not parts["affine"] else []) + ["gamma"] * (not parts["gamma"])
        made.append(drawn | dict.fromkeys(absent))
    factors = torch.tensor([0.0, 1.25, 2.0])[-shape[0] :].to(device) if parts["scale"] else None
    return torch.randn(shape, generator=generator).to(device, dtype), made, factors


def run(x, parameters, factors, recompute):
    """The output of blocks that hand each other their twins."""
    twin = None
    for i, p in enumerate(parameters):
        conv, norm = (p["weight"], p["bias"]), (p["norm_weight"], p["norm_bias"], 1e-6)
        linear = p["w1"], p["b1"], p["w2"], p["b2"]
        pair = i + 1 < len(parameters)
        x, twin = whole_block(x, twin, conv, norm, linear, p["gamma"], factors, recompute, pair)
    return x


def with_gradients(x, parameters, factors, recompute=False, dtype=None, autocast=False):
    """Output, gradient of x, and those of each block's parameters, by name."""
    x = x.detach().to(dtype or x.dtype).requires_grad_()
    parameters = [
        {k: None if t is None else t.detach().to(dtype or t.dtype).requires_grad_() for k, t in block.items()}
        for block in parameters
    ]
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        out = run(x, parameters, None if factors is None else factors.to(x.device, dtype or factors.dtype), recompute)
    seed = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out)
    leaves = {f"{i}.{k}": t for i, block in enumerate(parameters) for k, t in block.items() if t is not None}
    found = torch.autograd.grad(out, [x, *leaves.values()], seed)
    return dict(zip(("out", "x", *leaves), (out.detach(), *found), strict=True))


def errors(found, exact, mean=False) -> dict[str, float]:
    """The largest (or mean) error of an element, as a part of its size + the root mean square of all."""
    result = {}
    for name, e in exact.items():
        off = (found[name].double() - e).abs() / (e.abs() + e.square().mean().sqrt())
        result[name] = (off.mean() if mean else off.max()).item()
    return result


def exactly(x, parameters, factors):
    with backend.backend("reference"):
        return with_gradients(x, parameters, factors, dtype=torch.float64)


def compare(shape, blocks, parts, device="cpu") -> dict[str, float]:
    x, parameters, factors = draw(shape, blocks, parts, device=device)
    with backend.backend("triton"):
        found = with_gradients(x, parameters, factors, parts["recompute"])
    return errors(found, exactly(x, parameters, factors))


def compare_autocast(shape, blocks, parts, dtype, device="cpu") -> dict[str, tuple[float, float]]:
    """Mean errors of the kernels and of PyTorch's operations; the output's dtype and the gradients' are asserted."""
    x, parameters, factors = draw(shape, blocks, parts, dtype, device)
    exact, means = exactly(x, parameters, factors), []
    for name, given in (("triton", x), ("reference", x.float())):
        with backend.backend(name):
            found = with_gradients(given, parameters, factors, parts["recompute"], autocast=True)
        means.append(errors(found, exact, mean=True))
        if name == "triton":
            assert found["out"].dtype == (torch.float32 if parts["gamma"] else dtype)
            assert found["x"].dtype == dtype
            assert all(t.dtype == torch.float32 for k, t in found.items() if "." in k)
    return {name: (means[0][name], means[1][name]) for name in exact}


def case_operator():
    """PyTorch's own checks of an operator: schema, fake tensors, gradients, tracing."""
    for parts, dtype, stream, pair in (
        (FULL, torch.float32, torch.float32, False),
        (FULL, torch.bfloat16, torch.float32, True),
        (BARE, torch.bfloat16, torch.float32, False),
    ):
        x, (p,), factors = draw((2, 1, 2, 16), 1, parts)
        leaves = [None if t is None else t.requires_grad_() for t in (x, *p.values())]
        twin = x.detach().to(dtype).requires_grad_() if pair else None
        tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
        given = leaves[0], twin, *leaves[1:], factors, 1e-6, dtype, stream, not parts["recompute"], pair
        torch.library.opcheck(fused, given, test_utils=tests, rtol=1e-2, atol=1e-2)


def case_twins():
    """The output's twin is the output, and the gradient of the input's twin the whole gradient of the input, both rounded."""
    x, (p,), factors = draw((2, 3, 2, 16), 1, FULL)
    x, twin = x.requires_grad_(), x.detach().bfloat16().requires_grad_()
    linear = p["w1"], p["b1"], p["w2"], p["b2"]
    given = (p["weight"], p["bias"]), (p["norm_weight"], p["norm_bias"], 1e-6), linear, p["gamma"], factors
    with backend.backend("triton"), torch.autocast("cpu", torch.bfloat16):
        out, rounded = whole_block(x, twin, *given, pair=True)
        alone, none = whole_block(x, twin, *given)
    assert none is None
    assert torch.equal(alone, out)
    near(rounded, out)
    seed = torch.randn(out.shape)
    dx, dtwin = torch.autograd.grad(alone, (x, twin), seed)
    near(dtwin, dx)
    wrong, other = torch.autograd.grad((out, rounded), (x, twin), (seed, 2 * seed.bfloat16()))
    near(other, wrong)
    assert not torch.allclose(wrong, dx, atol=0.1)  # the products read the twin's gradient


def near(rounded, whole):
    """bf16 has eight bits, which the interpreter cuts off."""
    assert rounded.dtype == torch.bfloat16
    assert whole.dtype == torch.float32
    assert ((rounded.float() - whole).abs() <= 2**-7 * whole.abs()).all()


def case_passes():
    """Nothing but kernels reads or writes an activation, but for a cast at each end of a chain, if the input is not bf16."""
    for blocks, dtype, casts in ((2, torch.float32, 2), (1, torch.bfloat16, 1)):
        x, parameters, factors = draw((1, 1, 2, 16), blocks, FULL, dtype)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen, backend.backend("triton"):
            with_gradients(x, parameters, factors, autocast=True)
        events = [event for event in seen.events() if list(x.shape) in event.input_shapes[:1] and not in_a_sum(event)]
        passes = Counter(event.name for event in events)
        assert passes["convnext::whole_block_backward"] == blocks, passes
        assert passes["aten::_to_copy"] == casts, passes
        assert not any(passes[f"aten::{name}"] for name in ("add", "add_", "mul", "clone")), passes


def in_a_sum(event) -> bool:
    """True for what a sum over pixels does to its argument: it widens it before it adds up on a CPU, and on the way on a GPU."""
    parent = event.cpu_parent
    return parent is not None and (parent.name == "aten::sum" or in_a_sum(parent))


def case_subsets():
    """Gradients of some arguments only, none, no batch, twice the same bits."""
    x, (p,), factors = draw((1, 2, 2, 16), 1, FULL)
    with backend.backend("triton"):
        whole = with_gradients(x, [p], factors)
        assert all(torch.equal(t, whole[name]) for name, t in with_gradients(x, [p], factors).items())
        for name, leaf in {"x": x, "weight": p["weight"], "norm_bias": p["norm_bias"], "w2": p["w2"]}.items():
            leaf = leaf.detach().clone().requires_grad_()
            out = run(leaf, [p], factors, False) if name == "x" else run(x, [p | {name: leaf}], factors, False)
            seed = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
            (gradient,) = torch.autograd.grad(out, leaf, seed)
            assert torch.equal(gradient, whole["x" if name == "x" else f"0.{name}"]), name
        # without a gradient the two operations run, whose products are the same
        assert torch.equal(run(x, [p], factors, False), whole["out"])
        empty = with_gradients(x[:0], [p], factors[:0])
        assert empty["x"].shape == (0, 2, 2, 16)
        assert not empty["0.w1"].any()


CHECKS = {f.__name__: f for f in (case_twins, case_passes)}
SLOW_CHECKS = {f.__name__: f for f in (case_operator, case_subsets)}


def main(names: list[str]) -> None:
    """Run cases by name, see `interpreter`."""

    def compute(name):
        if check := (CHECKS | SLOW_CHECKS).get(name):
            return check()
        table = EXACT | SLOW_EXACT
        return compare(*table[name]) if name in table else compare_autocast(*(ROUNDED | SLOW_ROUNDED)[name])

    run_cases(names, compute)


# -- the tests


@pytest.fixture(scope="module")
def quick():
    return interpreted(__file__, [*EXACT, *ROUNDED, *CHECKS])


@pytest.fixture(scope="module")
def slow():
    return interpreted(__file__, [*SLOW_EXACT, *SLOW_ROUNDED, *SLOW_CHECKS])


def assert_exact(result, shape, blocks, parts):
    assert isinstance(result, dict), result
    _, parameters, _ = draw(shape, blocks, parts)
    assert len(result) == 2 + sum(t is not None for block in parameters for t in block.values())
    assert all(e <= FP32 for e in result.values()), result  # a NaN is not


def assert_rounded(result):
    assert isinstance(result, dict), result
    assert all(ours <= AUTOCAST * theirs for ours, theirs in result.values()), result


@pytest.mark.parametrize("name", EXACT)
def test_forward_and_every_gradient_equal_fp64(quick, name):
    assert_exact(quick[name], *EXACT[name])


@pytest.mark.parametrize("name", ROUNDED)
def test_under_autocast_as_near_to_fp64_as_pytorch(quick, name):
    assert_rounded(quick[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_EXACT)
def test_forward_and_every_gradient_equal_fp64_on_the_table(slow, name):
    assert_exact(slow[name], *SLOW_EXACT[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_ROUNDED)
def test_under_autocast_as_near_to_fp64_as_pytorch_on_the_table(slow, name):
    assert_rounded(slow[name])


@pytest.mark.parametrize("name", CHECKS)
def test_the_operator(quick, name):
    """What each `case_` says."""
    assert quick[name] is None, quick[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_CHECKS)
def test_the_operator_at_length(slow, name):
    """What each `case_` says."""
    assert slow[name] is None, slow[name]


@pytest.mark.parametrize("recompute", [True, False])
def test_flops_are_those_of_the_two_operations(recompute):
    """Forward and backward, on fake tensors, which compute nothing."""
    counts = []
    for whole in (True, False):
        with FakeTensorMode():
            x, (p,), factors = draw((2, 3, 5, 16), 1, FULL)
            leaves = [t.requires_grad_() for t in (x, *p.values())]
            how = (1e-6, torch.float32, torch.float32, not recompute, False)
            with FlopCounterMode(display=False) as counter:
                out = fused(x, None, *leaves[1:], factors, *how)[0] if whole else two(x, p, factors, recompute)
            counts.append(counter.get_total_flops())
            with FlopCounterMode(display=False) as counter:
                gradients = torch.autograd.grad(out.sum(), leaves)
            counts.append(counter.get_total_flops())
            assert [t.shape for t in gradients] == [t.shape for t in leaves]
    assert counts[:2] == counts[2:]
    assert counts[0] == 2 * 30 * 16 * (49 + 8 * 16)


def two(x, p, factors, recompute):
    from convnext.ops import depthwise_norm, mlp

    y = depthwise_norm.fused(x, p["weight"], p["bias"], p["norm_weight"], p["norm_bias"], 1e-6, True)[0]
    return mlp.fused(x, y, p["w1"], p["b1"], p["w2"], p["b2"], p["gamma"], factors, not recompute)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_triton_it_is_the_two_operations_and_has_no_twin(dtype):
    """Their bits, under autocast too."""
    from convnext.ops.depthwise_norm import depthwise_norm
    from convnext.ops.mlp import mlp_residual

    x, (p,), factors = draw((2, 5, 6, 16), 1, FULL, dtype)
    conv, norm, linear = (p["weight"], p["bias"]), (p["norm_weight"], p["norm_bias"]), [p[k] for k in NAMES[4:8]]
    with torch.autocast("cpu", torch.bfloat16):
        found, twin = whole_block(x, None, conv, (*norm, 1e-6), tuple(linear), p["gamma"], factors, pair=True)
        expected = mlp_residual(x, depthwise_norm(x.bfloat16(), *conv, *norm), *linear, p["gamma"], factors)
    assert twin is None
    assert found.dtype == dtype
    assert torch.equal(found, expected)


def test_shapes_that_do_not_fit_are_refused():
    x, (p,), _ = draw((1, 2, 2, 8), 1, FULL)
    linear = p["w1"], p["b1"], p["w2"], p["b2"]
    with pytest.raises(ConvNextError, match="bias has shape"):
        whole_block(x, None, (p["weight"], p["b1"]), (None, None, 1e-6), linear)
    with pytest.raises(ConvNextError, match="gamma has shape"):
        whole_block(x, None, (p["weight"], p["bias"]), (None, None, 1e-6), linear, p["b1"])


if __name__ == "__main__":
    main(sys.argv[1:])
