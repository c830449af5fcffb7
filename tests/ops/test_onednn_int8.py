"""int8 on a CPU: oneDNN's quantised products against fp64, and their refusal where they are missing."""

import pytest
import torch
import torch.nn.functional as F

from convnext.ops import onednn_int8
from convnext.ops.onednn_int8 import Rounded, rounded_weight, step_and_zero

needs_int8 = pytest.mark.skipif(bool(onednn_int8.lacking()), reason="no int8 products here")


def layer(n, k, low, high, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(n, k, generator=generator) * k**-0.5, torch.randn(n, generator=generator)
    return Rounded(*rounded_weight(weight), bias, *step_and_zero(low, high)), weight


def levels(x, step, zero):
    """x at the values that u8 has for it, in fp64."""
    return ((x.double() / step).round().clamp(-zero, 255 - zero)) * step


def test_the_weights_are_within_half_a_step():
    rounded, weight = layer(16, 40, -1, 1)
    assert rounded.weight.dtype == torch.int8
    assert int(rounded.weight.abs().max()) == 127
    assert bool(((rounded.dequantised() - weight).abs() <= rounded.scale[:, None] * 0.5001).all())


def test_zero_is_a_value_of_its_own():
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-7.0, -1.0), (0.0, 0.0)):
        step, zero = step_and_zero(low, high)
        assert 0 <= zero <= 255
        assert (0 - zero) * step <= min(low, 0) + step
        assert (255 - zero) * step >= max(high, 0) - step


# that quantised tensors will go, which `lacking` hears only where there are int8 products
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("one_pass", [True, False])
def test_rounding_to_bytes(one_pass, monkeypatch):
    onednn_int8.lacking()
    if one_pass and not onednn_int8._one_pass:
        pytest.skip("this PyTorch has no quantised tensors")
    monkeypatch.setattr(onednn_int8, "_one_pass", one_pass)
    x = torch.linspace(-5, 5, 997).view(1, 997)
    step, zero = step_and_zero(-2, 3)
    found = onednn_int8.quantize(x, step, zero)
    assert (found.dtype, found.shape) == (torch.uint8, x.shape)
    assert (((found.double() - zero) * step) - levels(x, step, zero)).abs().max() < 1e-6
    assert (int(found.min()), int(found.max())) == (0, 255)


@needs_int8
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("tile_bytes", [onednn_int8.TILE_BYTES, 4096])
def test_the_block_is_that_of_fp64_on_rounded_values(dtype, weighted, tile_bytes, monkeypatch):
    monkeypatch.setattr(onednn_int8, "TILE_BYTES", tile_bytes)  # 4096: pieces of a few rows
    c = 40
    (first, _), (last, _) = layer(4 * c, c, -3, 3), layer(c, 4 * c, -0.2, 4, seed=1)
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.randn(2, 5, 7, c, generator=generator).to(dtype) for _ in range(2))
    weight = torch.rand(c, generator=generator).add(0.5).to(dtype) if weighted else None
    before = x.clone()
    with torch.inference_mode():
        found = onednn_int8.norm_mlp_residual(x, y, weight, 1e-6, first.packed(), last.packed())
    assert torch.equal(x, before)
    assert (found.dtype, found.shape) == (dtype, x.shape)
    normed = levels(F.layer_norm(y, (c,), weight, None, 1e-6), first.step, first.zero)
    hidden = F.gelu(F.linear(normed, first.dequantised().double(), first.bias.double()))
    branch = F.linear(levels(hidden, last.step, last.zero), last.dequantised().double(), last.bias.double())
    # a value on the border between two steps may fall to either side: of 160 terms of the last sum a few, by one step each
    near = 2 * last.step * float(last.dequantised().abs().max()) + (2e-2 if dtype == torch.bfloat16 else 0)
    assert (found.double() - x.double() - branch).abs().max() < near
    assert branch.abs().max() > 10 * near


@needs_int8
def test_packed_weights_can_be_read_back():
    first, _ = layer(24, 16, -1, 1)
    assert torch.equal(first.packed().plain().weight, first.weight)
    assert torch.equal(first.packed().dequantised(), first.dequantised())


def test_a_processor_without_vnni_is_told(monkeypatch):
    monkeypatch.setattr(onednn_int8, "_lacking", None)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert "VNNI" in onednn_int8.lacking()


@needs_int8
def test_operators_that_overflow_are_not_used(monkeypatch):
    monkeypatch.setattr(onednn_int8, "_lacking", None)
    right = onednn_int8.add_linear

    def wrong(out, x, layer):
        right(out, x.clamp(max=127), layer)

    monkeypatch.setattr(onednn_int8, "add_linear", wrong)
    assert torch.__version__ in onednn_int8.lacking()
