"""Contents of a dataset of any format, in one form: images with labels of the whole image, and with objects.

Readers of formats make it, tasks turn it into the datasets that they train on, writers of formats write it. Images are in
the order of their names, part by part, so that the same images are in the same order whatever format they came from.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from convnext.data.conventions import TRAIN_NAMES, VAL_NAMES
from convnext.data.formats.pictures import Pictures, Source, size_of
from convnext.data.look import some
from convnext.errors import ConvNextError, nearest

CLASSES = "classes.txt"

MAX_FILE = 2**30
"""Bytes of one file of labels: far above any real one, and below what would fill a machine's memory."""


@dataclass(slots=True)
class Object:
    """An object in an image: label, box x y w h in pixels, and what COCO calls its segmentation (polygons or run lengths).

    `crowd` marks what is neither learnt nor counted: COCO's crowds, VOC's difficult objects. `area`: None for w x h.
    """

    label: int
    box: tuple[float, float, float, float]
    segmentation: Any = None
    crowd: bool = False
    area: float | None = None


@dataclass(slots=True)
class Item:
    """An image and what is said of it.

    Attributes:
        name: stable id: its path below the folder of the images, with slashes.
        file: where it is; of an image without a file of its own, its name.
        part: "train", "val", or "" for what has no part.
        labels: classes of the whole image, ascending; empty where there are only objects.
        size: (height, width) where the format states it.
        where: the file, and the line, that say so; for messages.
        row: place of the image in the content's pictures; -1: it is a file.
    """

    name: str
    file: Path
    part: str = ""
    labels: tuple[int, ...] = ()
    objects: list[Object] = field(default_factory=list)
    size: tuple[int, int] | None = None
    where: str = ""
    row: int = -1


@dataclass
class Content:
    """A dataset as one format has it.

    Attributes:
        format: its name for people.
        path: what was read.
        classes: class names in the order of the labels.
        multi_label: True if an image can have any number of labels.
        notes: what a person should know about the reading, a sentence each.
        problems: mistakes that do not keep it from being read, a sentence each, for `data check`.
        pictures: the images that are not in files of their own.
    """

    format: str
    path: Path
    classes: list[str]
    items: list[Item]
    multi_label: bool = False
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    pictures: Pictures | None = None

    def __post_init__(self) -> None:
        order = {"train": 0, "": 0, "val": 1}
        self.items.sort(key=lambda item: (order.get(item.part, 2), item.name.split("/")))

    def part(self, *names: str) -> list[Item]:
        """The images of some parts."""
        return [item for item in self.items if item.part in names]

    def source(self, item: Item) -> Source:
        """The image of an item as it is stored."""
        return item.file if item.row < 0 or self.pictures is None else self.pictures.source(item.row)

    def size(self, item: Item) -> tuple[int, int] | None:
        """(height, width) of an item's image, as the format states it or its header; None if it cannot be read."""
        return item.size or size_of(self.source(item))


def inside(root: Path, name: str, where: str) -> tuple[Path, str]:
    """The file that a path in a file of labels means, and its path below `root`, with slashes.

    Raises:
        ConvNextError: it leaves `root`, or is no path at all. Judged by the words: links in folders are followed.
    """
    text = name.strip().replace("\\", "/")
    if not text or "\0" in text:
        raise ConvNextError(f"{where} has no path of an image: {name[:80]!r}.")
    below = os.path.normpath(text)
    if os.path.isabs(below):
        base = os.path.normpath(root.absolute())
        below = os.path.relpath(below, base)
    if below.split(os.sep, 1)[0] == ".." or below == ".":
        raise ConvNextError(
            f"{where}: {name[:200]!r} is outside {root}. Paths must stay below the folder of the images; give the one that "
            "has all of them with --read.images."
        )
    below = PurePosixPath(below.replace(os.sep, "/")).as_posix()
    return root / below, below


def read_text(path: Path, most: int = MAX_FILE) -> str:
    """The text of a small file of labels.

    Raises:
        ConvNextError: it is missing, larger than `most` bytes, or not UTF-8; the message has the line.
    """
    try:
        if not path.is_file():
            raise ConvNextError(f"There is no file {path}. Get a complete copy of the data.")
        if (size := path.stat().st_size) > most:
            raise ConvNextError(
                f"{path} has {size:,} bytes, more than the {most:,} that a file of labels may have. Split it."
            )
        data = path.read_bytes()
    except OSError as error:
        raise ConvNextError(f"Cannot read {path}: {error.strerror}. Make it readable or remove it.") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConvNextError(f"{path}, line {line}, is not UTF-8. Save the file as UTF-8.") from None


def part_folders(root: Path) -> list[tuple[Path, str]]:
    """The folders of a training and a validation part with their names, or the folder itself without such."""
    train, val = (next((root / n for n in names if (root / n).is_dir()), None) for names in (TRAIN_NAMES, VAL_NAMES))
    if not train and not val:
        return [(root, "")]
    found = [(train, "train" if val else ""), (val, "val")]
    return [(folder, part) for folder, part in found if folder]


def hull(polygons: list[list[float]]) -> tuple[float, float, float, float]:
    """x y w h of the box around polygons x y x y .."""
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def listed_classes(root: Path, names: Iterable[str]) -> list[str]:
    """The order of the classes: that of a classes.txt in the folder, which may have more, else by name.

    Raises:
        ConvNextError: the list lacks one.
    """
    path, names = root / CLASSES, set(names)
    if not path.is_file():
        return natural(names)
    listed = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if unknown := sorted(names - set(listed)):
        raise ConvNextError(
            f"{path} lacks the label {unknown[0]!r}.{nearest(unknown[0], listed)} Add it, or remove the file."
        )
    return listed


def content_problems(content: Content) -> list[str]:
    """List oddities in the data of any format: what its reader found, names that differ in case, labels that occur once."""
    found = list(content.problems)
    seen: dict[tuple[str, str], str] = {}
    for item in content.items:
        other = seen.setdefault((item.part, item.name.casefold()), item.name)
        if other != item.name:
            found.append(f"{other!r} and {item.name!r} differ in case alone: some file systems take them for one.")
    labels = Counter(
        label for item in content.items for label in [*item.labels, *(each.label for each in item.objects)]
    )
    if once := [name for label, name in enumerate(content.classes) if labels[label] == 1]:
        found.append(f"These labels occur once, which may be a slip: {some(once)}.")
    return found


def said(problems: list[str], most: int = 10) -> list[str]:
    """The first problems, and how many more there are."""
    more = [f".. and {len(problems) - most:,} more such problems."] if len(problems) > most else []
    return problems[:most] + more


def part_of(word: str) -> str | None:
    """The part that a word such as "valid" means: "train", "val" or "test"; None if it means none."""
    word = word.strip().lower()
    if word in ("train", "test"):
        return word
    return "train" if word in TRAIN_NAMES else "val" if word in (*VAL_NAMES, "dev") else None


def natural(names: Iterable[str]) -> list[str]:
    """Class names in order: numbers by value if all are whole numbers, else by letter."""
    names = list(names)
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names):
        return sorted(names, key=int)
    return sorted(names)
