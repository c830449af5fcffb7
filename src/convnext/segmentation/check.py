"""Examination of images with label PNGs before training: their contents and their problems."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from convnext.data.images import ImageError, open_image, orientation, to_rgb, upright_rgb
from convnext.data.look import BLOCK, Range
from convnext.segmentation.labels import IGNORED, Labels, read_mask, size_error
from convnext.segmentation.layout import SplitFiles, find_layout
from convnext.segmentation.masks import MaskImages, hold_out_masks

MOSTLY = 0.5
"""Share of ignored pixels above which there is a warning."""


@dataclass(frozen=True)
class PartReport:
    """One of train and val. Names are those of images, unless a field says otherwise."""

    images: int
    """Images with a label file, unusable ones included."""
    pixels: list[int]
    """Pixels per class, over the usable images, as all counts below."""
    images_with: list[int]
    """Images per class that have a pixel of it."""
    ignored: int
    """Pixels that are of no class: 255, and 0 where it stands for nothing."""
    unreadable: dict[str, str]
    """Reason by name, of images of which either file cannot be read."""
    sizes_differ: dict[str, str]
    """Reason by name."""
    unknown: dict[str, list[int]]
    """Values that are neither a class's nor ignored, by name."""
    without_mask: list[str]
    without_image: list[str]
    """Label files without an image."""
    mirrored: list[str]
    """Images that their EXIF orientation mirrors or turns upside down, which their size cannot show."""

    @property
    def unusable(self) -> int:
        return len(self.unreadable) + len(self.sizes_differ) + len(self.unknown)

    @property
    def shares(self) -> list[float]:
        """Share of the labelled pixels per class; zeros if there are none."""
        total = sum(self.pixels) or 1
        return [count / total for count in self.pixels]

    @property
    def ignored_share(self) -> float:
        """Share of all pixels that are ignored."""
        return self.ignored / ((self.ignored + sum(self.pixels)) or 1)


@dataclass(frozen=True)
class MaskReport:
    """Result of `check_masks`."""

    data: str
    classes: list[str]
    expected: str
    """The values that a label file may have, in words."""
    train: PartReport
    val: PartReport
    short_side: Range | None
    """None: no image is usable."""
    long_side: Range | None
    max_corrupt_share: float
    """Share of unusable training images at which a training stops."""

    @property
    def errors(self) -> list[str]:
        """Problems that stop a training or falsify its result, a sentence each."""
        found = [] if self._tolerable else self._unusable("training", self.train)
        found += self._unusable("validation", self.val)
        for title, part in self._parts:
            if part.without_mask:
                found.append(f"{_some(part.without_mask, f'{title} images')} have no labels.")
            if part.images and not any(part.pixels):
                found.append(f"No pixel of the {title} images belongs to a class.")
            if not part.images:
                found.append(f"There are no {title} images with labels.")
        return found

    @property
    def warnings(self) -> list[str]:
        """Findings that a person should judge, a sentence each."""
        found = self._unusable("training", self.train) if self._tolerable else []
        if found:
            found.append("Other training images will replace those that cannot be used.")
        for title, part in self._parts:
            if part.without_image:
                found.append(f"{_some(part.without_image, f'{title} label files')} have no image.")
            if part.mirrored:
                found.append(
                    f"{_some(part.mirrored, f'{title} images')} are mirrored or turned upside down by their EXIF "
                    "orientation, and their labels must be, too, which their size cannot show: look at them."
                )
            unseen = [name for name, count in zip(self.classes, part.pixels, strict=True) if not count]
            if unseen and any(part.pixels):
                found.append(f"{_some(unseen, f'of {len(self.classes):,} classes')} have no {title} pixel.")
            if part.ignored_share > MOSTLY:
                found.append(f"{100 * part.ignored_share:.0f} % of the {title} pixels are ignored.")
        return found

    @property
    def _parts(self) -> tuple[tuple[str, PartReport], tuple[str, PartReport]]:
        return ("training", self.train), ("validation", self.val)

    @property
    def _tolerable(self) -> bool:
        return self.train.unusable <= self.max_corrupt_share * self.train.images

    def _unusable(self, title: str, part: PartReport) -> list[str]:
        found, what = [], f"of {part.images:,} {title} images"
        if part.unreadable:
            found.append(f"{_some(list(part.unreadable), what)} or their labels cannot be read.")
        if part.sizes_differ:
            found.append(f"{_some(list(part.sizes_differ), what)} differ from their labels in size.")
        if part.unknown:
            values = sorted({value for values in part.unknown.values() for value in values})
            shown = ", ".join(map(str, values[:5])) + (", .." if len(values) > 5 else "")
            found.append(f"{_some(list(part.unknown), what)} have labels of value {shown}; expected: {self.expected}.")
        return found


