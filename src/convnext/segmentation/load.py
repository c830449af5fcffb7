"""A segmenter ready for use: weights, class names and preprocessing from a file, a run's folder or the catalog."""

from dataclasses import dataclass

import torch
from torch import nn

from convnext.data.pixels import DensePreprocess
from convnext.segmentation.masks import ADE20K_CLASSES
from convnext.segmentation.segmenter import build
from convnext.trained import open_trained


@dataclass
class TrainedSegmenter:
    model: nn.Module
    classes: list[str]
    preprocess: DensePreprocess
    source: str


def load_segmenter(name: str, device: torch.device, which: str = "best") -> TrainedSegmenter:
    """Read a segmenter and put it on `device` in evaluation mode; arguments and errors as `trained.open_trained`.

    A file that states no classes has ADE20K's where there are 150 of them, else numbers.
    """
    model, checkpoint, source = open_trained(name, which, build)
    stated = checkpoint.metadata.get("preprocess")
    preprocess = DensePreprocess.from_dict(stated) if stated else DensePreprocess(512, 2048, crop=512)
    classes = checkpoint.metadata.get("classes")
    if not classes:
        named = model.num_classes == len(ADE20K_CLASSES)
        classes = ADE20K_CLASSES if named else [str(i) for i in range(model.num_classes)]
    return TrainedSegmenter(model.to(device).eval(), list(classes), preprocess, source)
