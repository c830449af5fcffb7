"""The paper's rivals (Tables 1 and 2) by the name that timm has for each architecture, counted as our models are."""

from dataclasses import dataclass

import timm
import torch

from convnext import paper
from convnext.benchmark.flops import Count, count, unfused_attention

TIMM = {
    ("ResNet-50", 224): "resnet50",
    ("RegNetY-4G", 224): "regnety_040",
    ("RegNetY-8G", 224): "regnety_080",
    ("RegNetY-16G", 224): "regnety_160",
    ("EffNet-B3", 300): "efficientnet_b3",
    ("EffNet-B4", 380): "efficientnet_b4",
    ("EffNet-B5", 456): "efficientnet_b5",
    ("EffNet-B6", 528): "efficientnet_b6",
    ("EffNet-B7", 600): "efficientnet_b7",
    ("EffNetV2-L", 480): "tf_efficientnetv2_l",
    ("EffNetV2-XL", 480): "tf_efficientnetv2_xl",
    ("R-101x3", 384): "resnetv2_101x3_bit",
    ("R-152x4", 480): "resnetv2_152x4_bit",
    ("DeiT-S", 224): "deit_small_patch16_224",
    ("DeiT-B", 224): "deit_base_patch16_224",
    ("ViT-S", 224): "vit_small_patch16_224",
    ("ViT-B", 224): "vit_base_patch16_224",
    ("ViT-L", 224): "vit_large_patch16_224",
    ("ViT-B/16", 384): "vit_base_patch16_384",
    ("ViT-L/16", 384): "vit_large_patch16_384",
    ("ViT-B/16 (AugReg)", 384): "vit_base_patch16_384",  # the same architecture, trained otherwise
    ("ViT-L/16 (AugReg)", 384): "vit_large_patch16_384",
    ("Swin-T", 224): "swin_tiny_patch4_window7_224",
    ("Swin-S", 224): "swin_small_patch4_window7_224",
    ("Swin-B", 224): "swin_base_patch4_window7_224",
    ("Swin-B", 384): "swin_base_patch4_window12_384",
    ("Swin-L", 224): "swin_large_patch4_window7_224",
    ("Swin-L", 384): "swin_large_patch4_window12_384",
}


BACKBONES = {
    "ResNet-50": "resnet50",
    "X101-32": "resnext101_32x4d",
    "X101-64": "resnext101_64x4d",
    "Swin-T": "swin_tiny_patch4_window7_224",
    "Swin-S": "swin_small_patch4_window7_224",
    "Swin-B": "swin_base_patch4_window7_224",
    "Swin-L": "swin_large_patch4_window7_224",
}
"""The backbones of Tables 3 and 4 that are not ours: under our heads they are `cascade_mask_rcnn+timm:NAME`."""

MISSING = ("RVT-S*", "RVT-B*")
"""Rivals of Table 8 that no library has."""


@dataclass(frozen=True)
class Printed:
    """Numbers that the paper prints of a rival: millions of parameters, GMACs, ImageNet-1K top-1 without and with 22K."""

    params_m: float
    gflops: float
    top1: tuple[float | None, float | None]


def printed(name: str, size: int) -> Printed | None:
    """The row of Table 1 or 2 of a rival at `size` pixels; None for ResNet-50, which stands in the roadmap alone."""
    if row := paper.lookup(paper.TABLE1, model=name, size=size):
        return Printed(row.params_m, row.gflops, (row.top1_1k, row.top1_22k))
    row = paper.lookup(paper.TABLE2, model=name) if size == 224 else None
    return Printed(row.params_m, row.gflops, (row.top1, None)) if row else None


def count_timm(name: str, size: int) -> Count:
    """Count a classifier of timm at `size` pixels with 1,000 classes, without allocating its weights."""
    with torch.device("meta"), unfused_attention():
        return count(timm.create_model(name, pretrained=False, num_classes=1000), (3, size, size))
