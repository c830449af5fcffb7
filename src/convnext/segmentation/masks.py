"""Pictures with a label for every pixel: ADE20K, and any folder of pictures beside a folder of label PNGs.

    images/training/**/NAME.jpg    annotations/training/**/NAME.png     ADE20K as its authors release it
    images/train/**/NAME.jpg       masks/train/**/NAME.png              with split folders (`TRAIN_NAMES`, `VAL_NAMES`)
    images/**/NAME.jpg             masks/**/NAME.png                    without: some are held out for validation

The second folder is the first of `MASK_FOLDERS` that holds a PNG. `classes.txt` or `classes.json` in the root names the
classes; `read_labels` says what the values in the PNGs mean.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from convnext.data import split as splitting
from convnext.data.conventions import TRAIN_NAMES, VAL_NAMES
from convnext.data.images import IMAGE_EXTENSIONS, ImageError, decode, open_image
from convnext.errors import ConvNextError, nearest

IGNORED = 255
"""The label, and the value in every file, of pixels that neither train nor count."""

MASK_FOLDERS = ("annotations", "masks", "labels")

ADE20K_CLASSES = tuple(
    "wall,building,sky,floor,tree,ceiling,road,bed,windowpane,grass,cabinet,sidewalk,person,earth,door,table,mountain,"
    "plant,curtain,chair,car,water,painting,sofa,shelf,house,sea,mirror,rug,field,armchair,seat,fence,desk,rock,"
    "wardrobe,lamp,bathtub,railing,cushion,base,box,column,signboard,chest of drawers,counter,sand,sink,skyscraper,"
    "fireplace,refrigerator,grandstand,path,stairs,runway,case,pool table,pillow,screen door,stairway,river,bridge,"
    "bookcase,blind,coffee table,toilet,flower,book,hill,bench,countertop,stove,palm,kitchen island,computer,"
    "swivel chair,boat,bar,arcade machine,hovel,bus,towel,light,truck,tower,chandelier,awning,streetlight,booth,"
    "television receiver,airplane,dirt track,apparel,pole,land,bannister,escalator,ottoman,bottle,buffet,poster,stage,"
    "van,ship,fountain,conveyer belt,canopy,washer,plaything,swimming pool,stool,barrel,basket,waterfall,tent,bag,"
    "minibike,cradle,oven,ball,food,step,tank,trade name,microwave,pot,animal,bicycle,lake,dishwasher,screen,blanket,"
    "sculpture,hood,sconce,vase,traffic light,tray,ashcan,fan,pier,crt screen,plate,monitor,bulletin board,shower,"
    "radiator,glass,clock,flag".split(",")
)
"""The 150 classes of the scene parsing benchmark; class k has the value k + 1 in its files."""

_EXPECTED = (
    f"images/ with pictures and one of {', '.join(f'{name}/' for name in MASK_FOLDERS)} with a label PNG of the same "
    "name for each, both with train/ and val/ inside (ADE20K: training/ and validation/) or both without"
)


@dataclass(frozen=True)
class Labels:
    """What the values in label files mean.

    Attributes:
        classes: the K class names, in the order of the labels.
        table: (257,) int16, by value in the file: a label 0..K-1, `IGNORED`, or -1 for a value that means nothing; the
            last row is for all values above 255.
    """

    classes: list[str]
    table: np.ndarray

    def of(self, stored: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Values (H, W) of a file -> labels (H, W) uint8, and the values that mean nothing, which become `IGNORED`."""
        labels = self.table[stored if stored.dtype == np.uint8 else np.minimum(stored, 256)]
        unknown = labels < 0
        return np.where(unknown, IGNORED, labels).astype(np.uint8), np.unique(stored[unknown]).tolist()

    @property
    def expected(self) -> str:
        """The values that a file may have, in words."""
        values = np.flatnonzero((self.table >= 0) & (self.table < IGNORED))
        also = f"0 and {IGNORED}" if self.table[0] == IGNORED else IGNORED
        return f"{len(values)} classes' values from {values[0]} to {values[-1]}, and {also} for ignored pixels"


