"""Examination of images with boxes and masks before training: their contents and their problems."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from convnext.data.formats.coco import coco_file, find_parts
from convnext.data.formats.coco_file import CocoFile
from convnext.data.formats.content import content_problems, said
from convnext.data.formats.pictures import Source
from convnext.data.images import ImageError
from convnext.data.look import BLOCK, Look, Range, look_at, side_range, some
from convnext.detection.open import read
from convnext.recipes.reading import FOUND, Reading

MARGIN = 1.0
"""Pixels by which a box may leave its image without a warning: tools round outwards."""

FIT = 0.5
"""Least IoU of a box and its mask's own box; boxes of a wrong convention (corners, centres) are far below."""


@dataclass(frozen=True)
class PartReport:
    """Contents and problems of one annotation file. Annotations are named by their ids, images by their file names."""

    path: str
    classes: list[str]
    images: int
    objects: int
    """Annotations that are not crowds."""
    crowds: int
    counts: list[int]
    """Objects of each class."""
    empty: list[str]
    """Images without an object that can be learnt from."""
    unreadable: dict[str, str]
    """Reason by name; missing files are among them."""
    missing: list[str]
    other_size: dict[str, str]
    """Sizes of the file and of its annotations, by name."""
    repeated_images: list[int]
    """Ids that more than one image has."""
    repeated_names: list[str]
    repeated_annotations: list[int]
    unknown: list[int]
    """Annotations of an image or a category that the file does not list."""
    degenerate: list[int]
    """Less than a pixel wide or high inside the image, or without area; they are left out."""
    outside: list[int]
    """Boxes that leave the image by more than `MARGIN`; they are clipped."""
    broken_masks: dict[int, str]
    """Objects whose segmentation cannot be used, or that have none."""
    unlike_masks: list[int]
    """Boxes whose IoU with what their masks cover is below `FIT`."""


@dataclass(frozen=True)
class CocoReport:
    """Result of `check_coco`."""

    data: str
    classes: list[str]
    train: PartReport | None
    val: PartReport | None
    """None: held out of train."""
    leaked: list[str]
    """Validation images with the same pixels as a training image."""
    other_categories: list[str]
    """Names that are in one of train and val only, or there with another id."""
    short_side: Range | None
    long_side: Range | None
    modes: dict[str, int]
    """Readable images by Pillow's mode before the conversion to RGB."""
    max_corrupt_share: float
    problems: list[str] = field(default_factory=list)
    """Oddities that the reader of another format than COCO's found, a sentence each."""
    format: str = "COCO"

    @property
    def errors(self) -> list[str]:
        """Problems that stop a training or falsify its result, a sentence each."""
        found = []
        if self.other_categories:
            found.append(f"Train and val do not have the same categories: {some(self.other_categories)}.")
        for word, part in self._parts():
            bad = len(part.unreadable) + len(part.other_size)
            if bad and (word == "validation" or bad > self.max_corrupt_share * part.images):
                found.append(f"{self._bad_images(word, part)}; {_stops(word)}.")
            for count, text in (
                (part.repeated_images, "ids are of more than one of the {word} images"),
                (part.unknown, "{word} annotations are of an image or a category that is not listed"),
                (part.broken_masks, "{word} objects have no usable segmentation"),
            ):
                if count:
                    found.append(f"{len(count):,} {text.format(word=word)}, such as {next(iter(count))}.")
        if self.train and not sum(self.train.counts):
            found.append("There is no object to train on.")
        return found

    @property
    def warnings(self) -> list[str]:
        """Findings that a person should judge, a sentence each."""
        found = []
        for word, part in self._parts():
            bad = len(part.unreadable) + len(part.other_size)
            if word == "training" and 0 < bad <= self.max_corrupt_share * part.images:
                found.append(f"{self._bad_images(word, part)}; others will replace them.")
            for items, text in (
                (part.degenerate, "{word} annotations cover less than a pixel; they are left out"),
                (part.outside, "{word} boxes leave their image; they are clipped"),
                (part.unlike_masks, "{word} boxes are not where their masks are; a box is x, y, width, height"),
                (part.repeated_annotations, "ids are of more than one of the {word} annotations"),
                (part.repeated_names, "{word} images are listed more than once"),
                (part.empty, "{word} images have no object" + ("; they are left out" if word == "training" else "")),
            ):
                if items:
                    found.append(f"{len(items):,} {text.format(word=word)}, such as {items[0]}.")
            if missing := [name for name, count in zip(part.classes, part.counts, strict=True) if not count]:
                found.append(f"No {word} objects of {len(missing):,} classes: {some(missing)}.")
        if self.leaked:
            found.append(f"{len(self.leaked):,} validation images are in the training part, too: {some(self.leaked)}.")
        return found + said(self.problems)

    def _parts(self) -> list[tuple[str, PartReport]]:
        return [(word, part) for word, part in (("training", self.train), ("validation", self.val)) if part]

    @staticmethod
    def _bad_images(word: str, part: PartReport) -> str:
        unreadable = len(part.unreadable) - len(part.missing)
        counts = {"missing": len(part.missing), "unreadable": unreadable, "of another size": len(part.other_size)}
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
        return f"{sum(counts.values()):,} of {part.images:,} {word} images cannot be used ({reasons})"


