"""Evaluation preprocessing: from a decoded image to the input of a model. Training's is `classification.augment`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor

from convnext.data.conventions import IMAGENET_MEAN, IMAGENET_STD
from convnext.data.stored import Stored

SMALL = 32  # inputs up to this side are padded and cropped, not resized and cropped
THIN = 8  # aspect from which an image is not resized as a whole


@dataclass(frozen=True)
class Preprocess(Stored):
    """Preprocessing of an image before a classifier in evaluation; saved inside every checkpoint.

    Attributes:
        size: side of the square input in pixels.
        crop_ratio: centre share of the short side that is kept; 1.0 warps the whole image to the square, as the
            paper does at 384 px (Section A.2).
        mean, std: per channel, of values in 0..1.
        interpolation: a name of PIL's resampling filters.
    """

    size: int = 224
    crop_ratio: float = 0.875
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"

    @classmethod
    def for_size(cls, size: int) -> "Preprocess":
        """The paper's evaluation at this size: crop ratio 0.875 below 384 px, 1.0 from there, and 1.0 for small inputs."""
        return cls(size=size, crop_ratio=0.875 if SMALL < size < 384 else 1.0)

    def resize_crop(self, image: Image) -> Image:
        """Scale and crop an RGB image of any size to the square input, before normalisation.

        torchvision's Resize and CenterCrop, without torchvision, whose import takes longer than most predictions. Of an
        image with an aspect above `THIN`, only the crop is resized, so that memory does not grow with the aspect; values
        then differ by one at most.
        """
        size, filter_ = self.size, Resampling[self.interpolation.upper()]
        if self.crop_ratio >= 1.0:
            return image.resize((size, size), filter_)
        short, least = int(size / self.crop_ratio), min(image.size)
        width, height = short * image.width // least, short * image.height // least
        left, top = round((width - size) / 2), round((height - size) / 2)
        box = (left, top, left + size, top + size)
        if max(width, height) <= THIN * short:
            return image.resize((width, height), filter_).crop(box)
        across, down = image.width / width, image.height / height
        return image.resize((size, size), filter_, (box[0] * across, box[1] * down, box[2] * across, box[3] * down))


def eval_transform(pre: Preprocess) -> Callable[[Image], Tensor]:
    """RGB image of any size -> (3, size, size) float, normalised."""
    return partial(_evaluated, pre, Normalize(pre.mean, pre.std))


def _evaluated(pre: Preprocess, normalize: "Normalize", image: Image) -> Tensor:  # no closure: workers are sent it
    return normalize(pre.resize_crop(image))


class Normalize:
    """RGB image -> (3, H, W) float: values in 0..1 minus the mean, over the deviation. Leaner than torchvision's three steps."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        self.scale = (1 / (255 * np.array(std))).astype(np.float32)[:, None, None]
        self.shift = (-np.array(mean) / np.array(std)).astype(np.float32)[:, None, None]

    def __call__(self, image: Image) -> Tensor:
        values = np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C")
        values *= self.scale  # in place: each copy would cost its fresh pages
        values += self.shift
        return torch.from_numpy(values)
