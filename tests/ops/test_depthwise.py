import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from convnext.ops import depthwise
from convnext.ops.backend import backend


@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 4), (2, 2), (4, 4), (3, 5), (2, 8), (16, 1)])
def test_tiny_equals_the_reference_forward_and_every_gradient(h, w, kernel):
    """In fp64, where the two orders of summation agree to 1e-12."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, h, w, 8), (8, 1, kernel, kernel), (8,))
    given = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    seed = torch.randn(3, h, w, 8, generator=generator, dtype=torch.float64)
    results = []
    for function in (depthwise.tiny, depthwise.reference):
        leaves = [t.clone().requires_grad_() for t in given]
        y = function(*leaves)
        results.append([y.detach(), *torch.autograd.grad(y, leaves, seed)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_it_is_used_on_tiny_maps_only(monkeypatch):
    used = []
    monkeypatch.setattr(depthwise, "tiny", lambda *a: used.append("tiny") or depthwise.reference(*a))
    weight, bias = torch.randn(8, 1, 7, 7), torch.randn(8)
    depthwise.depthwise_conv(torch.randn(2, 4, 4, 8), weight, bias)
    depthwise.depthwise_conv(torch.randn(2, 7, 7, 8), weight, bias)
    assert used == ["tiny"]


def test_a_prediction_leaves_nothing_behind_that_a_training_cannot_use():
    depthwise.tap_indices.cache_clear()
    weight, bias = torch.randn(8, 1, 7, 7), torch.randn(8)
    with torch.inference_mode():
        depthwise.depthwise_conv(torch.randn(2, 3, 3, 8), weight, bias)
    x = torch.randn(2, 3, 3, 8, requires_grad=True)
    depthwise.depthwise_conv(x, weight, bias).sum().backward()
    assert x.grad is not None


def test_fake_and_meta_tensors_leave_nothing_behind():
    weight, bias, x = torch.randn(8, 1, 7, 7), torch.randn(8), torch.randn(2, 3, 3, 8)
    expected = depthwise.reference(x, weight, bias)
    for context in (FakeTensorMode(), torch.device("meta")):
        depthwise.tap_indices.cache_clear()
        with context:
            depthwise.depthwise_conv(torch.empty(2, 3, 3, 8), torch.empty(8, 1, 7, 7), torch.empty(8))
            if isinstance(context, torch.device):
                depthwise.depthwise_conv(x, weight, bias)
        torch.testing.assert_close(depthwise.depthwise_conv(x, weight, bias), expected, rtol=1e-4, atol=1e-5)


def test_the_reference_backend_reaches_it():
    x = torch.randn(2, 3, 3, 8)
    assert depthwise.PRODUCTS.takes(x)
    for name in ("reference", "triton"):
        with backend(name):
            assert not depthwise.PRODUCTS.takes(x)


def test_the_products_backward_copies_no_matrix_by_itself():
    """PyTorch's batched product clones the matrix of each channel where the gradient's batch is not its outermost dimension."""
    channels = 64
    x = torch.randn(8, 4, 4, channels, requires_grad=True)
    weight = torch.randn(channels, 1, 7, 7, requires_grad=True)
    y = depthwise.tiny(x, weight, torch.zeros(channels))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        y.backward(torch.randn(8, 4, 4, channels))
    copies = sum(each.count for each in profiled.key_averages() if each.key in ("aten::clone", "aten::copy_"))
    assert copies < channels