def _missing(source: Source) -> bool:
    return isinstance(source, Path) and not source.exists()


def _stops(word: str) -> str:
    return "a training would stop" if word == "training" else "an evaluation leaves none out"


def check_coco(
    data: str | Path,
    max_corrupt_share: float = 0.01,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    reading: Reading = FOUND,
) -> CocoReport:
    """Decode every image and every mask of `data` once and report on it.

    Args:
        data: as in `open_coco`; what has no validation part is reported as training data.
        max_corrupt_share: share of training images that cannot be used at which a training stops.
        threads: threads that decode; None: one per core, at most 16.
        progress: called with (images done, images in total) every `BLOCK` images and at the end.

    Raises:
        ConvNextError: the annotations cannot be read at all, or the folder of images is not there.
    """
    root, content = read(str(data), reading)
    images: dict[str, list[Callable[[], Source]]] = {}
    if content is None:
        parts = find_parts(root)
        files = {name: CocoFile.read(part.annotations) for name, part in parts.items()}
        for name, file in files.items():
            folder = parts[name].folder_of(file)
            paths = [folder / _name(file, row) for row in range(len(file.image_ids))]
            images[name] = [partial(Path, path) for path in paths]
    else:
        items = {"train": content.part("train", ""), "val": content.part("val")}
        files = {name: coco_file(content, part) for name, part in items.items() if part}
        images = {name: [partial(content.source, item) for item in part] for name, part in items.items()}
    total, looks, reports = sum(len(file.image_ids) for file in files.values()), [], {}
    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 16)) as pool:
        for name, file in files.items():
            inspection = _Inspection(file, images[name])
            for start in range(0, len(file.image_ids), BLOCK):
                looks += pool.map(inspection.look, range(start, min(start + BLOCK, len(file.image_ids))))
                if progress:
                    progress(len(looks), total)
            reports[name] = inspection.report(looks[-len(file.image_ids) :])
    first = next(iter(files.values()))
    listed = [set(zip(file.category_ids.tolist(), file.classes, strict=True)) for file in files.values()]
    seen = {look.digest for look in looks[: len(files["train"].image_ids)]} - {b""} if "train" in files else set()
    val = files.get("val")
    return CocoReport(
        data=str(data),
        classes=first.classes,
        train=reports.get("train"),
        val=reports.get("val"),
        leaked=[_name(val, i) for i, look in enumerate(looks[-len(val.image_ids) :]) if look.digest in seen]
        if val
        else [],
        other_categories=sorted({name for _, name in listed[0] ^ listed[-1]}),
        short_side=side_range([min(look.size) for look in looks if not look.reason]),
        long_side=side_range([max(look.size) for look in looks if not look.reason]),
        modes=dict(Counter(look.mode for look in looks if not look.reason).most_common()),
        max_corrupt_share=max_corrupt_share,
        problems=content_problems(content) if content else [],
        format=content.format if content else "COCO",
    )


