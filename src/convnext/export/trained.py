"""Between checkpoints, exported files, and what `predict` and `evaluate` take: one dataclass for each task."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from convnext.classification.load import Classifier, load_classifier
from convnext.classification.transforms import Preprocess
from convnext.data.pixels import DensePreprocess
from convnext.errors import ConvNextError
from convnext.export.metadata import Metadata
from convnext.export.runtime import Exported, open_exported
from convnext.segmentation.load import TrainedSegmenter, load_segmenter

if TYPE_CHECKING:  # torchvision takes seconds, and only detectors need it
    from convnext.detection.load import TrainedDetector

CPU = torch.device("cpu")


def open_checkpoint(
    name: str, task: str, which: str, image_size: int | None
) -> "Classifier | TrainedSegmenter | TrainedDetector":
    """The model to export, on the CPU, with its classes and its preprocessing.

    `image_size`: of classifiers, and the sides of a square into which a detector's pictures are scaled.

    Raises:
        ConvNextError: nothing readable is there, or `image_size` is none for it.
    """
    if task == "classification":
        return load_classifier(name, CPU, which, image_size)
    if task == "segmentation":
        if image_size is not None:
            raise ConvNextError("--image-size is for classifiers: a segmenter is exported for its own windows.")
        return load_segmenter(name, CPU, which)
    from convnext.data.conventions import PAD_MULTIPLE
    from convnext.detection.load import load_detector

    trained = load_detector(name, CPU, which)
    if image_size is not None:
        if image_size % PAD_MULTIPLE or image_size < 2 * PAD_MULTIPLE:
            raise ConvNextError(f"--image-size is {image_size}; a detector's is a multiple of {PAD_MULTIPLE}, from 64.")
        trained.preprocess = replace(trained.preprocess, short=image_size, long=image_size)
    return trained


def describe(
    trained: "Classifier | TrainedSegmenter | TrainedDetector", task: str, format: str, precision: str, **axes
) -> Metadata:
    """The metadata of an export; `axes`: batch, size, smallest, versions."""
    model, names = trained.model, getattr(trained, "names", None)
    return Metadata(
        task=task,
        model=(getattr(model, "config", None) or {}).get("name", type(model).__name__),
        format=format,
        precision=precision,
        classes=list(trained.classes),
        names=list(names) if names and list(names) != list(trained.classes) else None,
        preprocess=asdict(trained.preprocess),
        in_chans=getattr(model, "in_chans", 3),
        **axes,
    )


def smallest_side(model: nn.Module) -> int:
    """The least side in pixels of a graph whose size is free: two positions of the deepest map, so that it has no special
    case for one."""
    if getattr(model, "task", None) == "detection":
        from convnext.export.detector import SMALLEST

        return SMALLEST
    network = getattr(model, "backbone", model)
    strides = getattr(network, "strides", None)
    return 2 * (max(strides.values()) if isinstance(strides, dict) else 32)


def exported_classifier(name: str, image_size: int | None = None) -> Classifier:
    """An exported classifier as `load_classifier` would give it.

    Raises:
        ConvNextError: the file is not readable or for another task, or `image_size` is not one that it takes.
    """
    model = _of_task(name, "classification")
    metadata, preprocess = model.metadata, Preprocess.from_dict(model.metadata.preprocess)
    if image_size is not None and image_size != preprocess.size:
        if metadata.size is not None:
            raise ConvNextError(
                f"{name} is exported for {metadata.size[0]} px. Export with --image-size {image_size}, or with "
                "--dynamic batch,size for any size."
            )
        preprocess = replace(Preprocess.for_size(image_size), mean=preprocess.mean, std=preprocess.std)
    return Classifier(model, metadata.classes, metadata.names or metadata.classes, preprocess, str(name))


def exported_segmenter(name: str) -> TrainedSegmenter:
    """An exported segmenter as `load_segmenter` would give it; errors as `exported_classifier`."""
    model = _of_task(name, "segmentation")
    preprocess = DensePreprocess.from_dict(model.metadata.preprocess)
    return TrainedSegmenter(model, model.metadata.classes, preprocess, str(name))


def exported_detector(name: str) -> "TrainedDetector":
    """An exported detector as `load_detector` would give it; errors as `exported_classifier`."""
    from convnext.detection.load import TrainedDetector, category_ids

    model = _of_task(name, "detection")
    classes, preprocess = model.metadata.classes, DensePreprocess.from_dict(model.metadata.preprocess)
    return TrainedDetector(model, classes, category_ids(classes), preprocess, str(name))


def _of_task(name: str, task: str) -> Exported:
    model = open_exported(Path(name))
    if model.metadata.task != task:
        raise ConvNextError(f"{name} is exported for {model.metadata.task}; here a file for {task} is expected.")
    return model
