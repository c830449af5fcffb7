"""Datasets of images with one label each, or any number: labels and names known without decoding, images one at a time.

`data.loader.Samples` is what loaders ask of the datasets of all tasks.

A dataset travels to the loader's processes, so it holds arrays and buffers, not millions of Python objects.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from convnext.data import split
from convnext.data.images import decode, open_image, to_rgb
from convnext.data.regions import Choose, cut, decode_region
from convnext.errors import ConvNextError

if TYPE_CHECKING:
    from subprocess import Popen

    from torch import Tensor


class ImageDataset(ABC):
    """N images with one label each, or with any number of them.

    Attributes:
        classes: the K class names, in the order of the labels.
        labels: (N,) int64 in 0..K-1; of data with any number of labels per image (N, K) bool.
        format: the format that they were read from, for people; `problems`: what its reader found odd, a sentence each.
        upright: images are turned as their EXIF orientation says; `as_stored` gives them without.
    """

    classes: list[str]
    labels: np.ndarray
    format: str = ""
    upright: bool = True
    problems: Sequence[str] = ()

    @property
    def multi_label(self) -> bool:
        """True if an image can have any number of labels; `target` is then a row of ones and zeros."""
        return self.labels.ndim == 2

    def counts(self) -> np.ndarray:
        """(K,) int64: images of each class."""
        if self.multi_label:
            return self.labels.sum(axis=0, dtype=np.int64)
        return np.bincount(self.labels, minlength=len(self.classes))

    def label_names(self, i: int) -> list[str]:
        """Class names of image i."""
        labels = np.flatnonzero(self.labels[i]) if self.multi_label else [self.labels[i]]
        return [self.classes[label] for label in labels]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def name(self, i: int) -> str:
        """A stable id of image i for people and for seeds: `cat/17.jpg`, `train.parquet#17`, `digits/17`."""

    @abstractmethod
    def source(self, i: int) -> Path | bytes | Image.Image:
        """Image i as it is stored."""

    def image(self, i: int) -> Image.Image:
        """Image i, mode RGB.

        Raises:
            ImageError: it cannot be decoded; the message names it.
        """
        source = self.source(i)
        if isinstance(source, Image.Image):
            return to_rgb(source)
        name = self.name(i) if isinstance(source, bytes) else None
        if self.upright:
            return decode(source, name=name)
        with open_image(source, name=name) as image:
            return to_rgb(image)

    def region(self, i: int, choose: Choose) -> np.ndarray:
        """The part of image i that `choose` asks for, (h, w, 3) uint8, for training: decoded from as few pixels as it needs.

        Raises:
            ImageError: it cannot be decoded; the message names it.
        """
        source = self.source(i)
        if isinstance(source, Image.Image):
            return cut(to_rgb(source), choose)
        return decode_region(source, choose, self.name(i) if isinstance(source, bytes) else None, self.upright)

    def file(self, i: int) -> Path | None:
        """The file that image i alone is in; None where images are stored otherwise."""
        return None

    def files(self, i: int) -> tuple[Path, ...]:
        """The files that `check_header` reads."""
        return () if (file := self.file(i)) is None else (file,)

    def blocks(self) -> np.ndarray | None:
        """(B+1,) int64: block b, which is read fastest as a whole, has the images [b] to [b+1] - 1; None without blocks."""
        return None

    def state(self, i: int) -> tuple[int, ...]:
        """Size and time of the file that has image i, which change with it; nothing where there is none."""
        file = self.file(i)
        return file_state(file) if file else ()

    def stamp(self, i: int) -> int:
        """A number below 2**64 that changes with what `region` gives of image i."""
        from convnext.seeding import derive  # which imports PyTorch

        return derive(*self.state(i), self.upright)

    def read_ahead(self, order: np.ndarray) -> "Popen | None":
        """Start a process that brings the blocks here, in this order, if they are elsewhere."""
        return None

    def amplification(self) -> float:
        """How many times more is read than used when the images come in random order, about."""
        return 1.0

    def reading_advice(self, data: str) -> str:
        """A sentence on images of `data` that are slow to read in random order, with remedies; empty where they are not."""
        return ""

    def target(self, i: int) -> "int | Tensor":
        """The label of image i; of several, (K,) float32 with a 1 for each of its classes, which batches stack to (B, K)."""
        if not self.multi_label:
            return int(self.labels[i])
        import torch

        return torch.from_numpy(self.labels[i].astype(np.float32))

    def check_header(self, i: int) -> None:  # noqa: B027, only some have files
        """Read the header of image i, if it is a file of its own. Raises ImageError."""

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageDataset":
        """The images at these positions, in this order."""
        return _Subset(self, np.asarray(indices, dtype=np.int64))

    def as_stored(self) -> "ImageDataset":
        """The same images, not turned as their EXIF orientation says."""
        other = copy(self)
        other.upright = False
        return other

    def relabeled(self, labels: np.ndarray, classes: list[str]) -> "ImageDataset":
        """The same images with other labels, (N,) or (N, K), and class names."""
        other = copy(self)
        other.labels, other.classes = labels, classes
        return other


class _Subset(ImageDataset):
    def __init__(self, whole: ImageDataset, indices: np.ndarray):
        self._whole = whole
        self._indices = indices
        self.classes, self.format, self.upright = whole.classes, whole.format, whole.upright
        self.labels = whole.labels[indices]

    def name(self, i: int) -> str:
        return self._whole.name(self._indices[i])

    def check_header(self, i: int) -> None:
        self._whole.check_header(self._indices[i])

    def source(self, i: int) -> Path | bytes | Image.Image:
        return self._whole.source(self._indices[i])

    def file(self, i: int) -> Path | None:
        return self._whole.file(self._indices[i])

    def state(self, i: int) -> tuple[int, ...]:
        return self._whole.state(self._indices[i])

    def read_ahead(self, order: np.ndarray) -> "Popen | None":
        return self._whole.read_ahead(order)

    def amplification(self) -> float:
        return self._whole.amplification()

    def reading_advice(self, data: str) -> str:
        return self._whole.reading_advice(data)

    def blocks(self) -> np.ndarray | None:
        starts = self._whole.blocks()
        ascending = bool((np.diff(self._indices) > 0).all())
        return np.searchsorted(self._indices, starts) if starts is not None and ascending else None


def file_state(file: Path) -> tuple[int, ...]:
    """Size in bytes and time in nanoseconds of a file; nothing if it is not there."""
    try:
        state = file.stat()
    except OSError:
        return ()
    return state.st_size, state.st_mtime_ns


class _Joined(ImageDataset):
    def __init__(self, parts: Sequence[ImageDataset]):
        self._parts, self.classes = parts, parts[0].classes
        self.format, self.upright = parts[0].format, parts[0].upright
        self._ends = np.cumsum([len(part) for part in parts])
        self.labels = np.concatenate([part.labels for part in parts])

    def _at(self, i: int) -> tuple[ImageDataset, int]:
        k = int(np.searchsorted(self._ends, i, side="right"))
        return self._parts[k], i - int(self._ends[k - 1] if k else 0)

    def name(self, i: int) -> str:
        part, j = self._at(i)
        return part.name(j)

    def source(self, i: int) -> Path | bytes | Image.Image:
        part, j = self._at(i)
        return part.source(j)

    def file(self, i: int) -> Path | None:
        part, j = self._at(i)
        return part.file(j)


class ArrayDataset(ImageDataset):
    """Images that are all in memory: pixels (N,H,W) or (N,H,W,3) uint8; image i is called `{prefix}/{i}`."""

    def __init__(self, prefix: str, pixels: np.ndarray, labels: np.ndarray, classes: list[str]):
        self._prefix = prefix
        self._pixels = pixels
        self.labels = labels.astype(np.int64)
        self.classes = classes

    def name(self, i: int) -> str:
        return f"{self._prefix}/{i}"

    def source(self, i: int) -> Image.Image:
        return Image.fromarray(self._pixels[i])


def joined(*parts: ImageDataset) -> ImageDataset:
    """The images of several parts with the same classes, one part after the other."""
    return _Joined(parts)


def fitting(images: ImageDataset, several: bool, data: str) -> ImageDataset:
    """The images labelled for a model that gives an image one label, or several of them.

    Raises:
        ConvNextError: they have several labels each and the model gives one.
    """
    if images.multi_label == several:
        return images
    if several:
        return images.relabeled(images.labels[:, None] == np.arange(len(images.classes)), images.classes)
    raise ConvNextError(
        f"The images of {data} have several labels each, and the model was trained to give one. Take labels of one class an "
        "image, or train on such data: the model then answers with all labels that apply."
    )


def rarest(labels: np.ndarray) -> np.ndarray:
    """(N, K) bool -> (N,) int64: of each image's classes the one with the fewest images, K without any."""
    counts = np.append(labels.sum(axis=0), len(labels) + 1)
    order = np.argsort(counts, kind="stable")
    having = np.column_stack([labels, np.ones(len(labels), dtype=bool)])[:, order]
    return order[having.argmax(axis=1)]


def hold_out(dataset: ImageDataset, share: float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """Split into (train, val), `share` of each class to val; see `data.split.hold_out`, as for the errors.

    An image with several labels counts for the class that has the fewest images.
    """
    names = [dataset.name(i) for i in range(len(dataset))]
    labels = rarest(dataset.labels) if dataset.multi_label else dataset.labels
    train, val = split.hold_out(names, share, seed, labels)
    return dataset.subset(train), dataset.subset(val)