class _Inspection:
    """One annotation file under examination; nothing in it is trusted beyond its form."""

    def __init__(self, file: CocoFile, sources: list[Callable[[], Source]]):
        self.file, self.sources = file, sources
        self.boxes_alone = not file.segmentations.buffer
        row_of = {key: row for row, key in reversed(list(enumerate(file.image_ids.tolist())))}
        self.owner = np.array([row_of.get(key, -1) for key in file.images.tolist()], dtype=np.int64)
        self.known = (self.owner >= 0) & np.isin(file.categories, file.category_ids)
        height, width = file.sizes[self.owner].T
        corners = np.concatenate([file.bbox[:, :2], file.bbox[:, :2] + file.bbox[:, 2:]], axis=1)
        clipped = np.clip(corners, 0, np.stack([width, height, width, height], axis=1))
        self.outside = self.known & (np.abs(corners - clipped).max(axis=1, initial=0) > MARGIN)
        self.degenerate = self.known & ((clipped[:, 2:] - clipped[:, :2] < 1).any(axis=1) | (file.area <= 0))
        self.objects = self.known & ~file.crowd
        order = np.argsort(self.owner, kind="stable")
        ends = np.searchsorted(self.owner[order], np.arange(len(file.image_ids) + 1))
        self.of_image = [order[start:end] for start, end in pairwise(ends)]
        self.broken: dict[int, str] = {}
        self.unlike: list[int] = []

    def look(self, row: int) -> Look:
        """Decode image `row` and its masks."""
        for k in self.of_image[row]:
            if self.objects[k]:
                self._look_at_mask(k, tuple(self.file.sizes[row].tolist()))
        return look_at(self.sources[row](), _name(self.file, row))

    def _look_at_mask(self, k: int, size: tuple[int, int]) -> None:
        if self.boxes_alone:
            return
        key = int(self.file.ids[k])
        try:
            mask = self.file.masks(np.array([k]), size)[0]
        except ImageError as error:
            self.broken[key] = str(error)
            return
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if self.degenerate[k] or not len(rows):
            return
        x, y, w, h = self.file.bbox[k]
        left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        both = max(0, min(x + w, right) - max(x, left)) * max(0, min(y + h, bottom) - max(y, top))
        if both < FIT * (w * h + (right - left) * (bottom - top) - both):
            self.unlike.append(key)

    def report(self, looks: list[Look]) -> PartReport:
        file, names = self.file, [_name(self.file, row) for row in range(len(self.file.image_ids))]
        labels = np.searchsorted(file.category_ids, file.categories[self.objects])
        useful = set(self.owner[self.objects & ~self.degenerate].tolist())
        unreadable = {name: look.reason for name, look in zip(names, looks, strict=True) if look.reason}
        return PartReport(
            path=str(file.path),
            classes=file.classes,
            images=len(names),
            objects=int(self.objects.sum()),
            crowds=int((self.known & file.crowd).sum()),
            counts=np.bincount(labels, minlength=len(file.classes)).tolist(),
            empty=[name for row, name in enumerate(names) if row not in useful],
            unreadable=unreadable,
            missing=[
                name
                for name, source in zip(names, self.sources, strict=True)
                if name in unreadable and _missing(source())
            ],
            other_size={
                name: f"{look.size[0]} x {look.size[1]} pixels, annotated as {width} x {height}"
                for name, look, (height, width) in zip(names, looks, file.sizes.tolist(), strict=True)
                if not look.reason and look.size != (width, height)
            },
            repeated_images=_repeated(file.image_ids.tolist()),
            repeated_names=_repeated(names),
            repeated_annotations=_repeated(file.ids.tolist()),
            unknown=file.ids[~self.known].tolist(),
            degenerate=file.ids[self.degenerate].tolist(),
            outside=file.ids[self.outside & ~self.degenerate].tolist(),
            broken_masks=dict(sorted(self.broken.items())),
            unlike_masks=sorted(self.unlike),
        )


def _name(file: CocoFile, row: int) -> str:
    return file.names[row].decode("utf-8", "surrogateescape")


def _repeated(values: Iterable) -> list:
    return [value for value, count in Counter(values).items() if count > 1]
