import pytest
import torch
from torch import nn

from convnext.ops.patchify import PATCHES, patchify, suits


@pytest.mark.parametrize("shape", [(2, 8, 12, 3), (1, 9, 7, 3), (2, 5, 4, 16), (0, 8, 8, 3)])
@pytest.mark.parametrize("kernel", [2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_convolution_in_fp64_with_every_gradient(shape, kernel, bias):
    """Sums of at most 64 products: within 1e-12. Both memory orders of the image, sides that are no multiples."""
    b, h, w, c = shape
    conv = nn.Conv2d(c, 5, kernel, stride=kernel, bias=bias, dtype=torch.float64)
    for x in (torch.randn(shape).double(), torch.randn(b, c, h, w).double().permute(0, 2, 3, 1)):
        leaves = [x.detach().requires_grad_(), *conv.parameters()]
        expected = conv(leaves[0].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        found = patchify(leaves[0], conv.weight, conv.bias)
        assert found.is_contiguous()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        seed = torch.randn(expected.shape).double()
        for one, other in zip(
            torch.autograd.grad(found, leaves, seed), torch.autograd.grad(expected, leaves, seed), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_stem_suits_and_nothing_else():
    stem = nn.Conv2d(3, 8, 4, stride=4)
    assert suits(stem)
    assert not PATCHES.takes(torch.empty(1, 8, 8, 3, dtype=torch.bfloat16), stem)  # a CPU
    assert not suits(nn.Conv2d(96, 192, 2, stride=2))
    assert not suits(nn.Conv2d(3, 8, 4, stride=2))
    assert not suits(nn.Conv2d(3, 8, 4, stride=4, padding=1))
    assert not suits(nn.Conv2d(3, 9, 4, stride=4, groups=3))
    hook = stem.register_forward_hook(lambda *_: None)
    assert not suits(stem)
    hook.remove()
    assert suits(stem)
