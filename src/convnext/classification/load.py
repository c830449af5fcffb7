"""A classifier ready for use: weights, class names and preprocessing from a file, a run's folder or the catalog."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from convnext.classification.transforms import Preprocess
from convnext.errors import ConvNextError
from convnext.models import build
from convnext.trained import open_trained
from convnext.weights.load import Checkpoint


@dataclass
class Classifier:
    """`classes` are the labels as the training data spells them; `names` are for people (ImageNet's are words)."""

    model: nn.Module
    classes: list[str]
    names: list[str]
    preprocess: Preprocess
    source: str


def load_classifier(name: str, device: torch.device, which: str = "best", image_size: int | None = None) -> Classifier:
    """Read a classifier and put it on `device` in evaluation mode.

    Args:
        name: a checkpoint file of any known format, a run's folder, or a name of the catalog.
        which: of a run: "best", "raw" or "ema"; of a file that holds both: "raw" or "ema".
        image_size: evaluate at another size than the checkpoint says.

    Raises:
        ConvNextError: nothing readable is there, or it is no classifier.
    """
    model, checkpoint, source = open_trained(name, which, build)
    if getattr(model, "num_classes", None) is None:
        raise ConvNextError(f"{name} holds no classifier (it has no head), so it cannot name classes.")
    preprocess = preprocess_of(checkpoint)
    if image_size is not None:
        preprocess = replace(Preprocess.for_size(image_size), mean=preprocess.mean, std=preprocess.std)
    classes, names = class_names(checkpoint, model.num_classes)
    return Classifier(model.to(device).eval(), classes, names, preprocess, source)


def preprocess_of(checkpoint: Checkpoint) -> Preprocess:
    """The preprocessing that a checkpoint states, or the paper's at 224 px."""
    stated = checkpoint.metadata.get("preprocess")
    return Preprocess.from_dict(stated) if stated else Preprocess()


def class_names(checkpoint: Checkpoint, num_classes: int) -> tuple[list[str], list[str]]:
    """Labels and readable names: the checkpoint's own, ImageNet's for 1,000 and 21,841 classes, else numbers."""
    stated = checkpoint.metadata.get("classes")
    if stated:
        return list(stated), list(stated)
    sets = {1000: "imagenet-1k", 21841: "imagenet-22k"}
    if num_classes in sets:
        from timm.data import ImageNetInfo

        info = ImageNetInfo(sets[num_classes])
        labels = [info.index_to_label_name(i) for i in range(num_classes)]
        return labels, [info.index_to_description(i) for i in range(num_classes)]
    numbers = [str(i) for i in range(num_classes)]
    return numbers, numbers
