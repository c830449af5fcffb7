from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convnext import models
from convnext.errors import ConvNextError
from convnext.models.convnext import ConvNeXt
from convnext.models.roadmap import REGIMES, SIZES, ChannelNorm, RoadmapNet
from convnext.paper import NOT_ADOPTED, ROADMAPS
from convnext.recipes.roadmap import RECIPES

KEYS = list(REGIMES["resnet50"])
SMALL = {"width_mult": 1 / 8, "depth_mult": 1 / 3, "num_classes": 5}
MACS = {(regime, step.key): step.macs for regime, road in ROADMAPS.items() for step in road.steps}

BLOCKS = {  # step: a block of stage 1, and the first one of that stage, which downsamples; ResNet-50 regime
    "resnet": (
        "1x1 512-128 BN ReLU 3x3 128 BN ReLU 1x1 128-512 BN + ReLU",
        "1x1 256-128 BN ReLU 3x3/2 128 BN ReLU 1x1 128-512 BN + ReLU | 1x1/2 256-512 BN",
    ),
    "stage-ratio": "resnet",
    "patchify-stem": "resnet",
    "depthwise": (
        "1x1 512-128 BN ReLU dw3x3 128 BN ReLU 1x1 128-512 BN + ReLU",
        "1x1 256-128 BN ReLU dw3x3/2 128 BN ReLU 1x1 128-512 BN + ReLU | 1x1/2 256-512 BN",
    ),
    "width": (
        "1x1 768-192 BN ReLU dw3x3 192 BN ReLU 1x1 192-768 BN + ReLU",
        "1x1 384-192 BN ReLU dw3x3/2 192 BN ReLU 1x1 192-768 BN + ReLU | 1x1/2 384-768 BN",
    ),
    "inverting": (
        "1x1 192-768 BN ReLU dw3x3 768 BN ReLU 1x1 768-192 BN + ReLU",
        "1x1 96-768 BN ReLU dw3x3/2 768 BN ReLU 1x1 768-192 BN + ReLU | 1x1/2 96-192 BN",
    ),
    "move-up": (
        "dw3x3 192 BN ReLU 1x1 192-768 BN ReLU 1x1 768-192 BN + ReLU",
        "dw3x3/2 96 BN ReLU 1x1 96-768 BN ReLU 1x1 768-192 BN + ReLU | 1x1/2 96-192 BN",
    ),
    "kernel-7": (
        "dw7x7 192 BN ReLU 1x1 192-768 BN ReLU 1x1 768-192 BN + ReLU",
        "dw7x7/2 96 BN ReLU 1x1 96-768 BN ReLU 1x1 768-192 BN + ReLU | 1x1/2 96-192 BN",
    ),
    "gelu": (
        "dw7x7 192 BN GELU 1x1 192-768 BN GELU 1x1 768-192 BN + GELU",
        "dw7x7/2 96 BN GELU 1x1 96-768 BN GELU 1x1 768-192 BN + GELU | 1x1/2 96-192 BN",
    ),
    "fewer-activations": (
        "dw7x7 192 BN 1x1 192-768 BN GELU 1x1 768-192 BN +",
        "dw7x7/2 96 BN 1x1 96-768 BN GELU 1x1 768-192 BN + | 1x1/2 96-192 BN",
    ),
    "fewer-norms": (
        "dw7x7 192 BN 1x1 192-768 GELU 1x1 768-192 +",
        "dw7x7/2 96 BN 1x1 96-768 GELU 1x1 768-192 + | 1x1/2 96-192",
    ),
    "layer-norm": (
        "dw7x7 192 LN 1x1 192-768 GELU 1x1 768-192 +",
        "dw7x7/2 96 LN 1x1 96-768 GELU 1x1 768-192 + | 1x1/2 96-192",
    ),
}


def describe(modules) -> str:
    """`dw7x7/2 96` is a depthwise convolution of stride 2; the names of norms and activations are as in the paper."""
    names = {nn.BatchNorm2d: "BN", ChannelNorm: "LN", nn.ReLU: "ReLU", nn.GELU: "GELU", nn.MaxPool2d: "pool"}
    words = []
    for m in modules:
        if isinstance(m, nn.Conv2d):
            (k, _), (stride, _) = m.kernel_size, m.stride
            words.append(f"{'dw' if m.groups > 1 else ''}{k}x{k}{f'/{stride}' if stride > 1 else ''}")
            words.append(f"{m.in_channels}" if m.in_channels == m.out_channels else f"{m.in_channels}-{m.out_channels}")
        elif type(m) in names:
            words.append(names[type(m)])
    return " ".join(words)


