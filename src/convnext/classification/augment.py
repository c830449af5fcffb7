"""Training augmentation: from part of an encoded image to the input of a model.

It follows the paper's recipe (Table 5) through timm's RandAugment: torchvision's has another magnitude scale. Each part is
done where it is cheapest: processes that load data crop, resize and turn colours in 8 bits and send 8 bits; normalisation and
erasing come on the device (`Finish`), in one pass. Their random numbers are drawn with the sample's others, in timm's order.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from convnext.classification.transforms import SMALL, Preprocess
from convnext.data.loader import Batch, collate
from convnext.data.regions import Region, RegionTransform, cut
from convnext.errors import ConvNextError
from convnext.recipes.schema import Augment

RATIO = (3 / 4, 4 / 3)
"""Aspect of random crops."""
ERASED = (0.02, 1 / 3)
"""Share of an image that an erased rectangle has."""
ERASED_ASPECT = (0.3, 1 / 0.3)
TRIES = 10
TORCH_FILTERS = ("bilinear", "bicubic")
"""Filters that PyTorch has antialiased for 8 bits: the values of Pillow's within 1, four times as fast."""


class Augmented(NamedTuple):
    """pixels (size, size, 3) uint8; erase (5,) int64: top, left, height, width of a rectangle, and the seed of its noise."""

    pixels: Tensor
    erase: Tensor


class TrainTransform(RegionTransform):
    """The region of an image that a draw chooses -> `Augmented`.

    Draws from the global generators of Python, NumPy and PyTorch: seed them per sample (`convnext.seeding`).

    Raises:
        ConvNextError: the RandAugment string is not one of timm's.
    """

    def __init__(self, pre: Preprocess, augment: Augment):
        self.pre, self.augment = pre, augment
        self.rand_augment = rand_augment(pre, augment.rand_augment) if augment.rand_augment else None

    def region(self, size: tuple[int, int]) -> Region:
        least = (self.pre.size, self.pre.size)
        if self.pre.size <= SMALL:
            return Region(0, 0, *size, least)
        return Region(*random_crop(size, self.augment.crop_scale), least)

    def __call__(self, pixels: np.ndarray) -> Augmented:
        size, augment = self.pre.size, self.augment
        view = resize(pixels, size, self.pre.interpolation)
        if size <= SMALL and (pad := augment.crop_padding):
            view = F.pad(view, (0, 0, pad, pad, pad, pad))
            top, left = (int(torch.randint(0, 2 * pad + 1, (1,))) for _ in range(2))
            view = view[top : top + size, left : left + size]
        flipped = torch.rand(1).item() < augment.hflip
        if self.rand_augment:
            image = Image.fromarray(view.numpy())
            if flipped:  # a third of the time that the array's bytes take
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            view = _writable(np.asarray(self.rand_augment(image)))
        elif flipped:
            view = view.flip(1)
        return Augmented(view.contiguous(), torch.tensor(random_rectangle(size, augment.random_erasing)))


def rand_augment(pre: Preprocess, words: str) -> Callable[[Image.Image], Image.Image]:
    """timm's RandAugment, filling with the mean; raises ConvNextError if it does not know the words."""
    from timm.data.auto_augment import rand_augment_transform
    from timm.data.transforms import str_to_pil_interp

    hints = {
        "translate_const": int(pre.size * 0.45),
        "img_mean": tuple(min(255, round(255 * m)) for m in pre.mean),
        "interpolation": str_to_pil_interp(pre.interpolation),
    }
    try:
        return rand_augment_transform(words, hints)
    except (AssertionError, ValueError, KeyError) as error:
        raise ConvNextError(
            f"{words!r} is not a RandAugment string of timm; the paper's is 'rand-m9-mstd0.5-inc1'."
        ) from error


