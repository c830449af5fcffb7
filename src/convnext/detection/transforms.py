"""Images with objects made ready for a detector: flips, scales and crops that boxes and masks follow (Section A.3).

Masks are never resampled twice: flip, resize and crop all choose rows and columns, so they are put together as indices
and the mask is read once at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from convnext.data.conventions import IMAGENET_MEAN, IMAGENET_STD
from convnext.data.pixels import normalize, pixels, resize, scaled_size
from convnext.recipes.dense import LONG, SHORT_SIDES
from convnext.recipes.schema import DetectionAugment

Target = dict[str, Tensor]


@dataclass(frozen=True)
class TrainTransform:
    """Flip; then half the time one resize, half the time resize, crop, resize (Section A.3, mmdet's AutoAugment policy).

    Called with (RGB image, target of `CocoImages.target`), it returns the image (3, H, W) float, normalised and not
    padded, and boxes (n, 4) float32, labels (n,) int64, masks (n, H, W) bool if they were given, ignore (m, 4) float32,
    size (2,) int64: H, W. Boxes are clipped to the image; those with less than a pixel left are dropped, with their
    labels and masks, unless `as_reference`. A crop may lose all of them. Draws come from torch's global generator alone.

    Attributes:
        short_sides, long: a resize draws the short side from the first; the long side is at most the second, in pixels.
        hflip: probability of the flip.
        crop: crop half of the images.
        crop_short_sides: short sides before the crop, with the same limit of the long side.
        crop_sides: smallest and largest height, and width, of a crop, drawn alike in between.
        as_reference: resample masks at pixel corners, floor(i old / new), and keep all boxes that are not empty, as mmdet
            does; masks then lie half a pixel of the new size further left and up than the image.
    """

    short_sides: tuple[int, ...] = SHORT_SIDES
    long: int = LONG
    hflip: float = 0.5
    crop: bool = True
    crop_short_sides: tuple[int, ...] = (400, 500, 600)
    crop_sides: tuple[int, int] = (384, 600)
    as_reference: bool = False
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @classmethod
    def of(cls, augment: DetectionAugment) -> "TrainTransform":
        """The transform that a recipe asks for."""
        a = augment
        return cls(a.short_sides, a.long, a.hflip, a.random_crop, as_reference=a.as_reference)

    def __call__(self, image: Image, target: dict[str, np.ndarray]) -> tuple[Tensor, Target]:
        view = _View.of(image, target, self.as_reference)
        if torch.rand(()) < self.hflip:
            view.flip()
        if self.crop and torch.rand(()) < 0.5:
            view.resize(_one_of(self.crop_short_sides), self.long)
            view.crop([_between(min(side, self.crop_sides[0]), min(side, self.crop_sides[1])) for side in view.size])
        view.resize(_one_of(self.short_sides), self.long)
        return normalize(view.image, self.mean, self.std), view.target()


@dataclass
class _View:
    """An image (3, H, W) uint8 on its way, its boxes (n, 4), and where each row (H,) and column (W,) of masks is from."""

    image: Tensor
    given: dict[str, np.ndarray]
    boxes: Tensor
    ignore: Tensor
    as_reference: bool = False
    rows: np.ndarray = field(init=False)
    columns: np.ndarray = field(init=False)

    @classmethod
    def of(cls, image: Image, target: dict[str, np.ndarray], as_reference: bool) -> "_View":
        boxes, ignore = torch.tensor(target["boxes"]), torch.tensor(target["ignore"])
        return cls(pixels(image), target, boxes, ignore, as_reference)

    def __post_init__(self):
        self.rows, self.columns = (np.arange(side) for side in self.size)

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[-2], self.image.shape[-1]

    def flip(self) -> None:
        self.image, self.columns, width = self.image.flip(-1), self.columns[::-1], self.size[1]
        for boxes in (self.boxes, self.ignore):
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]

    def resize(self, short: int, long: int) -> None:
        old, new = self.size, scaled_size(self.size, short, long)
        self.image = resize(self.image, new)
        at = _corners if self.as_reference else _centres
        self.rows, self.columns = self.rows[at(old[0], new[0])], self.columns[at(old[1], new[1])]
        scale = torch.tensor([new[1] / old[1], new[0] / old[0]] * 2)
        self.boxes *= scale
        self.ignore *= scale

    def crop(self, size: Sequence[int]) -> None:
        """To (height, width), which fit, at a place drawn alike among all."""
        height, width = size
        top, left = (_between(0, whole - part) for whole, part in zip(self.size, size, strict=True))
        self.image = self.image[:, top : top + height, left : left + width]
        self.rows, self.columns = self.rows[top : top + height], self.columns[left : left + width]
        self.boxes -= torch.tensor([left, top] * 2)
        self.ignore -= torch.tensor([left, top] * 2)

    def _large(self, sides: Tensor) -> Tensor:
        """True of sides in pixels that are worth learning from."""
        return sides > 0 if self.as_reference else sides >= 1

    def target(self) -> Target:
        """Ground truth that remains inside the image."""
        for boxes in (self.boxes, self.ignore):
            boxes.clamp_(torch.zeros(4), torch.tensor(self.size[::-1] * 2))
        kept, kept_crowds = (self._large(boxes[:, 2:] - boxes[:, :2]).all(dim=1) for boxes in (self.boxes, self.ignore))
        target = {
            "boxes": self.boxes[kept],
            "labels": torch.from_numpy(self.given["labels"])[kept],
            "ignore": self.ignore[kept_crowds],
            "size": torch.tensor(self.size),
        }
        if "masks" in self.given:
            masks = self.given["masks"][kept.numpy()]
            target["masks"] = torch.from_numpy(masks.take(self.columns, axis=2).take(self.rows, axis=1))
        return target


def _corners(old: int, new: int) -> np.ndarray:
    """(new,) int64: the old pixel under the left corner of each new one, OpenCV's INTER_NEAREST."""
    return np.minimum(np.floor(np.arange(new) * (old / new)).astype(np.int64), old - 1)


def _centres(old: int, new: int) -> np.ndarray:
    """(new,) int64: the old pixel under the centre of each new one, as the bilinear resize of the image sees them."""
    return np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(np.int64), old - 1)


def _one_of(options: Sequence[int]) -> int:
    return options[_between(0, len(options) - 1)]


def _between(low: int, high: int) -> int:
    """Random integer between two ends, both included."""
    return int(torch.randint(low, high + 1, ()))
