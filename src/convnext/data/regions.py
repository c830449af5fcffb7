"""Parts of images: a training crop decodes no more pixels than it needs.

JPEG is stored as frequencies of 8x8 blocks, so libjpeg decodes it at 1/2, 1/4 or 1/8 of its size for a fraction of the
time. A crop of a large photo is scaled down to the input of a model anyway; where that is by more than a factor of 2, half
the pixels of each side suffice. After Pillow has read the header, simplejpeg decodes: the bits that Pillow gives (`draft`),
in two thirds of the time for small files, because nothing is copied in pieces. Evaluation does not come here.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image
from PIL.ImageFile import ImageFile

from convnext.data.images import open_image, orientation, to_rgb, turned, upright_rgb

SHRINKS = (8, 4, 2)
"""Factors by which libjpeg scales down as it decodes."""
BLOCK = 8
"""Pixels of a side that libjpeg scales as one; smaller images have the same size at several scales."""
TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


@dataclass(frozen=True)
class Region:
    """A rectangle of an upright image in pixels, and (width, height) of the fewest pixels that it may be given in."""

    left: int
    top: int
    width: int
    height: int
    least: tuple[int, int]

    @property
    def shrink(self) -> int:
        """The largest factor by which the image may be scaled down: 1, 2, 4 or 8."""
        return next((s for s in SHRINKS if self.width >= s * self.least[0] and self.height >= s * self.least[1]), 1)

    def box(self, whole: tuple[int, int], now: tuple[int, int]) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in an image of `now` (width, height) that is one of `whole` scaled; never empty."""
        x, y = (new / old for new, old in zip(now, whole, strict=True))
        left, top = min(round(self.left * x), now[0] - 1), min(round(self.top * y), now[1] - 1)
        right, bottom = round((self.left + self.width) * x), round((self.top + self.height) * y)
        return left, top, max(right, left + 1), max(bottom, top + 1)


Choose = Callable[[tuple[int, int]], Region]
"""From (width, height) of an upright image to the region that is wanted."""


class RegionTransform(ABC):
    """A transform that says which part of an image it needs before the image is decoded."""

    @abstractmethod
    def region(self, size: tuple[int, int]) -> Region:
        """The part of an upright image of `size` (width, height)."""

    @abstractmethod
    def __call__(self, pixels: np.ndarray) -> Any:
        """From the region's pixels (h, w, 3) uint8 to a training sample."""


def cut(image: Image.Image, choose: Choose) -> np.ndarray:
    """The region of a decoded RGB image, (h, w, 3) uint8."""
    return _pixels(image, choose(image.size), image.size)


def cut_array(pixels: np.ndarray, region: Region, whole: tuple[int, int]) -> np.ndarray:
    """The region of an image of `whole` (width, height) whose pixels (H, W, 3) uint8 are at hand, perhaps scaled: a view."""
    left, top, right, bottom = region.box(whole, (pixels.shape[1], pixels.shape[0]))
    return pixels[top:bottom, left:right]


def decode_region(
    source: str | os.PathLike | bytes, choose: Choose, name: str | None = None, upright: bool = True
) -> np.ndarray:
    """Decode the part of an image that `choose` asks for, (h, w, 3) uint8, upright, as `data.images.decode` otherwise.

    A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size where the region keeps `least` pixels; so the result is the
    region scaled down, or the region itself.

    Args:
        name: what to call the image in errors, as in `decode`.
        upright: turn the image as its orientation says before anything else.

    Raises:
        ImageError: as `decode`.
    """
    with open_image(source, name=name) as image:
        rgb = upright_rgb if upright else to_rgb
        if image.format != "JPEG":  # only JPEG has size and orientation in its header, and scales
            return cut(rgb(image), choose)
        turn = (orientation(image) or 1) if upright else 1
        whole = (image.height, image.width) if turn in TURNED else image.size
        region = choose(whole)
        if (pixels := _decoded(image, region.shrink)) is not None:
            if turn != 1:
                pixels = np.asarray(turned(Image.fromarray(pixels), turn))
            return cut_array(pixels, region, whole)
        if region.shrink > 1:
            image.draft(None, (image.width // region.shrink, image.height // region.shrink))  # type: ignore[arg-type]
        return _pixels(rgb(image), region, whole)


def _decoded(image: ImageFile, shrink: int) -> np.ndarray | None:
    """The pixels (h, w, 3) uint8 of an opened JPEG file at 1/`shrink` of its size, as they are stored.

    None for files in four colours, for those of less than a block, and where libjpeg warns or fails: Pillow decides what
    such a file is worth, and says why.
    """
    assert image.fp
    if image.mode not in ("RGB", "L") or max(image.size) < BLOCK:
        return None
    image.fp.seek(0)
    width, height = (-(-side // shrink) for side in image.size)
    with suppress(ValueError):
        return simplejpeg.decode_jpeg(image.fp.read(), "RGB", min_height=height, min_width=width)
    return None


def _pixels(image: Image.Image, region: Region, whole: tuple[int, int]) -> np.ndarray:
    box = region.box(whole, image.size)
    return np.asarray(image if box == (0, 0, *image.size) else image.crop(box))
