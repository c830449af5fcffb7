import numpy as np
import pytest
import torch

import oracle
from convnext import models
from convnext.errors import ConvNextError
from convnext.models.isotropic import IsotropicConvNeXt


def small(**options):
    return IsotropicConvNeXt(7, 16, num_classes=5, **options).eval()


@pytest.mark.parametrize(
    ("size", "count", "gmacs"),
    [("small", 22_308_712, 4.286), ("base", 87_083_752, 16.896), ("large", 305_942_504, 59.699)],
)
def test_params_and_macs_are_the_papers(size, count, gmacs, on_meta, macs, params):
    model = on_meta(f"convnext_isotropic_{size}")
    assert params(model) == count
    assert round(macs(model) / 1e9, 3) == gmacs


def test_layer_scale_is_the_sizes_own_unless_given(on_meta, params):
    assert on_meta("convnext_isotropic_small").blocks[0].gamma is None
    assert on_meta("convnext_isotropic_small", layer_scale_init_value=1e-6).blocks[0].gamma is not None
    assert params(on_meta("convnext_isotropic_large", layer_scale_init_value=0.0)) == 305_905_640


def test_logits_are_the_references():
    case = "convnext_isotropic_small_224_seed0"
    model = models.build("convnext_isotropic_small").eval()
    model.load_state_dict(oracle.state_dict(f"{case}.keys.txt", seed=0))
    with torch.no_grad():
        logits = model(oracle.input((1, 3, 224, 224), seed=0))
    expected = np.load(oracle.ORACLES / f"{case}.npz")["logits"]
    assert np.abs(logits.numpy() - expected).max() < 1e-4


def test_feature_map_is_normalised_and_published():
    model = small()
    maps = model.feature_maps(torch.randn(2, 3, 47, 64))  # 47 // 16 = 2: a remainder is cut off
    assert list(maps) == list(model.channels) == list(model.strides)
    assert maps["stage0"].shape == (2, model.channels["stage0"], 2, 64 // model.strides["stage0"])
    assert torch.allclose(maps["stage0"].mean(1), torch.zeros(2, 2, 4), atol=1e-5)
    assert torch.allclose(maps["stage0"].var(1, unbiased=False), torch.ones(2, 2, 4), atol=1e-2)


def test_layer_decay_groups_are_three_blocks():
    model = small()
    ids, last = model.layer_decay_ids()
    assert last == 4  # stem, blocks 0-2, 3-5, 6, norm and head
    assert list(ids) == [name for name, _ in model.named_parameters()]
    assert ids["stem.weight"] == 0
    assert [ids[f"blocks.{j}.dwconv.weight"] for j in range(7)] == [1, 1, 1, 2, 2, 2, 3]
    assert ids["norm.weight"] == ids["head.bias"] == last
    with pytest.raises(ConvNextError, match="'stage'"):
        model.layer_decay_ids("stage")


def test_initialisation():
    torch.manual_seed(0)
    model = small(drop_path_rate=0.6)
    torch.manual_seed(0)
    assert torch.equal(small(head_init_scale=0.5).head.weight, 0.5 * model.head.weight)
    assert model.stem.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not model.stem.bias.any()
    assert [block.drop_path_rate for block in model.blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 15, 32)])
def test_wrong_input_is_named(shape):
    with pytest.raises(ConvNextError, match="at least 16") as error:
        small()(torch.zeros(shape))
    assert str(shape) in str(error.value)
