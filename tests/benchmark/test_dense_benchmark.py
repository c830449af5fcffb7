"""Detectors and segmenters in the benchmark: they do the work of trained ones, in inference and in training."""

import pytest
import torch

from convnext import tasks
from convnext.benchmark import networks
from convnext.benchmark.configs import Choices, Config, expand
from convnext.benchmark.prepare import images, prepare
from convnext.benchmark.tables import detectors_of_paper
from convnext.detection.detector import build
from convnext.detection.priming import example_targets

DETECTOR, SEGMENTER = "mask_rcnn_convnext_atto", "upernet_convnext_atto"
CPU = torch.device("cpu")


@pytest.mark.slow
def test_a_primed_detector_finds_a_hundred_objects_among_a_thousand_proposals():
    torch.manual_seed(0)
    plain = build(DETECTOR).eval()
    x = torch.randn(1, 3, 384, 480)
    assert len(plain(x)[0]["boxes"]) == 0
    spec = networks.dense_spec(DETECTOR)
    assert spec is not None
    (found,) = spec.primed(plain)(x)
    assert len(plain.proposals(x)[0][0]) == 1000
    assert found["masks"].shape == (100, 384, 480)
    assert found["masks"].any()


def test_names_sizes_and_shapes():
    assert networks.image_shape("cascade_mask_rcnn+timm:resnet50", 800) == (800, 1280)
    assert networks.image_shape(SEGMENTER, 512) == (512, 2048)
    assert networks.image_shape(SEGMENTER, 64) == (64, 64)
    assert networks.image_shape("convnext_tiny", 224) == (224, 224)
    assert networks.dense_spec("convnext_tiny") is None
    assert not networks.deployable(DETECTOR)
    assert images(Config(DETECTOR, image_size=800), CPU, 1)[0].shape == (1, 3, 800, 1280)


def test_configurations_of_dense_models_stand_beside_those_of_classifiers():
    def sizes(name):
        return None if networks.dense_spec(name) is None else networks.default_sizes(name)

    modes = Choices(modes=("inference", "train"))
    found = expand([DETECTOR, "convnext_atto", SEGMENTER], modes, "cpu", networks.deployable, sizes)
    told = {(c.model, c.mode, c.batch, c.image_size, c.form) for c in found}
    assert {row for row in told if row[0] != "convnext_atto"} == {
        (DETECTOR, "inference", 1, 800, "plain"), (DETECTOR, "train", 2, 800, "plain"),
        (SEGMENTER, "inference", 1, 512, "plain"), (SEGMENTER, "train", 2, 512, "plain"),
    }  # fmt: skip
    assert ("convnext_atto", "inference", 1, 224, "deploy") in told


@pytest.mark.slow
def test_steps_of_training_and_of_inference_run():
    for name in (DETECTOR, SEGMENTER):
        loss = prepare(Config(name, "train", 2, 128), CPU, rotated=False)()
        assert torch.isfinite(loss)
        assert loss.ndim == 0
    out = prepare(Config(SEGMENTER, "inference", 1, 64), CPU, rotated=False)()
    assert out.shape == (1, 150, 64, 64)


def test_example_targets_fit_the_images():
    x = torch.zeros(2, 3, 96, 128)
    for target in example_targets(x):
        assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all()
        assert target["masks"].shape == (7, 96, 128)
        assert target["masks"].flatten(1).any(1).all()
    (spec,) = (spec for spec in tasks.specs() if SEGMENTER in spec.models())
    assert spec.example_targets(x).shape == (2, 96, 128)


def test_the_papers_speed_and_memory_stand_beside_what_was_measured():
    names = (
        "cascade_mask_rcnn_convnext_base",
        "cascade_mask_rcnn+timm:swin_base_patch4_window7_224",
        "upernet_convnext_tiny",
    )
    rows = [{"config": Config(name, mode).to_dict()} for name in names for mode in ("inference", "train")]
    assert [(name, number) for name, _, number in detectors_of_paper(rows)] == [
        (names[0], "11.4"), (names[0], "17.4"), (names[1], "10.7"), (names[1], "18.5")
    ]  # fmt: skip


def test_what_the_paper_prints_of_speed_stands_in_its_table():
    (spec,) = (spec for spec in tasks.specs() if DETECTOR in spec.models())
    assert spec.printed("mask_rcnn_convnext_tiny", 800).fps == 25.6