def describe_block(block) -> str:
    words = f"{describe(block.branch)} + {describe([block.activation])}".strip()
    return f"{words} | {describe(block.shortcut)}" if len(block.shortcut) else words


# -- every step is what the tables say


@pytest.mark.parametrize("key", KEYS)
def test_macs_are_the_papers(key, on_meta, macs):
    for regime in REGIMES:
        assert macs(on_meta(f"roadmap_{regime}_{key}")) == MACS[regime, key]


@pytest.mark.parametrize("key", BLOCKS)
def test_blocks_are_the_papers(key, on_meta):
    expected = BLOCKS[key]
    blocks = on_meta(f"roadmap_resnet50_{key}").stages[1]
    assert (describe_block(blocks[1]), describe_block(blocks[0])) == BLOCKS.get(expected, expected)


def test_stems_are_the_papers(on_meta):
    assert describe(on_meta("roadmap_resnet50_resnet").stem) == "7x7/2 3-64 BN ReLU pool"
    assert describe(on_meta("roadmap_resnet200_stage-ratio").stem) == "7x7/2 3-84 BN ReLU pool"
    assert describe(on_meta("roadmap_resnet200_patchify-stem").stem) == "4x4/4 3-84"


def test_only_a_block_that_changes_shape_has_a_projection(on_meta):
    for key, first in (("width", True), ("inverting", False)):
        stages = on_meta(f"roadmap_resnet50_{key}").stages
        assert [[len(block.shortcut) > 0 for block in stage[:2]] for stage in stages] == [
            [first, False],
            *3 * [[True, False]],
        ]


@pytest.mark.parametrize("regime", REGIMES)
def test_each_step_is_one_change(regime):
    changed = {
        "stage-ratio": {"depths"} if regime == "resnet50" else {"depths", "width"},
        "patchify-stem": {"patchify"},
        "depthwise": {"depthwise"},
        "width": {"width"},
        "inverting": {"inverted"},
        "move-up": {"spatial_first"},
        "kernel-5": {"kernel"},
        "kernel-7": {"kernel"},
        "kernel-9": {"kernel"},
        "kernel-11": {"kernel"},
        "gelu": {"activation"},
        "fewer-activations": {"activations"},
        "fewer-norms": {"norms", "shortcut_norm"},
        "layer-norm": {"norm"},
        "separate-downsampling": {"separate_downsampling", "stem_norm", "pool_norm"},
    }
    steps = REGIMES[regime]
    adopted = [key for key in steps if key not in NOT_ADOPTED]
    explored = [("kernel-7", key) for key in steps if key in NOT_ADOPTED]
    for before, after in [*pairwise(adopted), *explored]:
        names = {
            f.name for f in fields(steps[after]) if getattr(steps[before], f.name) != getattr(steps[after], f.name)
        }
        assert names == changed[after], after


@pytest.mark.parametrize(("regime", "size"), [("resnet50", "tiny"), ("resnet200", "base")])
def test_last_step_is_convnext(regime, size, on_meta):
    last, convnext = on_meta(f"roadmap_{regime}_separate-downsampling"), on_meta(f"convnext_{size}")
    assert isinstance(last, ConvNeXt)
    shapes = [{name: p.shape for name, p in model.state_dict().items()} for model in (last, convnext)]
    assert shapes[0] == shapes[1]


# -- what no published number fixes


@pytest.mark.parametrize("key", KEYS[:-1])
def test_convolutions_have_no_bias_exactly_where_batch_norm_follows(key, on_meta):
    model = on_meta(f"roadmap_resnet50_{key}")
    for layers in [model.stem, *(part for stage in model.stages for b in stage for part in (b.branch, b.shortcut))]:
        for conv, following in pairwise([*layers, None]):
            if isinstance(conv, nn.Conv2d):
                assert (conv.bias is None) == isinstance(following, nn.BatchNorm2d)


@pytest.mark.parametrize("key", ["patchify-stem", "layer-norm"])
def test_choices_can_be_made_otherwise(key):
    spec = replace(REGIMES["resnet50"][key], depths=(1, 1, 1, 1), width=8)
    other = replace(spec, stem_norm=True, pool_norm=True, shortcut_norm=not spec.shortcut_norm)
    norms = [sum(isinstance(m, spec.norm) for m in RoadmapNet(s).modules()) for s in (spec, other)]
    shortcuts = sum(len(stage[0].shortcut) > 0 for stage in RoadmapNet(spec).stages)
    assert norms[1] - norms[0] == 2 + (shortcuts if other.shortcut_norm else -shortcuts)
    assert RoadmapNet(other)(torch.randn(2, 3, 32, 32)).isfinite().all()


