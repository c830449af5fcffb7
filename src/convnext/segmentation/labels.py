"""Values in label PNGs: reading them, and the classes that they stand for."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convnext.data.images import ImageError, open_image
from convnext.errors import ConvNextError
from convnext.segmentation.ade20k import ADE20K_CLASSES

IGNORED = 255
"""The label, and the value in every file, of pixels that neither train nor count."""


@dataclass(frozen=True)
class Labels:
    """Meaning of the values in label files.

    Attributes:
        classes: the K class names, in the order of the labels.
        table: (257,) int16, by value in the file: a label 0..K-1, `IGNORED`, or -1 for a value without a meaning;
            the last row is for all values above 255.
    """

    classes: list[str]
    table: np.ndarray

    def of(self, stored: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Translate values (H, W) of a file -> labels (H, W) uint8, and list the values without a meaning, now `IGNORED`."""
        labels = self.table[stored if stored.dtype == np.uint8 else np.minimum(stored, 256)]
        unknown = labels < 0
        return np.where(unknown, IGNORED, labels).astype(np.uint8), np.unique(stored[unknown]).tolist()

    @property
    def expected(self) -> str:
        """Description of the values that a file may have."""
        values = np.flatnonzero((self.table >= 0) & (self.table < IGNORED))
        also = f"0 and {IGNORED}" if self.table[0] == IGNORED else IGNORED
        return f"{len(values)} classes' values from {values[0]} to {values[-1]}, and {also} for ignored pixels"

    def remedy(self, unknown: list[int]) -> str:
        """Advice for where the only value without a meaning is one above the last class: classes that are counted from 1."""
        last = int(np.flatnonzero((self.table >= 0) & (self.table < IGNORED))[-1])
        if unknown != [last + 1] or self.table[0] != 0:
            return ""
        return " If 0 is unlabelled there and classes are counted from 1: --reduce-zero-label True."


def read_labels(root: Path, ade20k: bool, reduce_zero_label: bool | None = None) -> Labels:
    """Read the classes of a folder and decide which value in its files stands for which.

    - `classes.txt` (a name a line) and `classes.json` with a list: class k has the value k; with `reduce_zero_label`
      the value k + 1, and 0 is ignored.
    - `classes.json` with an object {"value": "name"}: the classes in the order of their values; 0 is ignored if it has
      no name.
    - Neither, in ADE20K's layout: its 150 classes, with `reduce_zero_label` by default.
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
        raise ConvNextError(f"{where} must name at least one class; no name may be empty or there twice. Correct it.")
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
    """Read the values (H, W), uint8 or uint16, of a label PNG of 1 to 16 bits, grey or with a palette.

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


def size_error(size: tuple[int, int], shape: tuple[int, ...]) -> str | None:
    """Message if labels of shape (H, W) do not fit an upright image of size (width, height), else None."""
    width, height = size
    if shape == (height, width):
        return None
    turned = "turn the labels, which lie on their side, as if made without the image's EXIF orientation"
    sizes = f"the image is {width} x {height} and the labels are {shape[1]} x {shape[0]} pixels"
    return f"{sizes}; {turned if shape == (width, height) else 'make them equal'}"