def random_crop(size: tuple[int, int], scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a crop of an image of `size` (width, height), by the rule and draws of timm.

    The area is uniform in `scale`, the aspect log-uniform in `RATIO`; after ten that do not fit, the largest central crop.
    """
    width, height = size
    for _ in range(TRIES):
        area = random.uniform(*scale) * width * height
        aspect = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = random.randint(0, height - h), random.randint(0, width - w)
            return left, top, w, h
    aspect = min(max(width / height, RATIO[0]), RATIO[1])
    w, h = min(width, max(round(height * aspect), 1)), min(height, max(round(width / aspect), 1))
    return (width - w) // 2, (height - h) // 2, w, h


def random_rectangle(side: int, probability: float) -> tuple[int, int, int, int, int]:
    """(top, left, height, width, seed) of a rectangle to erase in a square image, by timm's rule; of height 0 for none."""
    if probability and random.random() <= probability:
        for _ in range(TRIES):
            area = random.uniform(*ERASED) * side * side
            aspect = math.exp(random.uniform(math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1])))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if w < side and h < side:
                return random.randint(0, side - h), random.randint(0, side - w), h, w, random.getrandbits(62)
    return 0, 0, 0, 0, 0


def resize(pixels: np.ndarray, size: int, interpolation: str) -> Tensor:
    """(h, w, 3) uint8 -> (size, size, 3) uint8, antialiased."""
    if pixels.shape[:2] == (size, size):
        return _writable(pixels)
    if interpolation not in TORCH_FILTERS:
        filter_ = Image.Resampling[interpolation.upper()]
        return _writable(np.asarray(Image.fromarray(pixels).resize((size, size), filter_)))
    # with the batch's axis first, PyTorch sees that the channels stand last, and answers in the same layout; rows with gaps
    # between them, as a part of an image has, would take a slower way
    image = _writable(np.ascontiguousarray(pixels))[None].permute(0, 3, 1, 2)
    return F.interpolate(image, size=(size, size), mode=interpolation, antialias=True)[0].permute(1, 2, 0)


def _writable(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())


def collate_augmented(samples: list) -> Batch:
    """Samples of a `TrainTransform` with labels; images (B, 3, size, size) uint8 in channels-last layout."""
    views, *others = zip(*samples, strict=True)
    batch = collate([(view.pixels, *rest) for view, *rest in zip(views, *others, strict=True)])
    batch.images, batch.erase = batch.images.permute(0, 3, 1, 2), torch.stack([view.erase for view in views])
    return batch


@dataclass(frozen=True)
class Finish:
    """The last part of the augmentation, on the device: uint8 -> float, normalised, with rectangles of noise.

    On a CPU image by image, which stays in the cache.
    """

    pre: Preprocess

    def __call__(self, images: Tensor, erase: Tensor) -> Tensor:
        """images (B, 3, H, W) uint8, erase (B, 5) as `Augmented` has it -> (B, 3, H, W) float, channels-last."""
        scale, shift = _affine(self.pre.mean, self.pre.std, images.device)
        finished = torch.empty(images.shape, device=images.device, memory_format=torch.channels_last)
        if images.is_cpu:
            scale, shift = (values.flatten().repeat(images.shape[3]) for values in (scale, shift))
            for image, out in zip(images.permute(0, 2, 3, 1), finished.permute(0, 2, 3, 1), strict=True):
                rows = out.copy_(image).flatten(1)  # (H, 3W): vectors longer than three
                torch.addcmul(shift, rows, scale, out=rows)
        else:
            torch.addcmul(shift, images, scale, out=finished)
        for i, (top, left, height, width, seed) in enumerate(erase.tolist()):
            if height:
                generator = torch.Generator(images.device).manual_seed(seed)
                noise = torch.empty(3, height, width, device=images.device).normal_(generator=generator)
                finished[i, :, top : top + height, left : left + width] = noise  # drawn in place: ten times slower
        return finished


@cache
def _affine(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(scale, shift) of values in 0..255, (3, 1, 1) each."""
    mean_, std_ = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (mean, std))
    return (1 / (255 * std_)).to(device), (-mean_ / std_).to(device)


def train_transform(pre: Preprocess, augment: Augment) -> Callable[[Image.Image], Tensor]:
    """RGB image of any size -> (3, size, size) float, augmented and normalised: all parts of training at once."""
    transform, finish = TrainTransform(pre, augment), Finish(pre)

    def whole(image: Image.Image) -> Tensor:
        pixels, erase = transform(cut(image, transform.region))
        return finish(pixels.permute(2, 0, 1)[None], erase[None])[0].contiguous()

    return whole
