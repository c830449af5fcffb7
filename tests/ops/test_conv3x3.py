"""The fast 3x3 convolution against fp64, forward and every gradient, and when it is taken."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convnext.ops.backend import backend
from convnext.ops.conv3x3 import WINOGRAD, conv3x3, winograd


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
    assert WINOGRAD.takes(x, conv)
    assert not WINOGRAD.takes(x[:, :, :8, :8], conv)
    assert not WINOGRAD.takes(x[:, :16], small)
    assert not WINOGRAD.takes(x, nn.Conv2d(64, 64, 1))
    with torch.no_grad():
        assert not WINOGRAD.takes(x, conv)
        assert torch.equal(conv3x3(conv, x), conv(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not WINOGRAD.takes(x, conv)
    assert torch.allclose(conv3x3(conv, x), conv(x), atol=1e-4)
    assert not torch.equal(conv3x3(conv, x), conv(x))


def test_it_is_not_taken_where_somebody_chose_looks_or_changed_the_convolution():
    conv, x = nn.Conv2d(64, 64, 3, padding=1), torch.randn(1, 64, 28, 28)
    with backend("reference"):
        assert not WINOGRAD.takes(x, conv)
        assert torch.equal(conv3x3(conv, x), conv(x))
    with FlopCounterMode(display=False):  # it has fewer multiplications than are to be counted
        assert not WINOGRAD.takes(x, conv)
    for name, value in (("dilation", (2, 2)), ("padding_mode", "reflect"), ("stride", (2, 2)), ("padding", (0, 0))):
        changed = copy.copy(conv)
        setattr(changed, name, value)
        assert not WINOGRAD.takes(x, changed)
    conv.register_forward_hook(lambda *_: None)
    assert not WINOGRAD.takes(x, conv)
