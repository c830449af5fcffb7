import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import oracle
from convnext import models
from convnext.errors import ConvNextError
from convnext.models.block import Block
from convnext.models.convnext import ConvNeXt
from convnext.models.drop_path import drop_path, drop_path_rates


def small(**options):
    return ConvNeXt((1, 2, 4, 1), (8, 16, 24, 32), **{"num_classes": 5} | options).eval()


# -- the paper's figures (Tables 1, 10 and 11; more digits than printed there, from the same counting rule)

FIGURES = [  # size, params, GMACs at 224 and at 384, params with 21841 classes
    ("tiny", 28_589_128, 4.4555, 13.092, 44_615_857),
    ("small", 50_223_688, 8.6837, 25.518, 66_250_417),
    ("base", 88_591_464, 15.3547, 45.122, 109_953_489),
    ("large", 197_767_336, 34.361, 100.978, 229_799_953),
    ("xlarge", 350_196_968, 60.921, 179.029, 392_900_177),
]


@pytest.mark.parametrize(("size", "count", "gmacs_224", "gmacs_384", "count_22k"), FIGURES)
def test_params_and_macs_are_the_papers(size, count, gmacs_224, gmacs_384, count_22k, on_meta, macs, params):
    model = on_meta(f"convnext_{size}")
    assert params(model) == count
    assert params(on_meta(f"convnext_{size}", num_classes=21841)) == count_22k
    assert macs(model, 224) / 1e9 == pytest.approx(gmacs_224, abs=5e-4)
    assert macs(model, 384) / 1e9 == pytest.approx(gmacs_384, abs=5e-4)


def test_macs_of_tiny_and_base_to_the_unit(on_meta, macs):
    assert macs(on_meta("convnext_tiny")) == 4_455_531_264
    assert macs(on_meta("convnext_base")) == 15_354_729_472


# -- the forward pass


def test_logits_are_the_references():
    case = "convnext_tiny_224_seed0"
    model = models.build("convnext_tiny").eval()
    model.load_state_dict(oracle.state_dict(f"{case}.keys.txt", seed=0))
    with torch.no_grad():
        logits = model(oracle.input((2, 3, 224, 224), seed=0))
    expected = np.load(oracle.ORACLES / f"{case}.npz")["logits"]
    assert np.abs(logits.numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_stem_stride_keeps_weights_and_changes_resolution(stem_stride):
    model = small(stem_stride=stem_stride)
    model.load_state_dict(small().state_dict())
    maps = model.feature_maps(torch.randn(2, 3, 64, 32))
    for name, y in maps.items():
        stride = model.strides[name]
        assert y.shape == (2, model.channels[name], 64 // stride, 32 // stride)
    assert model.strides["stage3"] == 8 * stem_stride


def test_layout_of_the_input_does_not_matter():
    model, x = small(layer_scale_init_value=1.0), torch.randn(2, 3, 32, 48)
    expected = model(x)
    transposed = x.transpose(2, 3).contiguous().transpose(2, 3)
    for other in (x.contiguous(memory_format=torch.channels_last), transposed, x.repeat(1, 1, 1, 2)[..., :48]):
        assert other.stride() != x.stride()
        assert torch.allclose(model(other), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 31, 64)])
def test_wrong_input_is_named(shape):
    with pytest.raises(ConvNextError, match="at least 32") as error:
        small()(torch.zeros(shape))
    assert str(shape) in str(error.value)


def test_wrong_stem_stride_is_named():
    with pytest.raises(ConvNextError, match="must be 1, 2 or 4"):
        small(stem_stride=3)


# -- stochastic depth


def test_drop_path_drops_samples_and_keeps_the_mean():
    x = torch.ones(20_000, 2, 3)
    y = drop_path(x, 0.3, training=True)
    per_sample = y.flatten(1)
    assert torch.equal(per_sample, per_sample[:, :1].expand_as(per_sample))
    kept = y[:, 0, 0] != 0
    assert torch.allclose(y[kept], torch.tensor(1 / 0.7))
    # 4 standard deviations of a binomial share: sqrt(0.3 * 0.7 / 20000) = 0.0032
    assert abs(kept.float().mean().item() - 0.7) < 0.013


def test_drop_path_is_off_in_evaluation_and_at_rate_0():
    x = torch.randn(8, 3)
    assert drop_path(x, 0.9, training=False) is x
    assert drop_path(x, 0.0, training=True) is x
    assert not drop_path(x, 1.0, training=True).any()


def test_a_dropped_block_is_the_identity():
    block = Block(4, drop_path_rate=1.0, layer_scale_init_value=1.0)
    x = torch.randn(2, 5, 5, 4)
    assert torch.equal(block.train()(x), x)
    assert not torch.equal(block.eval()(x), x)


