"""Python sequences of (image, label map) as data: images with a label for every pixel."""

import hashlib
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convnext.data import split
from convnext.data.formats.pictures import decoded
from convnext.data.formats.sequence import Held, Labelled, held
from convnext.data.images import ImageError
from convnext.errors import ConvNextError
from convnext.segmentation.labels import IGNORED, read_mask, size_error


class SequenceMasks:
    """N images with their labels; a `data.loader.Samples`, in the order of the images' names.

    Args:
        labelled: items whose targets are (H, W) whole numbers, grey or palette PIL images, or paths of label PNGs; 255 is
            ignored.
        classes: class names in the order of the labels; None: those of the data, else "0" to the largest value.

    Raises:
        ConvNextError: a target is something else, or has a value of no class; the message has its position.
    """

    def __init__(self, labelled: Labelled, classes: list[str] | None = None):
        self._labelled, self._pictures = labelled, Held(labelled)
        tops = [self._top(i) for i in range(len(labelled))]
        self.classes = labelled.classes or classes or [str(k) for k in range(max(tops) + 1)]
        for i, top in enumerate(tops):
            if top >= len(self.classes):
                raise ConvNextError(
                    f"Item {i} of the data: its labels have the value {top}; the classes are 0 to {len(self.classes) - 1}, and "
                    f"{IGNORED} for ignored pixels."
                )
        names = labelled.names
        self._last = -1, (0, 0)  # row and size of the image that was decoded last
        self._rows = np.array(sorted(range(len(names)), key=lambda row: names[row].split("/")), dtype=np.int64)

    def _top(self, row: int) -> int:
        """The largest label of an item, -1 without any."""
        try:
            labels = self._values(row)
        except ImageError as error:
            raise ConvNextError(f"Item {row} of the data: {error}") from None
        return max((int(value) for value in np.unique(labels) if value != IGNORED), default=-1)

    def _values(self, row: int) -> np.ndarray:
        """Labels (H, W) uint8 of an item. Raises ConvNextError: its target is none."""
        target = self._labelled.targets[row]
        if isinstance(target, str | Path):
            return _checked(read_mask(Path(target)), row)
        values = np.asarray(target)
        if isinstance(target, Image.Image) and target.mode not in ("1", "L", "P", "I;16", "I"):
            raise ConvNextError(
                f"Item {row} of the data: labels are one number a pixel, and the mode is {target.mode}."
            )
        return _checked(values, row)

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, i: int) -> str:
        """Stable id of image i, for messages and seeds."""
        return self._labelled.names[self._rows[i]]

    def file(self, i: int) -> Path | None:
        """The file of image i; None for one in memory."""
        return self._labelled.files[self._rows[i]]

    def files(self, i: int) -> tuple[Path, ...]:
        """The files that `check_header` reads."""
        return () if (file := self.file(i)) is None else (file,)

    def image(self, i: int) -> Image.Image:
        """Image i, mode RGB, upright. Raises ImageError: it cannot be decoded."""
        row = int(self._rows[i])
        image = decoded(self.file(i) or self._pictures.source(row), self.name(i))
        self._last = row, image.size
        return image

    def check_header(self, i: int) -> None:
        """Compare the sizes of image i and its labels. Raises ImageError."""
        self.target(i)

    def target(self, i: int) -> np.ndarray:
        """Labels (H, W) uint8 of image i: 0..K-1, 255 where ignored; cheap right after `image(i)`.

        Raises:
            ImageError: they have another size than the image.
        """
        row = int(self._rows[i])
        labels = self._values(row)
        if message := size_error(self._last[1] if self._last[0] == row else self.image(i).size, labels.shape):
            raise ImageError(f"Item {row} of the data ({self.name(i)}): {message}.")
        return labels

    def subset(self, indices: Sequence[int] | np.ndarray) -> "SequenceMasks":
        """The images at these positions, in this order."""
        other = copy(self)
        other._rows = self._rows[np.asarray(indices, dtype=np.int64)]
        return other

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the classes, the names of the images and the labels."""
        digest = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        for i in range(len(self)):
            labels = self._values(int(self._rows[i]))
            digest.update(f"\0{self.name(i)}\0{labels.shape}".encode("utf-8", "surrogateescape"))
            digest.update(np.ascontiguousarray(labels).tobytes())
        return digest.hexdigest()


def open_sequence(data: str, val_share: float, seed: int) -> tuple[SequenceMasks, SequenceMasks]:
    """The (train, val) images of a Python sequence, some held out by their names. Raises ConvNextError: as `SequenceMasks`."""
    images = SequenceMasks(held(data))
    train, val = split.hold_out([images.name(i) for i in range(len(images))], val_share, seed)
    return images.subset(train), images.subset(val)


def _checked(values: Any, row: int) -> np.ndarray:
    """Labels (H, W) uint8. Raises ConvNextError: another shape or type, or a value beyond 0..255."""
    if values.ndim != 2 or not (np.issubdtype(values.dtype, np.integer) or values.dtype == bool):
        raise ConvNextError(
            f"Item {row} of the data: an array of shape {values.shape} and type {values.dtype} is no label map; give (H, W) whole "
            f"numbers, {IGNORED} for ignored pixels, or the path of a label PNG."
        )
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= IGNORED:
        raise ConvNextError(
            f"Item {row} of the data: its labels go from {values.min()} to {values.max()}, beyond 0 to 255."
        )
    return values.astype(np.uint8)