def read_labels(root: Path, ade20k: bool, reduce_zero_label: bool | None = None) -> Labels:
    """The classes of a folder, and which value in its files means which: the one place that decides it.

    - `classes.txt` (a name a line) and `classes.json` with a list: class k has the value k; with `reduce_zero_label`
      the value k + 1, and 0 is ignored.
    - `classes.json` with an object {"value": "name"}: the classes in the order of their values; 0 is ignored if it has
      no name.
    - Neither, in ADE20K's layout: its 150 classes, with `reduce_zero_label` unless told otherwise.
    - 255 is always ignored.

    Raises:
        ConvNextError: no or a broken class list, a value above 254, or a list that contradicts `reduce_zero_label`.
    """
    path = next((path for path in (root / "classes.txt", root / "classes.json") if path.is_file()), None)
    if path is None and not ade20k:
        raise ConvNextError(f"{root} has no class list. Write the names into {root / 'classes.txt'}, one a line.")
    listed = list(ADE20K_CLASSES) if path is None else _read_classes(path)
    if isinstance(listed, dict):
        named = listed
        if reduce_zero_label is not None and reduce_zero_label == (0 in named):
            raise ConvNextError(
                f"{path} {'names' if 0 in named else 'does not name'} the value 0, which contradicts "
                f"reduce_zero_label = {reduce_zero_label}. Leave the option out: an object says by itself what 0 is."
            )
    else:
        reduced = path is None if reduce_zero_label is None else reduce_zero_label
        named = dict(enumerate(listed, start=int(reduced)))
    classes, where = [named[value] for value in sorted(named)], path or root
    if not classes or not all(classes) or len(set(classes)) < len(classes):
        raise ConvNextError(f"{where} must name at least one class; no name may be empty or there twice.")
    if max(named) >= IGNORED or min(named) < 0:
        raise ConvNextError(
            f"{where} gives classes the values {min(named)} to {max(named)}; they must be 0 to {IGNORED - 1}, because "
            f"{IGNORED} stands for ignored pixels. Merge classes or renumber them."
        )
    table = np.full(257, -1, dtype=np.int16)
    table[0] = table[IGNORED] = IGNORED
    table[sorted(named)] = np.arange(len(named))
    return Labels(classes, table)


