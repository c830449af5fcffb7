"""The kernels of depthwise_norm on a CUDA device, against fp64 and against cuDNN."""

import sys
from pathlib import Path

import pytest
import torch

from convnext.ops import backend
from convnext.ops.depthwise_norm import depthwise_norm

sys.path.insert(0, str(Path(__file__).parents[1] / "ops"))
from test_depthwise_norm import TOLERANCE, draw, error, errors, with_gradients

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
STAGES = [(8, 56, 56, 96), (8, 28, 28, 192), (8, 14, 14, 384), (8, 7, 7, 768)]  # of a Tiny on images of 224
OTHERS = [
    (1, 1, 1, 8),
    (2, 3, 5, 40),
    (2, 13, 17, 80),
    (1, 50, 67, 128),
    (3, 12, 12, 1024),
    (2, 7, 7, 2048),
    (70, 2, 9, 96),
]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", STAGES + OTHERS)
def test_kernels_equal_fp64_forward_and_every_gradient(shape, dtype, affine):
    """The parameters' gradients add up to 25,000 products of either sign, in fp32 with an error that grows with its root."""
    found = errors(shape, dtype, affine, "cuda")
    limit = TOLERANCE[dtype] * (4 if dtype is torch.float32 else 1)
    assert all(error <= limit for error in found.values()), found  # each: `max` would hide a NaN


@pytest.mark.parametrize("shape", STAGES)
def test_no_worse_than_cudnn_and_torch(shape):
    """In bf16, the mean error of the output against fp64 is at most that of PyTorch's own kernels, and a tenth."""
    given, _ = draw(shape, True, torch.bfloat16, "cuda")
    means = []
    for name in ("triton", "reference"):
        with backend.backend(name):
            y = depthwise_norm(*given)
        with backend.backend("reference"):
            exact = depthwise_norm(*(t.double() for t in given))
        means.append((y.double() - exact).abs().mean().item())
    assert means[0] <= 1.1 * means[1], means


def test_triton_is_what_a_device_takes_by_itself():
    given, _ = draw((1, 4, 4, 16), True, torch.bfloat16, "cuda")
    assert backend.use(given[0])
    assert not backend.use(given[0].double())
    assert not backend.use(given[0][..., :12])


@pytest.mark.parametrize("shape", STAGES)
def test_gradients_are_the_same_bits_every_time(shape):
    given, seed = draw(shape, True, torch.bfloat16, "cuda")
    one, other = (with_gradients(depthwise_norm, given, seed) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_in_one_graph_and_in_cuda_graphs(mode):
    given, seed = draw((4, 14, 14, 96), True, torch.bfloat16, "cuda")
    compiled = torch.compile(depthwise_norm, fullgraph=True, mode=mode)
    expected = with_gradients(depthwise_norm, given, seed)
    for _ in range(3):  # the first two warm up, the third replays
        torch.compiler.cudagraph_mark_step_begin()
        found = with_gradients(compiled, given, seed)
        assert all(error(found[name], expected[name].double()) <= 1e-6 for name in expected)


def test_captured_in_a_cuda_graph():
    given, _ = draw((2, 14, 14, 96), True, torch.bfloat16, "cuda")
    expected = depthwise_norm(*given)  # compiles outside the capture
    x, rest = torch.zeros_like(given[0]), given[1:]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = depthwise_norm(x, *rest)
    x.copy_(given[0])
    graph.replay()
    assert torch.equal(y, expected)


def test_more_than_two_to_the_31_elements():
    """The last image of a batch that 32-bit offsets do not reach equals the same image alone."""
    if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        pytest.skip("needs 40 GiB of GPU memory")
    given, _ = draw((1, 56, 56, 96), True, torch.bfloat16, "cuda")
    x = given[0].expand(2**31 // given[0].numel() + 2, -1, -1, -1).contiguous()
    leaves = [t.requires_grad_() for t in (x, *given[1:])]
    y = depthwise_norm(*leaves)
    assert torch.equal(y[-1:], depthwise_norm(*given))
    dx = torch.autograd.grad(y, leaves, y.detach())[0]
    assert torch.equal(dx[-1], dx[0])
