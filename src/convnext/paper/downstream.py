"""Tables 3, 4 and 7: detection on COCO, segmentation on ADE20K."""

from dataclasses import dataclass
from typing import Literal

from convnext.paper.lookup import Pretrain, find


@dataclass(frozen=True)
class Detection:
    """A row of Table 3: COCO, 3x schedule; GFLOPs at 1280x800, frames per second on an A100."""

    backbone: str
    pretrain: Pretrain
    method: Literal["mask", "cascade"]
    """Mask R-CNN or Cascade Mask R-CNN."""
    gflops: float
    fps: float
    box_ap: float
    box_ap50: float
    box_ap75: float
    mask_ap: float
    mask_ap50: float
    mask_ap75: float
    note: str = ""


TABLE3 = (
    Detection("Swin-T", "1k", "mask", 267, 23.1, 46.0, 68.1, 50.3, 41.6, 65.1, 44.9),
    Detection("ConvNeXt-T", "1k", "mask", 262, 25.6, 46.2, 67.9, 50.8, 41.7, 65.0, 44.9),
    # speed of the next three: as in the thesis, which corrects what was printed first
    Detection(
        "ResNet-50", "1k", "cascade", 739, 16.2, 46.3, 64.3, 50.5, 40.1, 61.7, 43.4, note="first printed: 11.4 fps"
    ),
    Detection("X101-32", "1k", "cascade", 819, 13.8, 48.1, 66.5, 52.4, 41.6, 63.9, 45.2, note="first printed: 9.2 fps"),
    Detection("X101-64", "1k", "cascade", 972, 12.6, 48.3, 66.4, 52.3, 41.7, 64.0, 45.1, note="first printed: 7.1 fps"),
    Detection("Swin-T", "1k", "cascade", 745, 12.2, 50.4, 69.2, 54.7, 43.7, 66.6, 47.3),
    Detection("ConvNeXt-T", "1k", "cascade", 741, 13.5, 50.4, 69.1, 54.8, 43.7, 66.5, 47.3),
    Detection("Swin-S", "1k", "cascade", 838, 11.4, 51.9, 70.7, 56.3, 45.0, 68.2, 48.8),
    Detection("ConvNeXt-S", "1k", "cascade", 827, 12.0, 51.9, 70.8, 56.5, 45.0, 68.4, 49.1),
    Detection("Swin-B", "1k", "cascade", 982, 10.7, 51.9, 70.5, 56.4, 45.0, 68.1, 48.9),
    Detection("ConvNeXt-B", "1k", "cascade", 964, 11.4, 52.7, 71.3, 57.2, 45.6, 68.9, 49.5),
    Detection("Swin-B", "22k", "cascade", 982, 10.7, 53.0, 71.8, 57.5, 45.8, 69.4, 49.7),
    Detection("ConvNeXt-B", "22k", "cascade", 964, 11.5, 54.0, 73.1, 58.8, 46.9, 70.6, 51.3),
    Detection("Swin-L", "22k", "cascade", 1382, 9.2, 53.9, 72.4, 58.8, 46.7, 70.1, 50.8),
    Detection("ConvNeXt-L", "22k", "cascade", 1354, 10.0, 54.8, 73.8, 59.8, 47.6, 71.3, 51.7),
    Detection("ConvNeXt-XL", "22k", "cascade", 1898, 8.6, 55.2, 74.2, 59.9, 47.7, 71.6, 52.2),
)

CASCADE_TRAINING_GB = {"ConvNeXt-B": 17.4, "Swin-B": 18.5}
"""Peak memory of training Cascade Mask R-CNN with 2 images per GPU (Section 4)."""


@dataclass(frozen=True)
class Segmentation:
    """A row of Tables 4 and 7: ADE20K with UperNet; GFLOPs at 2048x512 (crop 512) or 2560x640 (crop 640)."""

    backbone: str
    pretrain: Pretrain
    crop: int
    miou_multi_scale: float
    params_m: float
    gflops: float
    miou_single_scale: float | None = None
    """Table 7; for ConvNeXt only."""


TABLE4 = (
    Segmentation("Swin-T", "1k", 512, 45.8, 60, 945),
    Segmentation("ConvNeXt-T", "1k", 512, 46.7, 60, 939, 46.0),
    Segmentation("Swin-S", "1k", 512, 49.5, 81, 1038),
    Segmentation("ConvNeXt-S", "1k", 512, 49.6, 82, 1027, 48.7),
    Segmentation("Swin-B", "1k", 512, 49.7, 121, 1188),
    Segmentation("ConvNeXt-B", "1k", 512, 49.9, 122, 1170, 49.1),
    Segmentation("Swin-B", "22k", 640, 51.7, 121, 1841),
    Segmentation("ConvNeXt-B", "22k", 640, 53.1, 122, 1828, 52.6),
    Segmentation("Swin-L", "22k", 640, 53.5, 234, 2468),
    Segmentation("ConvNeXt-L", "22k", 640, 53.7, 235, 2458, 53.2),
    Segmentation("ConvNeXt-XL", "22k", 640, 54.0, 391, 3335, 53.6),
)


def detection(backbone: str, method: str = "cascade", pretrain: Pretrain = "1k") -> Detection:
    """The row of Table 3; `method` is "mask" or "cascade"."""
    return find(TABLE3, backbone=backbone, method=method, pretrain=pretrain)


def segmentation(backbone: str, pretrain: Pretrain = "1k") -> Segmentation:
    """The row of Tables 4 and 7."""
    return find(TABLE4, backbone=backbone, pretrain=pretrain)