def test_drop_path_rates_rise_linearly_over_all_blocks():
    assert drop_path_rates(0.4, 5) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert drop_path_rates(0.4, 1) == [0.0]
    model = small(drop_path_rate=0.7)
    rates = [block.drop_path_rate for stage in model.stages for block in stage]
    assert rates == pytest.approx([0.1 * i for i in range(8)])


# -- initialisation


def test_initial_weights():
    for name, module in models.build("convnext_pico").named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            n = module.weight.numel()
            assert abs(module.weight.mean()) < 5 * 0.02 / n**0.5, name
            assert module.weight.std().item() == pytest.approx(0.02, rel=5 / n**0.5), name
            assert not module.bias.any(), name
        elif isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-6, name
        elif isinstance(module, Block):
            assert torch.equal(module.gamma, torch.full_like(module.gamma, 1e-6)), name


def test_layer_scale_0_means_no_parameter():
    assert not [name for name, _ in small(layer_scale_init_value=0.0).named_parameters() if "gamma" in name]
    assert sum("gamma" in name for name, _ in small().named_parameters()) == 8


def test_head_init_scale():
    torch.manual_seed(1)
    expected = small().head.weight * 0.001
    torch.manual_seed(1)
    assert torch.equal(small(head_init_scale=0.001).head.weight, expected)


# -- as a backbone


def test_backbone_has_norms_in_place_of_the_head():
    backbone, classifier = small(num_classes=None), small()
    extra = {f"norm{i}.{part}" for i in range(4) for part in ("weight", "bias")}
    missing = {f"{module}.{part}" for module in ("norm", "head") for part in ("weight", "bias")}
    assert backbone.state_dict().keys() - classifier.state_dict().keys() == extra
    assert classifier.state_dict().keys() - backbone.state_dict().keys() == missing


def test_feature_maps_are_normalised_in_a_backbone_and_in_a_classifier():
    backbone, classifier, x = small(num_classes=None), small(), torch.randn(2, 3, 64, 96)
    backbone.load_state_dict(classifier.state_dict(), strict=False)
    maps = backbone(x)
    assert list(maps) == list(backbone.channels) == list(backbone.strides)
    for i, (name, y) in enumerate(maps.items()):
        assert y.shape == (2, backbone.dims[i], 64 // 2 ** (i + 2), 96 // 2 ** (i + 2))
        assert y.mean(1).abs().max() < 1e-5
        # eps 1e-6 is not small beside the variance of a fresh network's activations: at most 1, and far from 0
        assert 0.5 < y.var(1, unbiased=False).mean() <= 1
        assert torch.allclose(y, classifier.feature_maps(x)[name], atol=1e-5)


@pytest.mark.parametrize(
    ("table", "size", "prefix", "rule", "decay"),
    [
        ("groups_classification_base_decay0.8.tsv", "base", "", "layer", 0.8),
        ("groups_detection_tiny_layer_wise_6_decay0.95.tsv", "tiny", "backbone.", "layer", 0.95),
        ("groups_segmentation_tiny_stage_wise_6_decay0.9.tsv", "tiny", "backbone.", "stage", 0.9),
    ],
)
def test_layer_decay_is_the_references(table, size, prefix, rule, decay, on_meta):
    rows = [line.split("\t") for line in (oracle.ORACLES / table).read_text().splitlines()]
    expected = {name: float(scale) for name, scale, _ in rows if name != "any head parameter"}
    model = on_meta(f"convnext_{size}", num_classes=None if prefix else 1000)
    ids, last = model.layer_decay_ids(rule)
    assert {prefix + name: decay ** (last - i) for name, i in ids.items()} == pytest.approx(expected)


def test_wrong_layer_decay_rule_is_named():
    with pytest.raises(ConvNextError, match="'layers'"):
        small().layer_decay_ids("layers")


# -- by name


def test_names_are_of_all_families_and_unique():
    names = models.names()
    assert {"convnext_atto", "convnext_xlarge", "convnext_isotropic_large", "roadmap_resnet50_resnet"} < set(names)
    assert len(names) == len(set(names)) == 9 + 3 + 32 + 3  # ConvNeXt, isotropic, roadmap, ablations


def test_build_records_what_was_asked_for():
    model = models.build("convnext_atto", num_classes=7, stem_stride=2)
    assert model.config == {"name": "convnext_atto", "num_classes": 7, "stem_stride": 2}
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_a_typo_is_answered():
    with pytest.raises(ConvNextError, match="'convnext_tiny'"):
        models.build("convnext_tinny")
    with pytest.raises(ConvNextError, match="'num_classes'"):
        models.build("convnext_tiny", num_clases=7)
    with pytest.raises(ConvNextError, match=r"'stem_stride'.*Its options are: num_classes, in_chans"):
        models.build("convnext_isotropic_small", stem_stride=2)


def test_importing_the_package_does_not_import_torch():
    code = "import convnext.models, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
