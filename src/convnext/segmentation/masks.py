"""Images with a label for every pixel: ADE20K, and any folder of images beside a folder of label PNGs."""

import hashlib
import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from convnext.data import split as splitting
from convnext.data.images import ImageError, decode, open_image
from convnext.errors import ConvNextError
from convnext.segmentation.labels import Labels, read_mask, size_error
from convnext.segmentation.layout import Layout, find_layout


class MaskImages:
    """N images with their labels; a `data.loader.Samples`.

    Attributes:
        classes: the K class names, in the order of the labels.
        labels: the meaning of the values in the files.
    """

    def __init__(self, root: Path, pairs: Sequence[tuple[str, str]], labels: Labels):
        self.classes, self.labels = labels.classes, labels
        self._root = root
        # one buffer, not a list: counting references to its strings would copy the list into every loader process
        encoded = [os.fsencode(path) for pair in pairs for path in pair]
        self._paths = b"".join(encoded)
        self._ends = np.cumsum([0] + [len(path) for path in encoded])
        self._rows = np.arange(len(pairs))
        self._last = -1, (0, 0)  # the row and size of the image decoded last

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, i: int) -> str:
        """Stable id of image i, for messages and seeds: its path below the root."""
        return self._names(i)[0]

    def file(self, i: int) -> Path:
        """The file of image i."""
        return self.sources(i)[0]

    def sources(self, i: int) -> tuple[Path, Path]:
        """Paths of image i and of its label file."""
        image, mask = self._names(i)
        return self._root / image, self._root / mask

    def _names(self, i: int) -> tuple[str, str]:
        start, middle, end = self._ends[2 * self._rows[i] :][:3]
        return os.fsdecode(self._paths[start:middle]), os.fsdecode(self._paths[middle:end])

    def image(self, i: int) -> Image.Image:
        """Image i as `decode` gives it: mode RGB, upright; an ImageError names it."""
        image = decode(self.sources(i)[0])
        self._last = int(self._rows[i]), image.size
        return image

    def files(self, i: int) -> tuple[Path, ...]:
        """The files that `check_header` reads."""
        return self.sources(i)

    def check_header(self, i: int) -> None:
        """Read the headers of image i and of its label file and compare their sizes. Raises ImageError."""
        sizes = []
        for path in self.sources(i):
            with open_image(path) as image:
                sizes.append(image.size)
        if sizes[0] != sizes[1]:  # an orientation may turn the image, which only decoding shows for all formats
            self.image(i)
            self.target(i)

    def target(self, i: int) -> np.ndarray:
        """Labels (H, W) uint8 of image i, upright as people see it: 0..K-1, 255 where ignored.

        Cheap right after `image(i)`; else it decodes the image as well, to compare the sizes.

        Raises:
            ImageError: as `image` and `read_mask`; a value of no class; different sizes, as when labels were made
                without the image's EXIF orientation.
        """
        path = self.sources(i)[1]
        labels, unknown = self.labels.of(read_mask(path))
        if unknown:
            shown = ", ".join(map(str, unknown[:5])) + (", .." if len(unknown) > 5 else "")
            raise ImageError(
                f"Cannot use {str(path)!r}: it has the values {shown}; expected: {self.labels.expected}."
                f"{self.labels.remedy(unknown)}"
            )
        row, size = self._last
        if message := size_error(size if row == self._rows[i] else self.image(i).size, labels.shape):
            raise ImageError(f"Cannot use {self.name(i)!r} with {str(path)!r}: {message}.")
        return labels

    def subset(self, indices: Sequence[int] | np.ndarray) -> "MaskImages":
        """The images at these positions, in this order."""
        other = copy(self)
        other._rows = self._rows[np.asarray(indices, dtype=np.int64)]
        return other

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the classes, their values, and the names of images and label files."""
        digest = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        digest.update(self.labels.table.astype("<i2").tobytes())
        for i in range(len(self)):
            digest.update(os.fsencode("".join(f"\0{name}" for name in self._names(i))))
        return digest.hexdigest()


def open_masks(
    data: str | Path, val_share: float, seed: int, reduce_zero_label: bool | None = None
) -> tuple[MaskImages, MaskImages]:
    """Open the (train, val) images of `data` and their labels.

    Args:
        data: a folder in one of the forms at the top of `layout.py`.
        val_share: share that is held out where there are no split folders, or none for validation.
        seed: with the images' names, decides which are held out.
        reduce_zero_label: as in `read_labels`.

    Raises:
        ConvNextError: as `find_layout`; no images, images without labels, or a validation part alone.
    """
    layout = find_layout(data, reduce_zero_label)
    if layout.train is None:
        missing = f"images/train/ and {layout.masks}/train/"
        raise ConvNextError(f"{layout.root} has images/{layout.val}/ but no training part; put it into {missing}.")
    train = _open(layout, layout.train)
    return (train, _open(layout, layout.val)) if layout.val else hold_out_masks(train, val_share, seed)


def open_masks_split(
    data: str | Path, split: Literal["train", "val"], val_share: float, seed: int, reduce_zero_label: bool | None = None
) -> MaskImages:
    """Open one part of `open_masks`; the other need not exist."""
    layout = find_layout(data, reduce_zero_label)
    if layout.val and (folder := {"train": layout.train, "val": layout.val}[split]):
        return _open(layout, folder)
    train, val = open_masks(data, val_share, seed, reduce_zero_label)
    return {"train": train, "val": val}[split]


def hold_out_masks(images: MaskImages, share: float, seed: int) -> tuple[MaskImages, MaskImages]:
    """Split into (train, val) by `split.hold_out`, without classes: one image has labels of many."""
    train, val = splitting.hold_out([images.name(i) for i in range(len(images))], share, seed)
    return images.subset(train), images.subset(val)


def _open(layout: Layout, folder: str) -> MaskImages:
    """All images of a split folder.

    Raises:
        ConvNextError: there are none, or one has no labels.
    """
    files = layout.files(folder)
    images, masks = (f"{layout.root / top / folder}" for top in ("images", layout.masks))
    if files.without_mask:
        raise ConvNextError(
            f"{len(files.without_mask):,} of {len(files.pairs) + len(files.without_mask):,} images in {images} have no "
            f"labels in {masks}, such as {files.without_mask[0]!r}. Add a PNG of the same name, or move them away."
        )
    if not files.pairs:
        raise ConvNextError(f"{images} has no images; put them there, and their labels into {masks}.")
    return MaskImages(layout.root, files.pairs, layout.labels)
