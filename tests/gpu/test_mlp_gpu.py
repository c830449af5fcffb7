"""`convnext.ops.mlp` on a device: the table of tests/ops/test_mlp.py, and what only a device can show."""

import pytest
import torch

from convnext.ops import backend
from convnext.ops.mlp import fused, mlp_residual
from ops.test_mlp import QUICK, SLOW, TOLERANCE, assert_within, draw, error, errors, with_gradients

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

LARGE = {
    f"{'x'.join(map(str, shape))} {recompute=}": (shape, torch.bfloat16, True, True, recompute)
    for shape in (
        (3, 56, 56, 96),
        (3, 56, 56, 128),
        (3, 28, 28, 192),
        (3, 14, 14, 384),
        (3, 7, 7, 768),
        (2, 7, 7, 1536),
    )
    for recompute in (False, True)
}


@pytest.mark.parametrize("name", QUICK | SLOW | LARGE)
def test_kernels_equal_fp64_forward_and_every_gradient(name):
    case = (QUICK | SLOW | LARGE)[name]
    assert_within(errors(*case, device="cuda"), *case[1:3])


def test_small_gamma_in_fp16():
    found = errors((4, 14, 14, 192), torch.float16, True, True, False, "cuda", shrink=2.0**-20, loss_scale=2.0**12)
    del found["gamma"]  # beyond fp16, in which this test has its parameters
    limit = TOLERANCE[torch.float16]
    assert all(error <= limit for error in found.values()), found  # each: `max` would hide a NaN


def test_as_near_to_fp64_as_pytorch_under_autocast():
    """Mixed precision as in training: fp32 parameters, bf16 activations."""
    given, factors, seed = draw((4, 14, 14, 192), device="cuda")
    given[:2] = [t.bfloat16() for t in given[:2]]
    exact = with_gradients([t.double() for t in given], factors.double(), seed.double())
    found = []
    for name in ("triton", "reference"):
        with backend.backend(name), torch.autocast("cuda", torch.bfloat16):
            found.append(with_gradients(given, factors, seed.bfloat16()))
    ours, theirs = ({name: error(t, exact[name]) for name, t in one.items()} for one in found)
    assert all(ours[name] <= 1.5 * theirs[name] + 1e-3 for name in exact), (ours, theirs)


@pytest.mark.parametrize("channels", [96, 384])
def test_the_same_bits_every_time(channels):
    given, factors, seed = draw((8, 14, 14, channels), dtype=torch.bfloat16, device="cuda")
    first, *others = (with_gradients(given, factors, seed) for _ in range(5))
    assert all(torch.equal(t, first[name]) for other in others for name, t in other.items())


@pytest.mark.parametrize("channels", [96, 384])
def test_a_cuda_graph_replays_forward_and_backward(channels):
    given, factors, seed = draw((8, 14, 14, channels), dtype=torch.bfloat16, device="cuda")
    expected = with_gradients(given, factors, seed)
    leaves = [t.clone().requires_grad_() for t in given]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.autograd.grad(mlp_residual(*leaves, factors), leaves, seed)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = mlp_residual(*leaves, factors)
        gradients = torch.autograd.grad(out, leaves, seed)
    for _ in range(2):
        graph.replay()
    found = dict(zip(expected, (out, *gradients), strict=True))
    assert all(torch.equal(t, expected[name]) for name, t in found.items())


def test_one_graph_in_torch_compile():
    given, factors, seed = draw((2, 7, 7, 96), dtype=torch.bfloat16, device="cuda")
    compiled = torch.compile(mlp_residual, fullgraph=True)
    one, other = (with_gradients(given, factors, seed, function=f) for f in (compiled, mlp_residual))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_operator():
    given, factors, _ = draw((2, 3, 3, 16), dtype=torch.bfloat16, device="cuda")
    torch.library.opcheck(fused, (*(t.requires_grad_() for t in given), factors, True))


@pytest.mark.slow
@pytest.mark.parametrize("channels", [96, 256])
def test_addresses_beyond_two_to_the_31st(channels):
    """The last of so many pixels that the hidden layer has more than 2^31 elements (20 GB)."""
    pixels = 2**31 // (4 * channels) + 1000
    given, _, seed = draw((1, 1, 1000, channels), dtype=torch.bfloat16, device="cuda")
    given, seed = [t.detach() for t in given], seed.detach()
    last = with_gradients(given, None, seed)
    many = [torch.zeros(1, 1, pixels, channels, dtype=torch.bfloat16, device="cuda") for _ in range(3)]
    for t, end in zip(many, (*given[:2], seed), strict=True):
        t[:, :, -1000:] = end
    found = with_gradients([*many[:2], *given[2:]], None, many[2])
    for (
        name,
        t,
    ) in last.items():  # the other pixels have no gradient, so the parameters' gradients are those of the last
        t, one = t.double(), found[name][:, :, -1000:] if name in ("out", "x", "y") else found[name]
        assert error(one, t) <= TOLERANCE[torch.bfloat16], name
