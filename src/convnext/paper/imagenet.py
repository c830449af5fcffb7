"""Tables 1, 2 and 12: classification on ImageNet-1K, and the exact sizes of the ConvNeXts."""

from dataclasses import dataclass

from convnext.paper.lookup import Pretrain, find
from convnext.paper.roadmap import ROADMAPS

TRANSFORMERS = frozenset({"DeiT", "Swin", "ViT", "ViT (AugReg)", "RVT"})
"""The families of Tables 1 and 8 that are not ConvNets."""


@dataclass(frozen=True)
class Counted:
    """Params with 1000 classes, and MACs: what the architecture comes to when counted, not what a table rounds it to.

    An int is exact; a float is known to the digits written.
    """

    params: int
    macs_224: float
    macs_384: float | None = None
    params_22k: int | None = None
    """Params with the 21,841 classes of ImageNet-22K."""


COUNTED = {
    "convnext_tiny": Counted(28_589_128, ROADMAPS["resnet50"].steps[-1].macs, 13.092e9, 44_615_857),
    "convnext_small": Counted(50_223_688, 8.6837e9, 25.518e9, 66_250_417),
    "convnext_base": Counted(88_591_464, ROADMAPS["resnet200"].steps[-1].macs, 45.122e9, 109_953_489),
    "convnext_large": Counted(197_767_336, 34.361e9, 100.978e9, 229_799_953),
    "convnext_xlarge": Counted(350_196_968, 60.921e9, 179.029e9, 392_900_177),
    # as trained: LayerScale off for S and B (Section A.1), on for L
    "convnext_isotropic_small": Counted(22_308_712, 4.286e9),
    "convnext_isotropic_base": Counted(87_083_752, 16.896e9),
    "convnext_isotropic_large": Counted(305_942_504, 59.699e9),
}
"""The convolutions and linear layers of the live models, with LayerScale unless said."""

ISOTROPIC_LARGE_PARAMS_WITHOUT_LAYER_SCALE = 305_905_640


@dataclass(frozen=True)
class Classification:
    """One model at one image size: a row of Tables 1 and 12."""

    model: str
    family: str
    size: int
    params_m: float
    gflops: float
    v100: float | None
    """Images per second on a V100 (Table 1)."""
    top1_1k: float | None
    """ImageNet-1K top-1 of the model trained on ImageNet-1K alone."""
    top1_22k: float | None = None
    """ImageNet-1K top-1 of the model pre-trained on ImageNet-22K."""
    a100: float | None = None
    """Images per second on an A100 with TF32 and channels-last (Table 12)."""
    note: str = ""

    def top1(self, pretrain: Pretrain = "1k") -> float | None:
        return {"1k": self.top1_1k, "22k": self.top1_22k}[pretrain]


