"""The pixel work that detection and segmentation share: the reference's resize, normalisation and padding.

The reference resizes with OpenCV's bilinear filter, without antialiasing, in uint8, and normalises after; the released
COCO and ADE20K checkpoints were trained and measured so (Section A.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from convnext.data.conventions import IMAGENET_MEAN, IMAGENET_STD, PAD_MULTIPLE
from convnext.data.stored import Stored


@dataclass(frozen=True)
class DensePreprocess(Stored):
    """Preprocessing of an image before a detector or segmenter in evaluation; saved inside every checkpoint.

    Attributes:
        short, long: the image is scaled, its aspect kept, to the largest size whose short side is at most `short`
            and whose long side is at most `long` pixels.
        mean, std: per channel, of values in 0..1.
        crop: side of the windows that slide over the image in segmentation; a third of each overlaps the next.
    """

    short: int
    long: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop: int | None = None

    def __call__(self, image: Image) -> Tensor:
        """RGB image -> (3, H, W) float, scaled and normalised, not padded."""
        values = pixels(image)
        return normalize(resize(values, scaled_size(values.shape[-2:], self.short, self.long)), self.mean, self.std)


def pixels(image: Image) -> Tensor:
    """RGB image -> (3, H, W) uint8."""
    return torch.from_numpy(np.asarray(image, dtype=np.uint8).copy()).permute(2, 0, 1).contiguous()


def scaled_size(size: Sequence[int], short: int, long: int) -> tuple[int, int]:
    """(H, W) scaled, its aspect kept, until the short side is `short` or the long one `long`, whichever comes first."""
    height, width = size
    scale = min(short / min(height, width), long / max(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(3, H, W) uint8 -> (3, *size) uint8, bilinear without antialiasing, rounded."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    resized = F.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False, antialias=False)
    return resized[0].round_().clamp_(0, 255).to(torch.uint8)


def normalize(image: Tensor, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD) -> Tensor:
    """(3, H, W) of values in 0..255 -> float, minus the mean, over the deviation."""
    scale = torch.tensor(std) * 255
    values = image.to(torch.float32, copy=True)  # once: each copy would cost its fresh pages
    return values.sub_(torch.tensor(mean)[:, None, None] * 255).div_(scale[:, None, None])


def padded_size(size: Sequence[int], multiple: int = PAD_MULTIPLE) -> tuple[int, int]:
    """Smallest (H, W) that holds `size` (height, width) and whose sides are multiples of `multiple`."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def pad_to_multiple(images: list[Tensor], multiple: int = PAD_MULTIPLE) -> Tensor:
    """Images (3, H, W) of any sizes -> (B, 3, H', W'): zeros below and to the right, sides multiples of `multiple`."""
    height, width = padded_size([max(image.shape[axis] for image in images) for axis in (-2, -1)], multiple)
    batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[-2], : image.shape[-1]] = image
    return batch
