"""Which configurations come of the choices of a command."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from convnext.benchmark.configs import COMPILES, LAYOUTS, RUNTIMES, Choices, Config, expand, library_of
from convnext.errors import ConvNextError

OURS, PEER = "convnext_tiny", "timm:convnext_tiny"


def ways(configs, model):
    return [(c.compile, c.layout, c.graph, c.form) for c in configs if c.model == model]


def test_on_a_cpu():
    configs = expand([OURS, PEER], Choices(), "cpu")
    assert {(c.batch, c.precision, c.mode, c.image_size) for c in configs} == {(1, "fp32", "inference", 224)}
    assert ways(configs, OURS) == [("none", "nhwc", False, "plain")]
    assert ways(configs, PEER) == [("none", "nchw", False, "plain"), ("none", "nhwc", False, "plain")]


def test_on_a_gpu_the_best_of_the_peers_is_looked_for():
    configs = expand([OURS, PEER], Choices(), "cuda")
    assert {(c.batch, c.precision, c.autocast) for c in configs} == {(256, "bf16", False)}
    assert len(ways(configs, OURS)) == 1
    assert set(ways(configs, PEER)) == {
        (how, layout, False, "plain") for how in ("none", "default", "max-autotune") for layout in LAYOUTS
    }


def test_graphs_for_one_image_on_a_gpu():
    configs = expand([OURS, PEER], Choices(batches=(1, 8), layouts=("nhwc",)), "cuda")
    counted = Counter((c.model, c.batch, c.compile, c.graph) for c in configs)
    assert set(counted.values()) == {1}
    assert {key for key in counted if key[3]} == {
        (OURS, 1, "none", True),
        (PEER, 1, "none", True),
        (PEER, 1, "default", True),
    }


def test_training_has_no_form_for_inference():
    choices = Choices(modes=("train",), precisions=("bf16",), compiles=COMPILES, graphs="on", layouts=("nhwc",))
    configs = expand([OURS, PEER], choices, "cuda", deployable=lambda name: True)
    assert ways(configs, OURS) == [
        (how, "nhwc", how not in ("max-autotune", "reduce-overhead"), "plain") for how in COMPILES if how != "freezing"
    ]
    assert all(c.autocast for c in configs)
    assert not any(c.autocast for c in expand([OURS], replace(choices, weights="cast"), "cuda"))


def test_what_deploy_is_tried_with():
    choices = Choices(precisions=("fp32", "bf16", "fp16"), compiles=("none", "default"), backends=("auto", "reference"))
    configs = expand([OURS, PEER], choices, "cpu", deployable=lambda name: True)
    deployed = [c for c in configs if c.form == "deploy"]
    assert {(c.model, c.precision, c.compile, c.backend) for c in deployed} == {
        (OURS, "fp32", "none", "auto"),
        (OURS, "bf16", "none", "auto"),
    }
    assert {c.backend for c in configs if c.model == PEER} == {"auto"}
    assert {c.backend for c in configs if c.model == OURS} == {"auto", "reference"}


def test_groups_stand_together_and_labels_tell_configurations_apart():
    choices = Choices(
        modes=("inference", "train"), batches=(1, 2), image_sizes=(64, 96), precisions=("fp32", "bf16"),
        compiles=COMPILES, layouts=LAYOUTS, backends=("auto", "reference"), graphs="both",
    )  # fmt: skip
    configs = expand([OURS, PEER, OURS], choices, "cuda", deployable=lambda name: True)
    assert len(set(configs)) == len(configs)
    groups = [c.group for c in configs]
    assert len(set(groups)) == 2 * 2 * 2 * 2
    assert sum(a != b for a, b in pairwise(groups)) == len(set(groups)) - 1
    assert len({(c.model, c.group_label, c.label) for c in configs}) == len(configs)


@pytest.mark.parametrize(
    ("choices", "device", "said"),
    [
        (Choices(precisions=("tf32",)), "cpu", "tf32 is an arithmetic of GPUs"),
        (Choices(graphs="on"), "cpu", "CUDA graphs need a GPU"),
        (Choices(compiles=("fast",)), "cpu", "'fast' is none of the compiles: none, default"),
        (Choices(batches=(4, 0)), "cpu", "0 is among the batches"),
        (Choices(image_sizes=(-1,)), "cuda", "-1 is among the image_sizes"),
    ],
)
def test_choices_that_are_refused(choices, device, said):
    with pytest.raises(ConvNextError, match=said):
        expand([OURS], choices, device)


def test_a_library_is_named_before_the_colon():
    assert [library_of(n) for n in (OURS, PEER, "torchvision:x", "transformers:a/b", "timm:", "C:model.pth")] == [
        "ours", "timm", "torchvision", "transformers", "ours", "ours",
    ]  # fmt: skip
    assert Config(OURS).ours
    assert not Config(PEER).ours


def test_other_runtimes_take_the_precisions_that_they_have():
    choices = Choices(precisions=("fp32", "bf16"), layouts=("nhwc",), runtimes=RUNTIMES)
    configs = expand([PEER], choices, "cpu")
    assert {(c.precision, c.runtime) for c in configs} == {
        ("fp32", "torch"),
        ("fp32", "onnxruntime"),
        ("fp32", "openvino"),
        ("fp32", "openvino-int8"),
        ("bf16", "torch"),
        ("bf16", "openvino"),
        ("bf16", "openvino-int8"),
    }
    ours = expand([OURS], choices, "cpu")  # our own int8 takes no other library's models
    assert {c.precision for c in ours if c.runtime == "convnext-int8"} == {"fp32", "bf16"}
    assert all(c.quantised for c in ours if c.runtime.endswith("int8"))
    alone = expand([PEER], replace(choices, runtimes=("openvino",)), "cpu")
    assert {c.runtime for c in alone} == {"openvino"}
    assert {c.label for c in alone} == {"openvino"}
    with pytest.raises(ConvNextError, match="on a CPU"):
        expand([PEER], choices, "cuda")
