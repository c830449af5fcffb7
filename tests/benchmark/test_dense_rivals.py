"""The rivals of Tables 3 and 4 under our heads: they run, and come to the FLOPs and parameters that the paper prints."""

import pytest
import torch

from convnext import paper, tasks
from convnext.benchmark.paper_facts import dense
from convnext.detection.detector import build
from convnext.errors import ConvNextError
from convnext.segmentation.segmenter import build as build_segmenter
from convnext.task.timm_backbone import TimmBackbone, split_name


@pytest.mark.parametrize("backbone", ["ResNet-50", "X101-32", "X101-64", "Swin-T"])
def test_a_row_of_table_3(backbone):
    counted = dense("cascade_mask_rcnn", backbone, 800, 1280)
    assert counted.macs / 1e9 == pytest.approx(paper.detection(backbone).gflops, rel=0.003)


def test_a_row_of_table_4():
    row = paper.segmentation("Swin-T")
    counted = dense("upernet", "Swin-T", 512, 2048)
    assert counted.macs / 1e9 == pytest.approx(row.gflops, rel=0.002)
    assert round(counted.params / 1e6) == row.params_m


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_maps_have_our_strides_at_any_size(name):
    body = TimmBackbone(name).eval()
    with torch.no_grad():
        maps = body(torch.randn(1, 3, 96, 160))
    assert {key: tuple(m.shape) for key, m in maps.items()} == {
        f"stage{i}": (1, body.channels[f"stage{i}"], 96 // 4 // 2**i, 160 // 4 // 2**i) for i in range(4)
    }


def test_they_train_with_one_rate_for_all_layers():
    model = build_segmenter("upernet+timm:resnet18", num_classes=3, channels=8, auxiliary_channels=8).train()
    sum(model.losses(torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.long)).values()).backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters() if parameter.requires_grad)
    with pytest.raises(ConvNextError, match="layer-decay None"):
        model.layer_decay_ids()


def test_wrong_names_are_answered():
    assert split_name("mask_rcnn_convnext_tiny") is None
    with pytest.raises(ConvNextError, match="no model"):
        tasks.of_model("mask_rcn+timm:resnet18")
    assert tasks.of_model("mask_rcnn+timm:resnet18") is not tasks.of_model("upernet+timm:resnet18")
    with pytest.raises(ConvNextError, match="resnet50"):
        TimmBackbone("resnet5")
    with pytest.raises(ConvNextError, match="no detector"):
        build("upernet+timm:resnet18")
    with pytest.raises(ConvNextError, match="strides"):
        TimmBackbone("vit_tiny_patch16_224")
    assert not any("+timm" in name for spec in tasks.specs() for name in spec.models())
