"""`convnext.ops.whole_block` on a device: the tables of tests/ops/test_whole_block.py, and what only a device can show."""

import pytest
import torch

from ops.test_whole_block import (
    EXACT,
    FULL,
    ROUNDED,
    SLOW_EXACT,
    SLOW_ROUNDED,
    assert_exact,
    compare,
    compare_autocast,
    draw,
    with_gradients,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

LARGE = {
    f"{'x'.join(map(str, shape))} {recompute=}": (shape, 3, FULL | {"recompute": recompute}, torch.float32)
    for shape in ((3, 56, 56, 96), (3, 56, 56, 128), (3, 28, 28, 192), (3, 14, 14, 384), (3, 7, 7, 768))
    for recompute in (False, True)
}


@pytest.mark.parametrize("name", EXACT | SLOW_EXACT)
def test_forward_and_every_gradient_equal_fp64(name, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    case = (EXACT | SLOW_EXACT)[name]
    assert_exact(compare(*case, device="cuda"), *case)


@pytest.mark.parametrize("name", ROUNDED | SLOW_ROUNDED | LARGE)
def test_under_autocast_as_near_to_fp64_as_pytorch(name):
    """As tests/gpu/test_mlp_gpu.py allows for one operation."""
    result = compare_autocast(*(ROUNDED | SLOW_ROUNDED | LARGE)[name], device="cuda")
    assert all(ours <= 1.5 * theirs + 1e-3 for ours, theirs in result.values()), result


def test_the_same_bits_every_time():
    given = draw((4, 14, 14, 96), 3, FULL, device="cuda")
    first, *others = (with_gradients(*given, autocast=True) for _ in range(5))
    assert all(torch.equal(t, first[name]) for other in others for name, t in other.items())
