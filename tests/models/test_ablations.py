"""Ablations of the paper's text: each is a step of the roadmap with one change, and can be trained by name."""

import pytest
import torch
from torch import nn

from convnext import models, recipes
from convnext.models.ablations import SIZES
from convnext.models.block import ChannelNorm

SMALL = {"width_mult": 1 / 8, "depth_mult": 1 / 3, "num_classes": 5}


def kinds(model, *wanted) -> int:
    return sum(isinstance(module, wanted) for module in model.modules())


def test_one_more_norm_stands_at_the_start_of_each_block():
    model, step = (models.build(n, **SMALL) for n in ("ablation_first-norm", "roadmap_resnet50_fewer-norms"))
    blocks = [block for stage in model.stages for block in stage]
    assert all(isinstance(block.branch[0], nn.BatchNorm2d) for block in blocks)
    assert kinds(model, nn.BatchNorm2d) == kinds(step, nn.BatchNorm2d) + len(blocks)
    assert blocks[-1].branch[0].num_features == blocks[-1].branch[1].in_channels


def test_the_plain_resnet_has_layer_norm_everywhere():
    model, step = (models.build(n, **SMALL) for n in ("ablation_resnet-layer-norm", "roadmap_resnet50_resnet"))
    assert kinds(model, nn.BatchNorm2d) == 0
    assert kinds(model, ChannelNorm) == kinds(step, nn.BatchNorm2d)


def test_downsampling_is_separate_and_without_norms(on_meta, macs):
    model = on_meta("ablation_bare-downsampling")
    assert [type(stage[0]).__name__ for stage in model.stages] == ["Block", "Conv2d", "Conv2d", "Conv2d"]
    assert all(stage[0].kernel_size == stage[0].stride == (2, 2) for stage in list(model.stages)[1:])
    assert kinds(model, ChannelNorm) == sum(model.spec.depths)  # one in each block, none elsewhere
    assert macs(model) == macs(on_meta("convnext_tiny"))  # norms are not counted


@pytest.mark.parametrize("name", SIZES)
def test_each_learns_from_a_batch_and_has_a_recipe(name):
    torch.manual_seed(0)
    model = models.build(name, stem_stride=1, drop_path_rate=0.1, **SMALL).train()
    logits = model(torch.randn(2, 3, 16, 16))
    logits.square().sum().backward()
    assert logits.shape == (2, 5)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert recipes.get(name.replace("_", "/", 1)).model.name == name


def test_ema_of_a_model_with_batch_norm_is_a_recipe_alone():
    ema, step = recipes.get("ablation/batch-norm-ema"), recipes.get("roadmap/resnet50-fewer-norms")
    assert (ema.model, ema.ema.decay, step.ema.decay) == (step.model, 0.9999, None)
