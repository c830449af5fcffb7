"""Images with labels out of a `Content`: what classifiers train on when a file, and not a folder, has the labels."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from convnext.classification.dataset import ImageDataset, hold_out
from convnext.data.formats.content import Content, Item, content_problems
from convnext.data.images import open_image, upright_rgb
from convnext.data.texts import Texts
from convnext.errors import ConvNextError

MOST = 2**31
"""Images times classes of data with several labels per image: its table of labels is in memory."""


class ContentImages(ImageDataset):
    """Some items of a `Content`.

    Raises:
        ConvNextError: an image has no label where each must have one, or there are too many labels for the memory.
    """

    def __init__(self, content: Content, items: list[Item], multi_label: bool):
        self.classes, self.format, self.problems = content.classes, content.format, content_problems(content)
        self._names = Texts(item.name.encode("utf-8", "surrogateescape") for item in items)
        self._files = Texts(os.fsencode(item.file) for item in items)
        self._pictures, self._rows = content.pictures, np.array([item.row for item in items], dtype=np.int64)
        if multi_label:
            if len(items) * len(self.classes) > MOST:
                raise ConvNextError(
                    f"{content.path} has {len(items):,} images and {len(self.classes):,} classes: several labels per image are "
                    f"read up to {MOST:,} pairs of them. Leave out rare classes."
                )
            self.labels = np.zeros((len(items), len(self.classes)), dtype=bool)
            for row, item in zip(self.labels, items, strict=True):
                row[list(item.labels)] = True
        else:
            for item in items:
                if len(item.labels) != 1:
                    raise ConvNextError(
                        f"{item.where}: {item.name!r} has {len(item.labels)} labels, and must have one."
                    )
            self.labels = np.array([item.labels[0] for item in items], dtype=np.int64)

    def name(self, i: int) -> str:
        return self._names[i].decode("utf-8", "surrogateescape")

    def source(self, i: int) -> Path | bytes | Image.Image:
        if self._rows[i] < 0 or self._pictures is None:
            return Path(os.fsdecode(self._files[i]))
        source = self._pictures.source(int(self._rows[i]))
        return upright_rgb(source) if isinstance(source, Image.Image) and self.upright else source

    def file(self, i: int) -> Path | None:
        return Path(os.fsdecode(self._files[i])) if self._rows[i] < 0 else None

    def state(self, i: int) -> tuple[int, ...]:
        if self._rows[i] < 0 or self._pictures is None:
            return super().state(i)
        return self._pictures.state(int(self._rows[i]))

    def check_header(self, i: int) -> None:
        source = self.source(i)
        if not isinstance(source, Image.Image):
            with open_image(source, name=repr(self.name(i)) if isinstance(source, bytes) else None):
                pass


def with_labels(content: Content) -> tuple[Content, bool]:
    """The content with labels of whole images, and whether they have several.

    Objects in an image are its labels where nothing else is.
    """
    if any(item.labels for item in content.items) or not any(item.objects for item in content.items):
        return content, content.multi_label
    for item in content.items:
        item.labels = tuple(sorted({each.label for each in item.objects}))
    return content, True


def open_content(content: Content, val_share: float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """The (train, val) images of a content; without a validation part, some are held out.

    Raises:
        ConvNextError: as `ContentImages`; no training images.
    """
    content, multi_label = with_labels(content)
    train, val = content.part("train", ""), content.part("val")
    if not train:
        raise ConvNextError(f"{content.path} has no training images; put some into the part train.")
    images = ContentImages(content, train, multi_label)
    if val:
        return images, ContentImages(content, val, multi_label)
    images, held_out = hold_out(images, val_share, seed)
    images.problems = content_problems(content)
    return images, held_out


def open_content_for_evaluation(content: Content, val_share: float, seed: int) -> ImageDataset:
    """The validation images as in `open_content`, which may be there alone."""
    content, multi_label = with_labels(content)
    if content.part("val"):
        return ContentImages(content, content.part("val"), multi_label)
    return open_content(content, val_share, seed)[1]
