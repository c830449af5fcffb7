"""Every family tells its models from their tensors, and publishes the layers that depend on the number of classes."""

import pytest
import torch

from convnext import models, tasks
from convnext.detection import detector
from convnext.segmentation import segmenter

FAMILIES = {
    "convnext_atto": models.build,
    "convnext_isotropic_small": models.build,
    "roadmap_resnet50_depthwise": models.build,
    "mask_rcnn_convnext_atto": detector.build,
    "cascade_mask_rcnn_convnext_femto": detector.build,
    "upernet_convnext_pico": segmenter.build,
}


def on_meta(name, **options):
    with torch.device("meta"):
        return FAMILIES[name](name, **options)


@pytest.mark.parametrize("name", FAMILIES)
def test_output_layers_are_the_ones_that_change_with_the_classes(name):
    three, nine = (on_meta(name, num_classes=classes) for classes in (3, 9))
    shapes = {key: tensor.shape for key, tensor in nine.state_dict().items()}
    changed = {key for key, tensor in three.state_dict().items() if shapes[key] != tensor.shape}
    assert changed == set(three.output_layers.names(three.state_dict()))
    assert three.output_layers.num_classes(three.state_dict()) == 3


@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("roadmap")])
def test_a_model_is_told_from_its_tensors_by_its_own_family_only(name):
    options = {"num_classes": 7, "in_chans": 4, "layer_scale_init_value": 0.0}
    options |= {"channels": 32, "auxiliary_channels": 16} if name.startswith("upernet") else {}
    tensors = on_meta(name, **options).state_dict()
    spec = tasks.of_model(name)
    assert tasks.identify(tensors) == spec.identify(tensors) == {"name": name, **options}
    for other in tasks.specs():
        assert other is spec or other.identify(tensors) is None


def test_tensors_of_nothing_are_told_to_be_nothing():
    tensors = on_meta("mask_rcnn_convnext_atto").state_dict()
    backbone_only = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    for foreign in (
        {},
        backbone_only,
        {"head.weight": torch.empty(())},
        on_meta("roadmap_resnet50_depthwise").state_dict(),
    ):
        assert tasks.identify(foreign) is None
