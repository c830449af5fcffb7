"""`deploy("int8")`: the answers of fp32, blocks spared where they are not, and refusals."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from convnext import models
from convnext.errors import ConvNextError
from convnext.models.block import Block
from convnext.models.convnext import ConvNeXt
from convnext.models.int8 import Int8Block
from convnext.models.packed import PackedBlock
from convnext.models.sparing import agreement, error, spare
from convnext.ops import onednn_int8

needs_int8 = pytest.mark.skipif(bool(onednn_int8.lacking()), reason="no int8 products here")
LOST = 0.01  # of the mean square of the outputs: 8 bits lose about 0.001 in such a network


def network(num_classes: int | None = 10, **options) -> ConvNeXt:
    torch.manual_seed(0)
    given = {"layer_scale_init_value": 0.0, "num_classes": num_classes, "stem_stride": 2} | options
    return ConvNeXt((1, 1, 2, 1), (16, 24, 32, 40), **given).eval()


def images(count: int = 12) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def deployed():
    return network().deploy("int8", images(), agreement=0)


@needs_int8
def test_the_answers_are_those_of_fp32(deployed):
    model, x = network(), images(5)
    assert (deployed.precision, deployed.dtype) == ("int8", model.deploy().dtype)
    assert sum(isinstance(m, Int8Block) for m in deployed.modules()) == 5
    with torch.inference_mode():
        expected, found = model(x), deployed(x)
        assert found.dtype == torch.float32
        assert error([expected], [found]) < LOST
        assert error([model.feature_maps(x)], [deployed.feature_maps(x)]) < LOST


@needs_int8
def test_the_blocks_multiply_bytes(deployed, monkeypatch):
    seen = []
    right = onednn_int8.linear_gelu
    monkeypatch.setattr(onednn_int8, "linear_gelu", lambda x, *given: seen.append(x.dtype) or right(x, *given))
    deployed(images(1))
    assert seen == [torch.uint8] * 5


@needs_int8
def test_without_the_operators_the_rounded_weights_compute(deployed):
    x = images(3)
    with torch.inference_mode():
        expected = deployed(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(deployed(x), expected)  # which is shut out
    assert deployed(images(0)).shape == (0, 10)
    block = next(m for m in deployed.modules() if isinstance(m, Int8Block))
    maps = torch.randn(1, 6, 5, 16).to(deployed.dtype)
    with torch.inference_mode():
        found = block(maps)
    assert error([block(maps.clone().requires_grad_()).detach()], [found]) < LOST  # a gradient is asked for


@needs_int8
def test_copies_and_pickles_compute_the_same(deployed):
    x = images(2)
    for other in (copy.deepcopy(deployed), pickle.loads(pickle.dumps(deployed))):
        assert torch.equal(other(x), deployed(x))


@needs_int8
def test_a_backbone_keeps_its_maps():
    model, x = network(None), images(4)
    small = model.deploy("int8", list(images()), agreement=99)
    with torch.no_grad():
        assert error([model(x)], [small(x)]) < LOST


@needs_int8
def test_blocks_that_disturb_are_spared():
    model: Any = network(None)
    with torch.no_grad():  # one value of the hidden layer is large, so that its step is too coarse for the others
        model.stages[2][1].pwconv1.bias[0] = 300.0
        model.stages[2][1].pwconv2.weight[:, 0] = 0.01
    small = model.deploy("int8", images(), agreement=99.0)
    assert "spared: stages.2.1" in small.why
    assert isinstance(small.stages[2][1], PackedBlock | Block)
    assert isinstance(small.stages[2][0], Int8Block)


def test_the_search_doubles_and_ends():
    asked = []

    def build(kept):
        asked.append(list(kept))
        return "network", 90.0 + len(kept)

    assert spare(12, build, lambda: [7, 3, 5, 1, *range(8)], 94.0, "Advice.") == ("network", [7, 3, 5, 1])
    assert asked == [[], [7], [7, 3], [7, 3, 5, 1]]
    with pytest.raises(
        ConvNextError, match=r"94\.00 % of the comparison, with 4 of 12 parts in fp32, and not in 99 %\. Advice\."
    ):
        spare(12, lambda kept: ("network", 94.0), lambda: list(range(12)), 99.0, "Advice.")


def test_agreement_and_error():
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert agreement([logits], [logits.flip(1)]) == 0
    assert agreement([logits, logits[:1]], [logits * 2, logits[1:]]) == pytest.approx(200 / 3)
    assert error([logits], [logits * 0.5]) == pytest.approx(0.25)
    assert agreement([{"a": logits, "b": logits}], [{"a": logits, "b": logits * 0}]) == pytest.approx(50)


@needs_int8
def test_what_int8_refuses():
    x = images(2)
    with pytest.raises(ConvNextError, match="calibration=images"):
        network().deploy("int8")
    variant = ConvNeXt(
        (1, 1, 1, 1), (8, 8, 8, 8), block=lambda *given: Block(*given, between=lambda c: nn.Identity()), num_classes=3
    )
    with pytest.raises(ConvNextError, match=r"stages\.0\.0 is a variant"):
        variant.deploy("int8", x)
    watched: Any = network()
    watched.stages[2][1].pwconv1.register_forward_hook(lambda *given: None)
    with pytest.raises(ConvNextError, match=r"stages\.2\.1 .* watched"):
        watched.deploy("int8", x)
    resnet = (
        models.build("roadmap_resnet50_resnet", num_classes=3) if "roadmap_resnet50_resnet" in models.names() else None
    )
    if resnet is not None and hasattr(resnet, "deploy"):
        with pytest.raises(ConvNextError, match="this model has none"):
            resnet.deploy("int8", x)


def test_where_int8_is_missing_the_copy_says_what_it_is(monkeypatch):
    monkeypatch.setattr(onednn_int8, "_lacking", "int8 needs a better processor.")
    copied = network().deploy("int8", images(2))
    assert copied.precision in ("bf16", "fp32")
    assert copied.why == f"int8 needs a better processor. So it computes in {copied.precision}."
