"""Training augmentation of an image together with its labels, as the paper's ADE20K runs have it (Section A.3).

That section refers to the usual recipe of Swin and MMSegmentation; values are floats from the resize to the end, where
MMSegmentation rounds to 8 bits between steps.

Legend: H W rows and columns. Pixels are (3,H,W), values 0..255; labels are (H,W).
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from convnext.data.conventions import IMAGENET_MEAN, IMAGENET_STD
from convnext.data.pixels import normalize, pixels, resize, scaled_size
from convnext.errors import ConvNextError
from convnext.recipes.schema import SegmentationAugment
from convnext.segmentation.labels import IGNORED, size_error

ATTEMPTS = 10
"""Crops that are tried for one in which no class has too large a share."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = 32.0, (0.5, 1.5), (0.5, 1.5), 18
"""Added to the values; factors; steps of two degrees, OpenCV's 180, the last one excluded as in the reference."""


@dataclass(frozen=True)
class TrainTransform:
    """Scale, crop, flip, distort, normalise, pad.

    Draws from Python's global generator: seed it per sample (`convnext.seeding`).

    Attributes:
        short, long: the image is scaled, its aspect kept, to fit this box times a random factor within `ratio`.
        crop: side of the random crop in pixels; what is missing is padded below and to the right.
        max_share: largest share of the crop's labelled pixels that one class may have, where `ATTEMPTS` find one.
        hflip: probability of a horizontal flip.
        photometric: distort brightness, contrast, saturation and hue.
        mean, std: per channel, of values in 0..1.
    """

    short: int
    long: int
    ratio: tuple[float, float] = (0.5, 2.0)
    crop: int = 512
    max_share: float = 0.75
    hflip: float = 0.5
    photometric: bool = True
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @classmethod
    def of(cls, augment: SegmentationAugment) -> "TrainTransform":
        """The transform that a recipe asks for."""
        a = augment
        return cls(a.short, a.long, a.scale, a.crop, a.max_share, a.hflip, a.photometric)

    def __call__(self, image: Image, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """RGB image and its labels (H,W) uint8 -> (3,crop,crop) float, padded with 0; (crop,crop) int64, with 255.

        Raises:
            ConvNextError: image and labels differ in size.
        """
        if message := size_error(image.size, labels.shape):
            raise ConvNextError(f"An image and its labels cannot be augmented together: {message}.")
        ratio = random.uniform(*self.ratio)
        size = scaled_size(labels.shape, int(self.short * ratio), int(self.long * ratio))
        labels = resize_labels(labels, size)
        rows, columns = random_crop(labels, self.crop, self.max_share)
        values, labels = resize(pixels(image), size)[:, rows, columns], labels[rows, columns]
        if random.random() < self.hflip:
            values, labels = values.flip(-1), labels[:, ::-1]
        if self.photometric:
            values = distort(values.float())
        inputs, targets = torch.zeros(3, self.crop, self.crop), np.full((self.crop, self.crop), IGNORED, dtype=np.int64)
        height, width = labels.shape
        inputs[:, :height, :width] = normalize(values, self.mean, self.std)
        targets[:height, :width] = labels
        return inputs, torch.from_numpy(targets)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels (H,W) -> (*size): each from the pixel at floor(i * old / new), as OpenCV's and PyTorch's nearest."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, labels.shape, strict=True))
    return labels[rows][:, columns]


def random_crop(labels: np.ndarray, side: int, max_share: float) -> tuple[slice, slice]:
    """Rows and columns of a random window, at most `side` on a side, of labels (H,W).

    While a single class has at least `max_share` of the window's labelled pixels, another one is drawn, at most
    `ATTEMPTS` times; the last is taken unseen. A share of 1 takes the first.
    """

    def draw() -> tuple[slice, slice]:
        top, left = (random.randint(0, max(have - side, 0)) for have in labels.shape)
        return slice(top, top + side), slice(left, left + side)

    window = draw()
    for _ in range(ATTEMPTS if max_share < 1 else 0):
        counts = np.bincount(labels[window].ravel(), minlength=IGNORED)[:IGNORED]
        if counts.max() < max_share * counts.sum():
            break
        window = draw()
    return window


def distort(values: Tensor) -> Tensor:
    """Random brightness, contrast, saturation and hue of pixels (3,H,W) float, each with probability 1/2.

    Brightness comes first, contrast before or after saturation and hue.
    """
    if random.random() < 0.5:
        values = (values + random.uniform(-BRIGHTNESS, BRIGHTNESS)).clamp_(0, 255)
    contrast = random.uniform(*CONTRAST) if random.random() < 0.5 else 1.0
    contrast_first = random.random() < 0.5
    if contrast_first:
        values = (values * contrast).clamp_(0, 255)
    if random.random() < 0.5:
        values = saturate(values, random.uniform(*SATURATION))
    if random.random() < 0.5:
        values = turn_hue(values, 2 * random.randrange(-HUE, HUE))
    return values if contrast_first else (values * contrast).clamp_(0, 255)


def saturate(values: Tensor, factor: float) -> Tensor:
    """Pixels (3,H,W) float with their HSV saturation times a factor, at most 1; value and hue are kept."""
    top, bottom = values.amax(0), values.amin(0)
    # saturation is (top - bottom) / top, and distances to the top scale with it
    most = torch.where(top > bottom, top / (top - bottom).clamp_(min=1e-6), 1.0)
    return top - (top - values) * most.clamp_(max=factor)


def turn_hue(values: Tensor, degrees: float) -> Tensor:
    """Pixels (3,H,W) float with their HSV hue turned; value and saturation are kept."""
    top, bottom = values.amax(0), values.amin(0)
    chroma = top - bottom
    red, green, blue = values / chroma.clamp(min=1e-6)
    sixths = torch.where(top == values[0], green - blue, torch.where(top == values[1], 2 + blue - red, 4 + red - green))
    # red falls from full to none and rises again around the circle; green and blue do so a third of it later
    place = (sixths + degrees / 60 + torch.tensor([5.0, 3.0, 1.0])[:, None, None]) % 6  # (3,H,W)
    return top - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)