# Only the thesis has EfficientNetV2, the AugReg ViTs (in place of the original ones) and ConvNeXt-T and -S from
# ImageNet-22K.
TABLE1 = (
    Classification("RegNetY-4G", "RegNetY", 224, 21, 4.0, 1156.7, 80.0),
    Classification("RegNetY-8G", "RegNetY", 224, 39, 8.0, 591.6, 81.7),
    Classification("RegNetY-16G", "RegNetY", 224, 84, 16.0, 334.7, 82.9),
    Classification("EffNet-B3", "EfficientNet", 300, 12, 1.8, 732.1, 81.6),
    Classification("EffNet-B4", "EfficientNet", 380, 19, 4.2, 349.4, 82.9),
    Classification("EffNet-B5", "EfficientNet", 456, 30, 9.9, 169.1, 83.6),
    Classification("EffNet-B6", "EfficientNet", 528, 43, 19.0, 96.9, 84.0),
    Classification("EffNet-B7", "EfficientNet", 600, 66, 37.0, 55.1, 84.3),
    Classification("EffNetV2-L", "EfficientNetV2", 480, 120, 53.0, 83.7, 85.7, 86.8),
    Classification(
        "EffNetV2-XL", "EfficientNetV2", 480, 208, 94.0, 56.5, None, 87.3,
        note="its 94 GFLOPs are those of images of 512 px (93.4 counted); 480 px come to 82.1",
    ),
    Classification("R-101x3", "BiT", 384, 388, 204.6, None, None, 84.4),
    Classification("R-152x4", "BiT", 480, 937, 840.5, None, None, 85.4),
    Classification("DeiT-S", "DeiT", 224, 22, 4.6, 978.5, 79.8),
    Classification("DeiT-B", "DeiT", 224, 87, 17.6, 302.1, 81.8),
    Classification("ViT-B/16", "ViT", 384, 87, 55.5, 93.1, None, 84.0),
    Classification("ViT-L/16", "ViT", 384, 305, 191.1, 28.5, None, 85.2),
    Classification("ViT-B/16 (AugReg)", "ViT (AugReg)", 384, 87, 55.5, 93.1, None, 85.4),
    Classification("ViT-L/16 (AugReg)", "ViT (AugReg)", 384, 305, 191.1, 28.5, None, 86.8),
    Classification("Swin-T", "Swin", 224, 28, 4.5, 757.9, 81.3, None, 1325.6),
    Classification("Swin-S", "Swin", 224, 50, 8.7, 436.7, 83.0, None, 857.3),
    Classification("Swin-B", "Swin", 224, 88, 15.4, 286.6, 83.5, 85.2, 662.8),
    Classification(
        "Swin-B", "Swin", 384, 88, 47.1, 85.1, 84.5, 86.4, 242.5, note="the 22K half of Table 1 prints 47.0 GFLOPs"
    ),
    Classification("Swin-L", "Swin", 224, 197, 34.5, 145.0, None, 86.3, 435.9),
    Classification("Swin-L", "Swin", 384, 197, 103.9, 46.0, None, 87.3, 157.9),
    Classification("ConvNeXt-T", "ConvNeXt", 224, 29, 4.5, 774.7, 82.1, 82.9, 1943.5),
    Classification("ConvNeXt-T", "ConvNeXt", 384, 29, 13.1, 282.8, None, 84.1),
    Classification("ConvNeXt-S", "ConvNeXt", 224, 50, 8.7, 447.1, 83.1, 84.6, 1275.3),
    Classification("ConvNeXt-S", "ConvNeXt", 384, 50, 25.5, 163.5, None, 85.8),
    Classification("ConvNeXt-B", "ConvNeXt", 224, 89, 15.4, 292.1, 83.8, 85.8, 969.0),
    Classification(
        "ConvNeXt-B", "ConvNeXt", 384, 89, 45.1, 95.7, 85.1, 86.8, 336.6,
        note="the 1K half of Table 1, and Table 12, print 45.0 GFLOPs; counting gives the 45.1 of the 22K half",
    ),
    Classification("ConvNeXt-L", "ConvNeXt", 224, 198, 34.4, 146.8, 84.3, 86.6, 611.5),
    Classification("ConvNeXt-L", "ConvNeXt", 384, 198, 101.0, 50.4, 85.5, 87.5, 211.4),
    Classification("ConvNeXt-XL", "ConvNeXt", 224, 350, 60.9, 89.3, None, 87.0, 424.4),
    Classification("ConvNeXt-XL", "ConvNeXt", 384, 350, 179.0, 30.2, None, 87.8, 147.4),
)  # fmt: skip


@dataclass(frozen=True)
class Isotropic:
    """A row of Table 2: 224 px, ImageNet-1K, one resolution in all blocks."""

    model: str
    params_m: float
    gflops: float
    v100: float
    """Images per second on a V100."""
    training_gb: float
    """Training memory on a V100 with 32 images."""
    top1: float
    note: str = ""


TABLE2 = (
    Isotropic("ViT-S", 22, 4.6, 978.5, 4.9, 79.8),
    Isotropic("ConvNeXt-S (iso.)", 22, 4.3, 1038.7, 4.2, 79.7, note="the released checkpoint is published with 78.7"),
    Isotropic("ViT-B", 87, 17.6, 302.1, 9.1, 81.8),
    Isotropic("ConvNeXt-B (iso.)", 87, 16.9, 320.1, 7.7, 82.0),
    Isotropic("ViT-L", 304, 61.6, 93.1, 22.5, 82.6),
    Isotropic("ConvNeXt-L (iso.)", 306, 59.7, 94.4, 20.4, 82.6),
)


def classification(model: str, size: int = 224) -> Classification:
    """The row of Tables 1 and 12 for `model` ("Swin-T", or ours: "convnext_tiny") at `size` pixels."""
    return find(TABLE1, model=model, size=size)


def isotropic(model: str) -> Isotropic:
    """The row of Table 2 for `model` ("ViT-S", or ours: "convnext_isotropic_small")."""
    return find(TABLE2, model=model)
