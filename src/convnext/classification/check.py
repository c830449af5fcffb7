"""Examination of a whole dataset before training: its contents and its problems."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from convnext.classification.dataset import ImageDataset
from convnext.classification.open import one_class, open_parts
from convnext.data.formats.content import said
from convnext.data.images import ImageError
from convnext.data.look import BLOCK, Look, Range, look_at, side_range, some
from convnext.data.unread import unread_sentence
from convnext.recipes.reading import FOUND, Reading

IMBALANCE = 10.0
"""Largest class over smallest class from which there is a warning."""


@dataclass(frozen=True)
class Duplicates:
    """Images with the same pixels, by name, and the different labels that they have, by class name."""

    train: list[str]
    val: list[str]
    classes: list[str]


@dataclass(frozen=True)
class CheckReport:
    """Result of `check`."""

    data: str
    classes: list[str]
    train_counts: list[int]
    """Images per class, unreadable ones included."""
    val_counts: list[int]
    train_images: int
    val_images: int
    unreadable_train: dict[str, str]
    """Reason by name."""
    unreadable_val: dict[str, str]
    duplicates: list[Duplicates]
    short_side: Range | None
    """None: no image is readable."""
    long_side: Range | None
    modes: dict[str, int]
    """Readable images by Pillow's mode before the conversion to RGB, such as L, RGB, CMYK."""
    unread: str
    """Sentence about files that look like labels and are not read; empty without any."""
    max_corrupt_share: float
    """Share of unreadable training images at which a training stops."""
    format: str = ""
    """Format that the data was read as."""
    problems: Sequence[str] = ()
    """Oddities that the reader of the format found, a sentence each."""
    multi_label: bool = False
    """True if images can have any number of labels."""

    @property
    def imbalance(self) -> float:
        """Training images of the largest class over those of the smallest; infinite if one has none."""
        return max(self.train_counts) / min(self.train_counts) if min(self.train_counts) else float("inf")

    @property
    def errors(self) -> list[str]:
        """Problems that stop a training or falsify its result, a sentence each."""
        found = []
        train, bad_train, bad_val = self.train_images, len(self.unreadable_train), len(self.unreadable_val)
        if bad_train > self.max_corrupt_share * train:
            found.append(f"{bad_train:,} of {train:,} training images cannot be read; a training would stop.")
        if bad_val:
            found.append(f"{bad_val:,} of {self.val_images:,} validation images cannot be read.")
        if len(self.classes) < 2 and not self.multi_label:
            found.append(one_class(self.classes, self.data))
        if missing := self._without(self.train_counts):
            found.append(f"No training images of {some(missing)}.")
        return found

    @property
    def warnings(self) -> list[str]:
        """Findings that a person should judge, a sentence each."""
        found = []
        train, bad_train = self.train_images, len(self.unreadable_train)
        if 0 < bad_train <= self.max_corrupt_share * train:
            found.append(f"{bad_train:,} of {train:,} training images cannot be read; others will replace them.")
        if IMBALANCE <= self.imbalance < float("inf"):
            found.append(f"The largest class has {self.imbalance:.0f} times as many training images as the smallest.")
        if missing := self._without(self.val_counts):
            counts = dict(zip(self.classes, self.train_counts, strict=True))
            alone = [name for name in missing if counts[name] == 1]
            why = f" Only one image each have {some(alone)}: add some." if alone else ""
            found.append(f"No validation images of {some(missing)}.{why}")
        if self.unread and len(self.classes) > 1:
            found.append(self.unread)
        if leaked := sum(len(group.val) for group in self.duplicates if group.train):
            found.append(f"{leaked:,} of {self.val_images:,} validation images are in the training part, too.")
        if copies := sum(len(group.train) - 1 for group in self.duplicates if group.train):
            found.append(f"{copies:,} of {train:,} training images are copies of others.")
        if contradictory := sum(len(group.classes) > 1 for group in self.duplicates):
            found.append(f"{contradictory:,} images are there more than once, with different labels.")
        return found + said(list(self.problems))

    def _without(self, counts: list[int]) -> list[str]:
        return [name for name, count in zip(self.classes, counts, strict=True) if not count]


def check(
    data: str,
    val_share: float = 0.1,
    seed: int = 0,
    max_corrupt_share: float = 0.01,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    reading: Reading = FOUND,
) -> CheckReport:
    """Decode every image of `data` once and report on it.

    Args:
        data, val_share, seed, reading: as in `open_parts`.
        max_corrupt_share: share of unreadable training images at which a training stops.
        threads: threads that decode; None: one per core, at most 16.
        progress: called with (images done, images in total) every `BLOCK` images and at the end.

    Raises:
        ConvNextError: the data cannot be opened at all.
    """
    train, val = open_parts(data, val_share, seed, reading)
    names = [part.name(i) for part in (train, val) for i in range(len(part))]
    looks: list[Look] = []
    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 16)) as pool:
        for part in (train, val):
            for start in range(0, len(part), BLOCK):
                # read one after the other, because not every dataset may be read from several threads
                sources = [_source(part, i) for i in range(start, min(start + BLOCK, len(part)))]
                looks += pool.map(look_at, sources, names[len(looks) : len(looks) + len(sources)])
                if progress:
                    progress(len(looks), len(names))

    unreadable = [(name, look.reason) for name, look in zip(names, looks, strict=True) if look.reason]
    bad_train = sum(look.reason is not None for look in looks[: len(train)])
    sizes = [look.size for look in looks if not look.reason]
    return CheckReport(
        data=data,
        classes=train.classes,
        train_counts=train.counts().tolist(),
        val_counts=val.counts().tolist(),
        train_images=len(train),
        val_images=len(val),
        unreadable_train=dict(unreadable[:bad_train]),
        unreadable_val=dict(unreadable[bad_train:]),
        duplicates=_duplicates(looks, names, train, val),
        short_side=side_range([min(size) for size in sizes]),
        long_side=side_range([max(size) for size in sizes]),
        modes=dict(Counter(look.mode for look in looks if not look.reason).most_common()),
        unread=unread_sentence(Path(data).expanduser()).strip(),
        max_corrupt_share=max_corrupt_share,
        format=train.format,
        problems=train.problems,
        multi_label=train.multi_label,
    )


def _source(dataset: ImageDataset, i: int) -> Path | bytes | Image.Image | ImageError:
    try:
        return dataset.source(i)
    except ImageError as error:
        return error


def _duplicates(looks: list[Look], names: list[str], train: ImageDataset, val: ImageDataset) -> list[Duplicates]:
    joined_labels = np.concatenate([train.labels, val.labels])

    def labels(i: int) -> list[int]:
        return (np.flatnonzero(joined_labels[i]) if train.multi_label else joined_labels[i : i + 1]).tolist()

    groups = defaultdict(list)
    for i, look in enumerate(looks):
        if not look.reason:
            groups[look.digest].append(i)
    return [
        Duplicates(
            train=[names[i] for i in group if i < len(train)],
            val=[names[i] for i in group if i >= len(train)],
            classes=list(
                dict.fromkeys(" + ".join(train.classes[k] for k in each) for each in sorted(map(labels, group)))
            ),
        )
        for group in groups.values()
        if len(group) > 1
    ]
