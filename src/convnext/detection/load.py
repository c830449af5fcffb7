"""A detector ready for use: weights, class names and preprocessing from a file, a run's folder or the catalog."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from convnext.data.pixels import DensePreprocess
from convnext.detection.detector import build
from convnext.trained import open_trained

COCO = 80


@dataclass
class TrainedDetector:
    """`category_ids` are those that COCO's own files have for its 80 classes; 1, 2, .. elsewhere."""

    model: nn.Module
    classes: list[str]
    category_ids: list[int]
    preprocess: DensePreprocess
    source: str


def load_detector(name: str, device: torch.device, which: str = "best") -> TrainedDetector:
    """Read a detector and put it on `device` in evaluation mode; arguments and errors as `trained.open_trained`.

    A file that states no classes has COCO's where there are 80 of them, else numbers.
    """
    model, checkpoint, source = open_trained(name, which, build)
    stated = checkpoint.metadata.get("preprocess")
    preprocess = DensePreprocess.from_dict(stated) if stated else DensePreprocess(800, 1333)
    classes = checkpoint.metadata.get("classes")
    if not classes:
        coco = model.num_classes == COCO
        classes = coco_categories().values() if coco else map(str, range(1, model.num_classes + 1))
    classes = list(classes)
    return TrainedDetector(model.to(device).eval(), classes, category_ids(classes), preprocess, source)


def category_ids(classes: Sequence[str]) -> list[int]:
    """What the classes of a dataset are called in COCO's result format, see `TrainedDetector`."""
    if len(classes) == COCO and list(classes) == list((by_id := coco_categories()).values()):
        return list(by_id)
    return list(range(1, len(classes) + 1))


def coco_categories() -> dict[int, str]:
    """COCO's 80 categories by their ids, which have gaps, as torchvision lists them with its own detector."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    listed = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return {i: name for i, name in enumerate(listed) if name not in ("__background__", "N/A")}
