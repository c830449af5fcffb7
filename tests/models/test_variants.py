"""The block's variant point: another norm, or something between the linear layers, computes what its parts compute."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convnext.models.block import Block
from convnext.models.convnext import ConvNeXt
from convnext.models.deployed import Deployed
from convnext.models.fold import fold
from convnext.models.isotropic import IsotropicConvNeXt
from convnext.models.packed import PackedBlock, PackedLinear
from convnext.models.recompute import recompute_blocks, recompute_hidden
from convnext.ops import onednn
from convnext.ops.backend import backend
from interop.test_things_people_do import GRN


class RMS(nn.RMSNorm):
    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-6)


VARIANTS = {
    "response normalisation": {"between": GRN},
    "root mean square": {"norm": RMS},
    "both": {"between": GRN, "norm": RMS},
}


def block_of(variant: dict):
    return lambda dim, rate, scale: Block(dim, rate, scale, **variant)


def build(variant: dict, kind="convnext"):
    torch.manual_seed(0)
    options = {"num_classes": 5, "layer_scale_init_value": 0.5}
    if kind == "isotropic":
        return IsotropicConvNeXt(2, 24, block_of(variant), **options).eval()
    return ConvNeXt((1, 1, 2, 1), (16, 24, 32, 40), block_of(variant), **options).eval()


def formula(block, x):
    """In fp64, each operation written out."""
    block = block.double()
    x = x.double()
    y = F.conv2d(x.permute(0, 3, 1, 2), block.dwconv.weight, block.dwconv.bias, padding=3, groups=x.shape[-1])
    y = y.permute(0, 2, 3, 1)
    mean = 0 if isinstance(block.norm, RMS) else y.mean(-1, keepdim=True)
    y = (y - mean) / ((y - mean).square().mean(-1, keepdim=True) + 1e-6).sqrt() * block.norm.weight
    y = y @ block.pwconv1.weight.T + block.pwconv1.bias
    y = y * (1 + torch.erf(y / 2**0.5)) / 2
    if block.between is not None:
        norms = y.square().sum((1, 2), keepdim=True).sqrt()
        y = y * (1 + block.between.gamma * norms / (norms.mean(-1, keepdim=True) + 1e-6)) + block.between.beta
    return x + block.gamma * (y @ block.pwconv2.weight.T + block.pwconv2.bias)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("gradients", [True, False])
def test_a_block_is_its_formula(variant, gradients):
    torch.manual_seed(0)
    block, x = Block(16, layer_scale_init_value=0.5, **variant), torch.randn(2, 6, 5, 16)
    with torch.set_grad_enabled(gradients):  # with oneDNN and without
        found = block(x)
    torch.testing.assert_close(found.double(), formula(block, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["convnext", "isotropic"])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_faster_forms_run_the_parts(variant, kind):
    model, x = build(variant, kind), torch.randn(2, 3, 64, 64)
    assert not any(block.stock() for block in model.modules() if isinstance(block, Block))
    with torch.no_grad(), backend("reference"):
        expected = model(x)
    deployed = model.deploy("fp32")
    recompute_hidden(model, [0])
    recompute_blocks(model)
    with torch.no_grad():
        for other in (model, deployed, fold(model), model.deploy("fp32")):
            torch.testing.assert_close(other(x), expected, rtol=1e-4, atol=1e-5)
    model.train()(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.skipif(not onednn.usable(torch.float32), reason="this PyTorch or processor has no oneDNN")
def test_deploying_packs_the_layers_of_a_variant_and_the_blocks_of_the_original():
    kinds = {kind: {type(m) for m in build(variant).deploy("fp32").modules()} for kind, variant in VARIANTS.items()}
    for found in kinds.values():
        assert {Block, PackedLinear, Deployed} <= found
        assert PackedBlock not in found
    assert Block not in {type(m) for m in build({}).deploy("fp32").modules()}


def test_names_of_the_original_are_as_before():
    assert list(Block(8).state_dict()) == [
        "gamma", "dwconv.weight", "dwconv.bias", "norm.weight", "norm.bias",
        "pwconv1.weight", "pwconv1.bias", "pwconv2.weight", "pwconv2.bias",
    ]  # fmt: skip
