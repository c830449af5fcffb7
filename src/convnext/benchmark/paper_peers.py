"""The paper's rivals (Tables 1 and 2) by the name that timm has for each architecture, counted as our models are."""

from dataclasses import dataclass

from convnext.benchmark.flops import Count, count
from convnext.paper import TABLE1, TABLE2

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
    ("Swin-T", 224): "swin_tiny_patch4_window7_224",
    ("Swin-S", 224): "swin_small_patch4_window7_224",
    ("Swin-B", 224): "swin_base_patch4_window7_224",
    ("Swin-B", 384): "swin_base_patch4_window12_384",
    ("Swin-L", 224): "swin_large_patch4_window7_224",
    ("Swin-L", 384): "swin_large_patch4_window12_384",
}


@dataclass(frozen=True)
class Printed:
    """What the paper prints of a rival: millions of parameters, GMACs, ImageNet-1K top-1 without and with ImageNet-22K."""

    params_m: float
    gflops: float
    top1: tuple[float | None, float | None]


def printed(name: str, size: int) -> Printed | None:
    """The paper's row, if it has one (ResNet-50 stands in the roadmap alone)."""
    for row in TABLE1:
        if (row.model, row.size) == (name, size):
            return Printed(row.params_m, row.gflops, (row.top1_1k, row.top1_22k))
    for row in TABLE2:
        if (row.model, 224) == (name, size):
            return Printed(row.params_m, row.gflops, (row.top1, None))
    return None


def count_timm(name: str, size: int) -> Count:
    """Count a classifier of timm at `size` pixels with 1,000 classes, without allocating its weights.

    Attention is taken apart into its two products, so that they are counted whatever kernel would run them.
    """
    import timm
    import torch
    from timm.layers import set_fused_attn, use_fused_attn

    fused = use_fused_attn()
    set_fused_attn(False)
    try:
        with torch.device("meta"):
            return count(timm.create_model(name, pretrained=False, num_classes=1000), (3, size, size))
    finally:
        set_fused_attn(bool(fused))
