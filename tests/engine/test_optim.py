from pathlib import Path

import pytest
import torch
from torch import nn

from convnext.engine.optim import (
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    param_groups,
    set_lr,
)
from convnext.errors import ConvNextError
from convnext.models import build
from convnext.recipes.schema import Optim

ORACLES = Path(__file__).parents[1] / "oracles"


@pytest.mark.parametrize(
    ("oracle", "model", "decay", "weight_decay", "rule", "prefix"),
    [
        ("groups_classification_base_decay0.8.tsv", "convnext_base", 0.8, 1e-8, "layer", ""),
        ("groups_detection_tiny_layer_wise_6_decay0.95.tsv", "convnext_tiny", 0.95, 0.05, "layer", "backbone."),
        ("groups_segmentation_tiny_stage_wise_6_decay0.9.tsv", "convnext_tiny", 0.9, 0.05, "stage", "backbone."),
    ],
)
def test_groups_equal_the_reference(oracle, model, decay, weight_decay, rule, prefix):
    lines = [line.split("\t") for line in (ORACLES / oracle).read_text().splitlines()]
    expected = {name.removeprefix(prefix): (float(scale), float(wd)) for name, scale, wd in lines if " " not in name}
    with torch.device("meta"):
        network = build(model, num_classes=None if prefix else 1000)
    got = {
        name: (group["lr_scale"], group["weight_decay"])
        for group in param_groups(network, weight_decay, decay, rule)
        for name in group["names"]
    }
    assert got.keys() == expected.keys()
    for name, pair in expected.items():
        assert got[name] == pytest.approx(pair, rel=1e-12), name


def test_without_layer_decay_there_are_two_groups():
    groups = param_groups(build("convnext_atto", num_classes=3), 0.05, None)
    assert sorted((g["lr_scale"], g["weight_decay"]) for g in groups) == [(1.0, 0.0), (1.0, 0.05)]
    decayed = next(g for g in groups if g["weight_decay"])["names"]
    assert "stages.0.0.dwconv.weight" in decayed  # depthwise weights decay
    assert not any(name.endswith((".bias", ".gamma")) or ".norm." in name for name in decayed)


@pytest.mark.parametrize("name", ["convnext_atto", "convnext_isotropic_small"])
def test_layer_decay_works_for_every_size(name):
    with torch.device("meta"):
        model = build(name)
    scales = {group["lr_scale"] for group in param_groups(model, 0.05, 0.5)}
    assert max(scales) == 1.0
    assert len(scales) >= 6


def test_a_model_without_ids_is_refused_with_what_to_do():
    with pytest.raises(ConvNextError, match="layer-decay None"):
        param_groups(nn.Linear(2, 2), 0.05, 0.9)


def test_set_lr_scales_per_group():
    optimizer = make_optimizer(build("convnext_atto", num_classes=3), Optim(layer_decay=0.5))
    set_lr(optimizer, 2.0)
    assert all(group["lr"] == 2.0 * group["lr_scale"] for group in optimizer.param_groups)


def test_a_step_is_pytorchs_and_can_be_skipped():
    def weights(step):
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        optimizer = make_optimizer(model, Optim(weight_decay=0.1))
        for _ in range(3):
            model(torch.ones(2, 4)).square().sum().backward()
            step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        return model.weight.detach()

    plain = weights(lambda optimizer: torch.optim.AdamW.step(optimizer))
    assert torch.equal(weights(lambda optimizer: optimizer.step_unless(torch.zeros(()))), plain)
    torch.manual_seed(0)
    untouched = nn.Linear(4, 3).weight
    assert torch.equal(weights(lambda optimizer: optimizer.step_unless(torch.ones(()))), untouched)


def test_state_survives_a_round_trip_and_continues_to_the_same_bits():
    def model_and_optimizer():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
        return model, make_optimizer(model, Optim())

    def step(model, optimizer, seed):
        x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = model_and_optimizer()
    step(model, optimizer, 1)
    saved = {key: value.clone() for key, value in optimizer_tensors(optimizer).items()}
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    step(model, optimizer, 2)

    other, other_optimizer = model_and_optimizer()
    other.load_state_dict(weights)
    load_optimizer_tensors(other_optimizer, saved)
    step(other, other_optimizer, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    one, two = optimizer_tensors(optimizer), optimizer_tensors(other_optimizer)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
