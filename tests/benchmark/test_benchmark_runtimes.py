"""Models in other runtimes compute what they compute here."""

import pytest
import torch

from convnext.benchmark import networks
from convnext.benchmark.configs import Config
from convnext.benchmark.runtimes import convert
from convnext.errors import ConvNextError
from convnext.ops import onednn_int8

needs_int8 = pytest.mark.skipif(bool(onednn_int8.lacking()), reason="no int8 products here")


def both(name: str, runtime: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of the model, and of what the runtime makes of it."""
    torch.manual_seed(0)
    model = networks.build(name, 64).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        return model(images), convert(model, Config(name, batch=2, image_size=64, runtime=runtime))(images)


@pytest.mark.parametrize("name", ["convnext_atto", pytest.param("timm:convnext_atto", marks=pytest.mark.slow)])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_logits_are_those_of_the_model(name, runtime):
    expected, found = both(name, runtime)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["openvino-int8", pytest.param("convnext-int8", marks=needs_int8)])
def test_in_int_8_it_is_still_this_network(runtime):
    """It is there for its speed: random weights, calibrated on noise, keep the direction of the logits."""
    expected, found = both("convnext_atto", runtime)
    assert torch.corrcoef(torch.stack([expected.flatten(), found.flatten()]))[0, 1] > 0.9


def test_a_missing_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    model = networks.build("convnext_atto", 32)
    with pytest.raises(ConvNextError, match=r"--extra export"):
        convert(model, Config("convnext_atto", image_size=32, runtime="openvino"))
