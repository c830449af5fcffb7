"""Parts that a run leaves as they are."""

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn
from toy import make_run

import convnext
from convnext.cli.main import run
from convnext.engine.freeze import freeze
from convnext.engine.loop import Run
from convnext.errors import ConvNextError
from convnext.models import build
from convnext.models.outputs import CLASSIFIER
from pictures import SCRATCH, draw_classes

SMALL = {"width_mult": 0.125, "depth_mult": 0.34, "num_classes": 2}


def trainable(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", ["roadmap_resnet50_patchify-stem", "roadmap_resnet50_separate-downsampling"])
def test_all_but_the_classifier(name):
    model = build(name, **SMALL)
    freeze(model, ("backbone",))
    assert trainable(model) == {"head.weight", "head.bias"}


def test_stages_with_what_stands_before_them():
    model = convnext.create_model("convnext_atto", num_classes=2)
    freeze(model, ("stages", "0", "2"))
    frozen = {name for name, _ in model.named_parameters()} - trainable(model)

    assert {tuple(name.split(".")[:2]) for name in frozen} == {
        (kind, stage) for kind in ("stages", "downsample_layers") for stage in "02"
    }


def test_the_backbone_of_a_model_around_it():
    model = nn.Module()
    model.backbone, model.neck = build("convnext_atto", num_classes=None), nn.Linear(2, 2)
    freeze(model, ("backbone",))
    assert trainable(model) == {"neck.weight", "neck.bias"}
    model.requires_grad_(True)
    freeze(model, ("stages", "3"))
    assert "backbone.stages.3.0.gamma" not in trainable(model)
    assert "backbone.stages.2.0.gamma" in trainable(model)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("backbon",), "'backbone'"),
        (("stages",), "stages 0 1"),
        (("stages", "7"), "no stage 7"),
        (("head",), "unknown"),
    ],
)
def test_other_words_are_answered(words, answer):
    with pytest.raises(ConvNextError, match=answer):
        freeze(build("convnext_atto", num_classes=2), words)


class Net(nn.Sequential):
    output_layers = CLASSIFIER


def test_frozen_parts_compute_as_in_evaluation_and_do_not_change(tmp_path):
    run = make_run(tmp_path)
    body = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Dropout(0.5))
    frozen_net = Net(OrderedDict(body=body, head=nn.Linear(8, 3)))
    run.task.model = frozen_net
    before = {name: value.clone() for name, value in frozen_net.state_dict().items()}
    run = Run(run.task, replace(run.recipe, freeze=("backbone",)), run.plan, tmp_path, run.world, run.console)
    modes = []
    body.register_forward_hook(lambda module, *_: modes.append(module.training))
    run.fit()
    assert not any(modes)
    changed = {name for name, value in frozen_net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}


@pytest.mark.slow
def test_a_linear_probe_from_a_run(tmp_path):
    striped = draw_classes(tmp_path / "striped", {"across": 40, "down": 40})
    options = [*SCRATCH, "--epochs", "2", "--data", str(striped), "--model.drop-path-rate", "0.5"]
    assert run(["train", "small/scratch", *options, "--out", str(tmp_path / "a")]) == 0
    start = ["--model.weights", str(tmp_path / "a" / "model.safetensors"), "--freeze", "backbone"]
    assert run(["train", "small/scratch", *options, *start, "--out", str(tmp_path / "b")]) == 0
    before, after = (convnext.load(tmp_path / name, weights="raw", device="cpu").module.state_dict() for name in "ab")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight", "head.bias"}
