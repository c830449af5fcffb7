"""The fast 3x3 convolution against fp64, forward and every gradient, and when it is taken."""

import pytest
import torch
from torch import nn

from convnext.ops.conv3x3 import conv3x3, winograd, worthwhile


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (1, 1), (2, 13), (9, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_value_and_gradients_are_those_of_a_convolution(size, bias):
    torch.manual_seed(0)
    x = torch.randn(3, 5, *size, requires_grad=True)
    conv = nn.Conv2d(5, 6, 3, padding=1, bias=bias)
    inputs = [x, *conv.parameters()]
    exact_inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    ours = winograd(x, conv.weight, conv.bias)
    exact = nn.functional.conv2d(*exact_inputs, padding=1)
    grad = torch.randn_like(ours)
    pairs = zip(
        [ours, *torch.autograd.grad(ours, inputs, grad)],
        [exact, *torch.autograd.grad(exact, exact_inputs, grad.double())],
        strict=True,
    )
    for mine, right in pairs:
        assert mine.shape == right.shape
        assert (mine - right).abs().max() < 3e-5 * right.abs().max()  # the transforms' factors of up to 8 x 8


def test_it_is_taken_for_training_on_large_maps_alone():
    conv, small = nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
    x = torch.randn(1, 64, 28, 28)
    assert worthwhile(conv, x)
    assert not worthwhile(conv, x[:, :, :8, :8])
    assert not worthwhile(small, x[:, :16])
    assert not worthwhile(nn.Conv2d(64, 64, 1), x)
    with torch.no_grad():
        assert not worthwhile(conv, x)
        assert torch.equal(conv3x3(conv, x), conv(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not worthwhile(conv, x)
    assert torch.allclose(conv3x3(conv, x), conv(x), atol=1e-4)
    assert not torch.equal(conv3x3(conv, x), conv(x))