def _read_classes(path: Path) -> list[str] | dict[int, str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = text.rstrip().splitlines() if path.suffix == ".txt" else json.loads(text)
        if isinstance(names, dict):
            return {int(value): str(name).strip() for value, name in names.items()}
        if isinstance(names, list):
            return [str(name).strip() for name in names]
        reason = f"it holds a {type(names).__name__}"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise ConvNextError(
        f"Cannot read the class list {path}: {reason}. Write one name a line into classes.txt, or a list of names or an "
        'object {"value": "name"} into classes.json.'
    )


def read_mask(path: Path) -> np.ndarray:
    """The values (H, W), uint8 or uint16, of a label PNG of 1 to 16 bits, grey or with a palette.

    Raises:
        ImageError: it cannot be read, is no PNG, or has colours or transparency in place of one value a pixel.
    """
    with open_image(path) as image:
        if image.format != "PNG":
            raise ImageError(f"labels must be a PNG, and its content is {image.format}, which may change values")
        if image.mode not in ("1", "L", "P", "I;16"):
            raise ImageError(f"its mode is {image.mode}, but labels are one number a pixel; save it as grey or palette")
        # Pillow spreads grey of 2 and 4 bits over 0..255
        spread = {"L;2": 85, "L;4": 17}.get(str(image.tile[0].args), 1)
        values = np.asarray(image)
    return values // np.uint8(spread) if spread > 1 else values.astype(np.uint8 if values.itemsize == 1 else np.uint16)


class MaskImages:
    """N pictures with their labels.

    Attributes:
        classes: the K class names, in the order of the labels.
        labels: what the values in the files mean.
    """

    def __init__(self, root: Path, pairs: Sequence[tuple[str, str]], labels: Labels):
        self.classes, self.labels = labels.classes, labels
        self._root = root
        # one buffer, not a list: counting references to its strings would copy the list into every loader process
        encoded = [os.fsencode(path) for pair in pairs for path in pair]
        self._paths = b"".join(encoded)
        self._ends = np.cumsum([0] + [len(path) for path in encoded])
        self._rows = np.arange(len(pairs))
        self._last = -1, (0, 0)  # the row and size of the picture decoded last

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, i: int) -> str:
        """A stable id of picture i for people and for seeds: its path below the root."""
        return self._names(i)[0]

    def sources(self, i: int) -> tuple[Path, Path]:
        """The files of picture i and of its labels."""
        image, mask = self._names(i)
        return self._root / image, self._root / mask

    def _names(self, i: int) -> tuple[str, str]:
        start, middle, end = self._ends[2 * self._rows[i] :][:3]
        return os.fsdecode(self._paths[start:middle]), os.fsdecode(self._paths[middle:end])

    def image(self, i: int) -> Image.Image:
        """Picture i as `decode` gives it: mode RGB, upright; an ImageError names it."""
        image = decode(self.sources(i)[0])
        self._last = int(self._rows[i]), image.size
        return image

    def target(self, i: int) -> np.ndarray:
        """Labels (H, W) uint8 of picture i, upright as people see it: 0..K-1, 255 where ignored.

        Cheap right after `image(i)`; else it decodes the picture as well, to compare the sizes.

        Raises:
            ImageError: as `image` and `read_mask`; a value that is no class's; the sizes differ, as when labels were
                made without the picture's EXIF orientation.
        """
        path = self.sources(i)[1]
        labels, unknown = self.labels.of(read_mask(path))
        if unknown:
            shown = ", ".join(map(str, unknown[:5])) + (", .." if len(unknown) > 5 else "")
            raise ImageError(f"Cannot use {str(path)!r}: it has the values {shown}; expected: {self.labels.expected}.")
        row, size = self._last
        if message := size_error(size if row == self._rows[i] else self.image(i).size, labels.shape):
            raise ImageError(f"Cannot use {self.name(i)!r} with {str(path)!r}: {message}.")
        return labels

    def subset(self, indices: Sequence[int] | np.ndarray) -> "MaskImages":
        """The pictures at these positions, in this order."""
        other = copy(self)
        other._rows = self._rows[np.asarray(indices, dtype=np.int64)]
        return other

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the classes, their values, and the names of pictures and label files."""
        digest = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        digest.update(self.labels.table.astype("<i2").tobytes())
        for i in range(len(self)):
            digest.update(os.fsencode("".join(f"\0{name}" for name in self._names(i))))
        return digest.hexdigest()


def size_error(size: tuple[int, int], shape: tuple[int, ...]) -> str | None:
    """What is wrong with labels of shape (H, W) for an upright picture of size (width, height); None: nothing."""
    width, height = size
    if shape == (height, width):
        return None
    turned = "turn the labels, which lie on their side, as if made without the picture's EXIF orientation"
    sizes = f"the picture is {width} x {height} and the labels are {shape[1]} x {shape[0]} pixels"
    return f"{sizes}; {turned if shape == (width, height) else 'make them equal'}"


@dataclass(frozen=True)
class Part:
    """The files of a split folder, as paths below the root: (picture, labels) of one name, and those left over."""

    pairs: list[tuple[str, str]]
    without_mask: list[str]
    without_image: list[str]


@dataclass(frozen=True)
class Layout:
    """Where in a folder things are."""

    root: Path
    masks: str
    """The folder of label files, one of `MASK_FOLDERS`."""
    train: str | None
    """The split folder below images/ and it; "" for all that is in there, None for none."""
    val: str | None
    labels: Labels

    def part(self, folder: str) -> Part:
        """List one split folder; labels without a picture, and pictures without labels, are no error here."""
        images = _files(self.root, "images", folder, IMAGE_EXTENSIONS)
        masks = _files(self.root, self.masks, folder, {".png"})
        return Part(
            [(images[stem], masks[stem]) for stem in images if stem in masks],
            [images[stem] for stem in images if stem not in masks],
            [masks[stem] for stem in masks if stem not in images],
        )

    def open(self, folder: str) -> MaskImages:
        """All pictures of a split folder.

        Raises:
            ConvNextError: there are none, or one has no labels.
        """
        part = self.part(folder)
        pictures, masks = (f"{self.root / top / folder}" for top in ("images", self.masks))
        if part.without_mask:
            raise ConvNextError(
                f"{len(part.without_mask):,} of {len(part.pairs) + len(part.without_mask):,} pictures in {pictures} have "
                f"no labels in {masks}, such as {part.without_mask[0]!r}. Add a PNG of the same name, or move them away."
            )
        if not part.pairs:
            raise ConvNextError(f"{pictures} has no pictures; put them there, and their labels into {masks}.")
        return MaskImages(self.root, part.pairs, self.labels)


def find_layout(data: str | Path, reduce_zero_label: bool | None = None) -> Layout:
    """Where in the folder `data` its pictures, labels and classes are.

    Raises:
        ConvNextError: there is no such folder, it is laid out otherwise, or as `read_labels`.
    """
    root = Path(data).expanduser().absolute()
    if not root.is_dir():
        siblings = [entry.name for entry in root.parent.iterdir()] if root.parent.is_dir() else []
        raise ConvNextError(
            f"There is no folder {str(data)!r}.{nearest(root.name, siblings)} It must hold {_EXPECTED}."
        )
    masks = next((name for name in MASK_FOLDERS if _holds_png(root / name)), None)
    if masks is None or not (root / "images").is_dir():
        found = ", ".join(sorted(f"{entry.name}/" for entry in root.iterdir() if entry.is_dir())[:8]) or "no folders"
        raise ConvNextError(f"{root} has {found}, and must hold {_EXPECTED}.")
    train, val = (next((n for n in s if (root / "images" / n).is_dir()), None) for s in (TRAIN_NAMES, VAL_NAMES))
    ade20k = masks == "annotations" and (train or val) in ("training", "validation")
    labels = read_labels(root, ade20k, reduce_zero_label)
    return Layout(root, masks, "" if train is None and val is None else train, val, labels)


def is_masks(path: str | Path) -> bool:
    """Whether a folder is laid out for `open_masks`: images/ beside a folder of label PNGs."""
    root = Path(path).expanduser()
    return (root / "images").is_dir() and any(_holds_png(root / name) for name in MASK_FOLDERS)


def open_masks(
    data: str | Path, val_share: float, seed: int, reduce_zero_label: bool | None = None
) -> tuple[MaskImages, MaskImages]:
    """The (train, val) pictures of `data` and their labels.

    Args:
        data: a folder, see the top of this file.
        val_share: share that is held out where there are no split folders, or none for validation.
        seed: what decides which pictures are held out, with their names.
        reduce_zero_label: as in `read_labels`.

    Raises:
        ConvNextError: as `find_layout`; no pictures, pictures without labels, or a validation part alone.
    """
    layout = find_layout(data, reduce_zero_label)
    if layout.train is None:
        missing = f"images/train/ and {layout.masks}/train/"
        raise ConvNextError(f"{layout.root} has images/{layout.val}/ but no training part; put it into {missing}.")
    train = layout.open(layout.train)
    return (train, layout.open(layout.val)) if layout.val else hold_out_masks(train, val_share, seed)


def open_masks_split(
    data: str | Path, split: Literal["train", "val"], val_share: float, seed: int, reduce_zero_label: bool | None = None
) -> MaskImages:
    """One part of `open_masks`; the other need not be there."""
    layout = find_layout(data, reduce_zero_label)
    if layout.val and (folder := {"train": layout.train, "val": layout.val}[split]):
        return layout.open(folder)
    train, val = open_masks(data, val_share, seed, reduce_zero_label)
    return {"train": train, "val": val}[split]


def hold_out_masks(images: MaskImages, share: float, seed: int) -> tuple[MaskImages, MaskImages]:
    """`split.hold_out` of all pictures alike, which have no class of their own, into (train, val)."""
    train, val = splitting.hold_out([images.name(i) for i in range(len(images))], share, seed)
    return images.subset(train), images.subset(val)


def _files(root: Path, top: str, folder: str, endings: frozenset[str] | set[str]) -> dict[str, str]:
    """Visible files below root/top/folder with one of the endings: path below root, by path below folder without ending."""

    def refuse(error: OSError):
        if not isinstance(error, FileNotFoundError):
            raise ConvNextError(f"Cannot list {error.filename}: {error.strerror}. Make it readable or remove it.")

    start, found = root / top / folder, {}
    for at, folders, files in os.walk(start, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            stem, ending = os.path.splitext(os.path.relpath(os.path.join(at, name), start))
            if name.startswith(".") or ending.lower() not in endings:
                continue
            path = "/".join(part for part in (top, folder, stem + ending) if part)
            if stem in found:
                raise ConvNextError(f"{found[stem]} and {path} in {root} share a name, so labels cannot be told apart.")
            found[stem] = path
    return found


def _holds_png(folder: Path) -> bool:
    walk = os.walk(folder, followlinks=True)
    return any(name.lower().endswith(".png") for _, _, files in walk for name in files)