def test_layer_scale_is_on_the_branch_before_the_sum():
    model = models.build("roadmap_resnet50_resnet", layer_scale_init_value=0.5, **SMALL).eval()
    block, x = model.stages[0][0], torch.randn(2, 8, 8, 8)
    assert torch.allclose(block(x), F.relu(block.shortcut(x) + 0.5 * block.branch(x)))
    without = models.build("roadmap_resnet50_resnet", layer_scale_init_value=0.0, **SMALL)
    assert not [name for name in without.state_dict() if "gamma" in name]


# -- every step runs and trains


@pytest.mark.parametrize("key", KEYS)
def test_small_version_trains_on_32_pixels(key):
    model = models.build(f"roadmap_resnet50_{key}", stem_stride=1, drop_path_rate=0.1, **SMALL)
    logits = model(torch.randn(2, 3, 32, 32))
    loss = F.cross_entropy(logits, torch.tensor([0, 4]))
    loss.backward()
    assert logits.shape == (2, 5)
    assert loss.isfinite()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name


@pytest.mark.parametrize("key", ["resnet", "patchify-stem", "layer-norm", "separate-downsampling"])
@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_stem_stride_is_one_rule_for_all_steps(key, stem_stride):
    model = models.build(f"roadmap_resnet50_{key}", stem_stride=stem_stride, **SMALL).eval()
    heights = []
    axis = 1 if isinstance(model, ConvNeXt) else 2
    for stage in model.stages:
        stage.register_forward_hook(lambda module, args, y: heights.append(y.shape[axis]))
    model(torch.randn(1, 3, 64, 64))
    assert heights == [64 // (stem_stride * 2**i) for i in range(4)]


def test_scaling_is_one_rule_for_all_steps():
    widths = {key: models.build(f"roadmap_resnet50_{key}", **SMALL).head.in_features for key in KEYS}
    assert widths["resnet"] == 8 * 32
    assert widths["width"] == 12 * 32
    assert widths["layer-norm"] == widths["separate-downsampling"] == 12 * 8
    depths = [[len(stage) for stage in models.build(f"roadmap_resnet50_{key}", **SMALL).stages] for key in KEYS]
    assert depths == [[1, 1, 2, 1], *15 * [[1, 1, 3, 1]]]


@pytest.mark.parametrize("key", ["resnet", "layer-norm"])
def test_layout_of_the_input_does_not_matter(key):
    model = models.build(f"roadmap_resnet50_{key}", layer_scale_init_value=1.0, **SMALL).eval()
    x = torch.randn(2, 3, 32, 48)
    expected = model(x)
    assert torch.allclose(model(x.contiguous(memory_format=torch.channels_last)), expected, atol=1e-5)
    assert torch.allclose(model.to(memory_format=torch.channels_last)(x), expected, atol=1e-5)


def test_drop_path_rises_linearly_and_drops_the_branch():
    model = models.build("roadmap_resnet50_stage-ratio", drop_path_rate=0.5, **SMALL)
    blocks = [block for stage in model.stages for block in stage]
    assert [block.drop_path_rate for block in blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    block = blocks[3].train()
    block.drop_path_rate = 1.0
    x = torch.randn(2, 128, 4, 4)
    assert torch.equal(block(x), F.relu(x))


def test_wrong_input_and_stride_are_named():
    with pytest.raises(ConvNextError, match=r"\(1, 3, 16, 32\).*at least 32"):
        models.build("roadmap_resnet50_resnet", **SMALL)(torch.zeros(1, 3, 16, 32))
    with pytest.raises(ConvNextError, match="must be 1, 2 or 4"):
        models.build("roadmap_resnet50_resnet", stem_stride=3, **SMALL)


# -- rows and recipes


def test_models_rows_and_recipes_have_the_same_names():
    assert list(SIZES) == [f"roadmap_{regime}_{step.key}" for regime, road in ROADMAPS.items() for step in road.steps]
    assert [recipe.model.name for recipe in RECIPES.values()] == list(SIZES)
    assert list(RECIPES)[:2] == ["roadmap/resnet50-resnet", "roadmap/resnet50-stage-ratio"]


def test_recipes_are_table_5_without_ema():
    recipe = RECIPES["roadmap/resnet200-stage-ratio"]
    assert recipe.source == "Table 11, row stage ratio"
    assert recipe.model.drop_path_rate == 0.5
    assert RECIPES["roadmap/resnet50-gelu"].model.drop_path_rate == 0.1
    assert (recipe.epochs, recipe.total_batch, recipe.optim.lr) == (300, 4096, 4e-3)
    assert recipe.ema.decay is recipe.ema.half_life_share is None
