"""What is set and refused; that the numbers stay is shown in test_fused.py (kernels) and below (PyTorch's operations)."""

import dataclasses

import pytest
import torch

from convnext import models, recipes
from convnext.classification.spec import SPEC
from convnext.classification.task import ClassificationTask
from convnext.errors import ConvNextError
from convnext.models.block import Block
from convnext.models.convnext import ConvNeXt
from convnext.models.isotropic import IsotropicConvNeXt
from convnext.models.recompute import recompute_blocks, recompute_hidden
from convnext.recipes.plan import make_plan
from convnext.runtime.world import World
from convnext.segmentation.segmenter import build as build_segmenter


def flags(model) -> list[bool]:
    return [m.recompute_hidden for m in model.modules() if isinstance(m, Block)]


def test_blocks_of_the_named_stages_only():
    model = ConvNeXt((1, 2, 1, 1), (8, 16, 24, 32), num_classes=3)
    recompute_hidden(model, ())
    assert not any(flags(model))
    recompute_hidden(model, (1, 3))
    assert flags(model) == [False, True, True, False, True]
    isotropic = IsotropicConvNeXt(2, 8)
    recompute_hidden(isotropic, [0])
    assert flags(isotropic) == [True, True]


def test_a_segmenters_backbone():
    with torch.device("meta"):
        model = build_segmenter("upernet_convnext_atto")
    recompute_hidden(model, (0,))
    assert sum(flags(model.backbone.stages[0])) == sum(flags(model)) == 2


def test_what_is_refused():
    with pytest.raises(ConvNextError, match="no stage 4 to recompute; the model has stages 0 to 3"):
        recompute_hidden(ConvNeXt((1, 1, 1, 1), (8, 16, 24, 32)), (0, 4))
    with torch.device("meta"):
        other = models.build("roadmap_resnet50_depthwise")
    with pytest.raises(ConvNextError, match="no ConvNeXt blocks"):
        recompute_hidden(other, (0,))


@pytest.mark.parametrize("cls", [ConvNeXt, IsotropicConvNeXt])
def test_running_blocks_again_changes_no_bit(cls):
    shape = ((1, 1, 2, 1), (8, 16, 24, 32)) if cls is ConvNeXt else (3, 16)
    plain, saving = (cls(*shape, num_classes=3, drop_path_rate=0.5, layer_scale_init_value=1.0) for _ in range(2))
    saving.load_state_dict(plain.state_dict())
    recompute_blocks(saving)
    x, gradients = torch.randn(4, 3, 32, 32), []
    for model in (plain, saving):
        torch.manual_seed(1)
        model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_recipes_option_reaches_the_blocks(tmp_path):
    recipe = recipes.get("quickstart")
    recipe = dataclasses.replace(recipe, runtime=dataclasses.replace(recipe.runtime, recompute_stages=(2,)))
    train, val = SPEC.open_data(recipe)
    task = ClassificationTask(
        recipe, make_plan(recipe, len(train)), train, val, World(torch.device("cpu")), tmp_path, print
    )
    assert sum(flags(task.model)) == sum(flags(task.model.stages[2])) == 6
