"""Images with their labels drawn for people: as training sees them, and what was predicted beside the ground truth.

Legend: H W rows and columns of an image.
"""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from convnext.data.images import ImageError
from convnext.recipes.schema import Segmentation
from convnext.report.segmentation import overlay
from convnext.segmentation.labels import IGNORED
from convnext.segmentation.masks import MaskImages
from convnext.segmentation.sliding import predict_labels
from convnext.segmentation.transforms import TrainTransform, resize_labels
from convnext.task.examples import SHOWN, WIDE, Example, TrainingViews, small, spread
from convnext.task.spec import Loaded

ANSWERED = "Ground truth, and what was predicted"


def training_views(recipe: Segmentation, train: MaskImages) -> TrainingViews:
    """Scaled, cropped, flipped and distorted images with the labels that are left in them; grey where they are padded."""
    transform = TrainTransform.of(recipe.augment)

    def draw(view: Tensor, target: Tensor, i: int) -> tuple[Image.Image, str]:
        values = view.permute(1, 2, 0).numpy() * transform.std + transform.mean
        image = Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))
        return _drawn(image, target.numpy().astype(np.uint8), train.classes), train.name(i)

    return TrainingViews(transform, draw)


def telling(loaded: Loaded, samples: MaskImages, mode: str, precision: str) -> Iterator[Example]:
    """Images at equal distances, each with its labels and with those that the model gives, and the share that agrees."""
    for i in spread(len(samples), SHOWN):
        try:
            image, truth = samples.image(i), samples.target(i)
        except ImageError:  # gone since it was evaluated
            continue
        crop = loaded.preprocess.crop
        with torch.inference_mode():
            found = predict_labels(loaded.module, image, loaded.preprocess, mode, precision=precision, crop=crop)
        labels = found.cpu().numpy().astype(np.uint8)
        counted = truth != IGNORED
        share = f"{100 * (labels == truth)[counted].mean():.0f} % of the pixels agree" if counted.any() else "no label"
        pictures = tuple(_drawn(image, each, samples.classes) for each in (truth, labels))
        yield Example(ANSWERED, f"{share} · {samples.name(i)}", pictures)


def _drawn(image: Image.Image, labels: np.ndarray, classes: list[str]) -> Image.Image:
    """A small image under the colours of its labels (H, W), with their names beside it."""
    shown = small(image, WIDE)
    return overlay(shown, resize_labels(labels, (shown.height, shown.width)), classes)