@dataclass(frozen=True)
class _Look:
    """Result of decoding one image and its labels: its size and pixels by label, or the problem."""

    size: tuple[int, int] = (0, 0)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(IGNORED + 1, dtype=np.int64))
    mirrored: bool = False
    unreadable: str | None = None
    sizes_differ: str | None = None
    unknown: list[int] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        return not (self.unreadable or self.sizes_differ or self.unknown)


def check_masks(
    data: str,
    val_share: float = 0.1,
    seed: int = 0,
    reduce_zero_label: bool | None = None,
    max_corrupt_share: float = 0.01,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> MaskReport:
    """Decode every image of `data` and its labels once and report on them.

    Args:
        data, val_share, seed, reduce_zero_label: as in `open_masks`.
        max_corrupt_share: share of unusable training images at which a training stops.
        threads: threads that decode; None: one per core, at most 16.
        progress: called with (images done, images in total) every `BLOCK` images and at the end.

    Raises:
        ConvNextError: as `find_layout`.
    """
    layout, nothing = find_layout(data, reduce_zero_label), SplitFiles([], [], [])
    train_files = nothing if layout.train is None else layout.files(layout.train)
    val_files = nothing if layout.val is None else layout.files(layout.val)
    train, val = (MaskImages(layout.root, part.pairs, layout.labels) for part in (train_files, val_files))
    if layout.val is None and len(train) > 1:
        train, val = hold_out_masks(train, val_share, seed)

    total, done, sizes, reports = len(train) + len(val), 0, [], []
    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 16)) as pool:
        for images, files in ((train, train_files), (val, val_files)):
            tally = _Tally(len(images.classes))
            for start in range(0, len(images), BLOCK):
                block = range(start, min(start + BLOCK, len(images)))
                looks = pool.map(
                    _look, *zip(*(images.sources(i) for i in block), strict=True), [layout.labels] * len(block)
                )
                for i, look in zip(block, looks, strict=True):
                    tally.add(images.name(i), look)
                    sizes += [look.size] if look.usable else []
                done += len(block)
                if progress:
                    progress(done, total)
            reports.append(tally.report(len(images), files))

    short, long = ([pick(size) for size in sizes] for pick in (min, max))
    return MaskReport(
        data=data,
        classes=layout.labels.classes,
        expected=layout.labels.expected,
        train=reports[0],
        val=reports[1],
        short_side=Range(min(short), float(np.median(short)), max(short)) if short else None,
        long_side=Range(min(long), float(np.median(long)), max(long)) if long else None,
        max_corrupt_share=max_corrupt_share,
    )


class _Tally:
    """Sums over the images of a part, which are not kept."""

    def __init__(self, classes: int):
        self.counts = np.zeros(IGNORED + 1, dtype=np.int64)
        self.images_with = np.zeros(classes, dtype=np.int64)
        self.unreadable, self.sizes_differ, self.unknown, self.mirrored = {}, {}, {}, []

    def add(self, name: str, look: _Look) -> None:
        if look.unreadable:
            self.unreadable[name] = look.unreadable
        elif look.sizes_differ:
            self.sizes_differ[name] = look.sizes_differ
        elif look.unknown:
            self.unknown[name] = look.unknown
        else:
            self.counts += look.counts
            self.images_with += look.counts[: len(self.images_with)] > 0
            self.mirrored += [name] if look.mirrored else []

    def report(self, images: int, files: SplitFiles) -> PartReport:
        return PartReport(
            images=images,
            pixels=self.counts[: len(self.images_with)].tolist(),
            images_with=self.images_with.tolist(),
            ignored=int(self.counts[IGNORED]),
            unreadable=self.unreadable,
            sizes_differ=self.sizes_differ,
            unknown=self.unknown,
            without_mask=files.without_mask,
            without_image=files.without_image,
            mirrored=self.mirrored,
        )


def _look(path: Path, mask: Path, labels: Labels) -> _Look:
    try:
        with open_image(path) as image:
            stored, upright = to_rgb(image), upright_rgb(image)
            mirrored = (
                orientation(image) is not None and stored.size == upright.size and stored.tobytes() != upright.tobytes()
            )
        values = read_mask(mask)
    except ImageError as error:
        return _Look(unreadable=str(error))
    if message := size_error(upright.size, values.shape):
        return _Look(sizes_differ=message)
    known, unknown = labels.of(values)
    if unknown:
        return _Look(unknown=unknown)
    return _Look(upright.size, np.bincount(known.ravel(), minlength=IGNORED + 1), mirrored)


def _some(names: list[str], what: str) -> str:
    """`3 of 10 images (a, b, c)`, at most five of them."""
    shown = ", ".join(names[:5]) + (", .." if len(names) > 5 else "")
    return f"{len(names):,} {what} ({shown})"
