"""oneDNN's operators for inference on a CPU: against fp64, and out of the way wherever they do not belong."""

import pytest
import torch
import torch.nn.functional as F

import convnext
from convnext.ops import onednn
from convnext.ops.backend import backend

# rounding of the type, times the square root of a few hundred terms
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
DTYPES = [dtype for dtype in TOLERANCE if onednn.usable(dtype)]

pytestmark = pytest.mark.skipif(not DTYPES, reason="this PyTorch or processor has no oneDNN")


def near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    scale = expected.abs().max().item()
    return (found.double() - expected).abs().max().item() <= TOLERANCE[found.dtype] * scale


def inputs(dtype, c=40, shape=(2, 5, 7), seed=0):
    """x, y, w1, b1, w2, b2, gamma in `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((*shape, c), (*shape, c), (4 * c, c), (4 * c,), (c, 4 * c), (c,), (c,))
    scales = (1, 1, c**-0.5, 1, (4 * c) ** -0.5, 1, 1)
    return [(torch.randn(s, generator=generator) * k).to(dtype) for s, k in zip(shapes, scales, strict=True)]


def expected(x, y, w1, b1, w2, b2, gamma=None):
    x, y, w1, b1, w2, b2 = (t.double() for t in (x, y, w1, b1, w2, b2))
    o = F.linear(F.gelu(F.linear(y, w1, b1)), w2, b2)
    return x + (o if gamma is None else o * gamma.double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("tile_bytes", [onednn.TILE_BYTES, 4096])
def test_the_mlp_is_that_of_fp64(dtype, packed, scaled, tile_bytes, monkeypatch):
    monkeypatch.setattr(onednn, "TILE_BYTES", tile_bytes)  # 4096: pieces of a few rows, not all equally many
    x, y, w1, b1, w2, b2, gamma = inputs(dtype)
    gamma = gamma if scaled else None
    truth = expected(x, y, w1, b1, w2, b2, gamma)
    before = x.clone()
    with torch.inference_mode():
        if packed:
            w1, w2 = onednn.pack_linear(w1), onednn.pack_linear(w2)
        found = onednn.mlp_residual(x, y, w1, b1, w2, b2, gamma)
    assert found.shape == x.shape
    assert near(found, truth)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(1, 56, 56, 16), (2, 7, 5, 40), (3, 2, 1, 8)])
def test_the_depthwise_convolution_is_that_of_fp64(dtype, packed, shape):
    generator = torch.Generator().manual_seed(1)
    x, w, b = (torch.randn(s, generator=generator).to(dtype) for s in (shape, (shape[3], 1, 7, 7), (shape[3],)))
    truth = F.conv2d(x.double().permute(0, 3, 1, 2), w.double(), b.double(), padding=3, groups=shape[3])
    with torch.inference_mode():
        found = onednn.depthwise(x, onednn.pack_depthwise(w) if packed else w, b)
    assert found.is_contiguous()
    assert near(found, truth.permute(0, 2, 3, 1))


def test_it_stays_away_where_a_gradient_a_trace_or_another_type_is_wanted():
    x = torch.zeros(1)
    assert not onednn.ONEDNN.takes(x)  # gradients are on
    with torch.no_grad():
        assert onednn.ONEDNN.takes(x) == onednn.usable(torch.float32)
        assert not onednn.ONEDNN.takes(x.double())
        assert not onednn.ONEDNN.takes(x.to("meta"))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not onednn.ONEDNN.takes(x)


def test_operators_that_are_missing_or_wrong_are_not_used(monkeypatch):
    for wrong in (lambda *a: (_ for _ in ()).throw(AttributeError("gone")), lambda x, w, b: F.linear(x, w, b)):
        onednn._usable.clear()
        monkeypatch.setattr(onednn, "linear_gelu", wrong)  # the second forgets the GELU
        assert not onednn.usable(torch.float32)
    onednn._usable.clear()


def test_the_model_takes_it_and_computes_the_same(monkeypatch):
    torch.manual_seed(0)
    model = convnext.create_model("convnext_atto", layer_scale_init_value=0.5).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), backend("reference"):
        plain = model(images)
    calls = []
    real = onednn.mlp_residual
    monkeypatch.setattr(onednn, "mlp_residual", lambda *a: calls.append(1) or real(*a))
    with torch.no_grad():
        fast = model(images)
    assert len(calls) == sum(model.depths)
    assert (fast - plain).abs().max() <= 1e-5 * plain.abs().max()
    model(images).sum().backward()  # with gradients it is not asked
    assert len(calls) == sum(model.depths)
