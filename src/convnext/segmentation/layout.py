"""Places in a folder of its images, its label PNGs and its splits.

    images/training/**/NAME.jpg    annotations/training/**/NAME.png     ADE20K as its authors release it
    images/train/**/NAME.jpg       masks/train/**/NAME.png              with split folders (`TRAIN_NAMES`, `VAL_NAMES`)
    images/**/NAME.jpg             masks/**/NAME.png                    without: some are held out for validation

The second folder is the first of `MASK_FOLDERS` that holds a PNG. `classes.txt` or `classes.json` in the root names the
classes; `labels.read_labels` says what the values in the PNGs mean.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from convnext.data.conventions import TRAIN_NAMES, VAL_NAMES
from convnext.data.images import IMAGE_EXTENSIONS
from convnext.errors import ConvNextError, nearest
from convnext.segmentation.labels import Labels, read_labels

MASK_FOLDERS = ("annotations", "masks", "labels")

_EXPECTED = (
    f"images/ with images and one of {', '.join(f'{name}/' for name in MASK_FOLDERS)} with a label PNG of the same "
    "name for each, both with train/ and val/ inside (ADE20K: training/ and validation/) or both without"
)


@dataclass(frozen=True)
class SplitFiles:
    """Files of one split, as paths below the root: pairs (image, labels) of one name, and files without a partner."""

    pairs: list[tuple[str, str]]
    without_mask: list[str]
    without_image: list[str]


@dataclass(frozen=True)
class Layout:
    """Places of the images, label files and splits in a folder."""

    root: Path
    masks: str
    """The folder of label files, one of `MASK_FOLDERS`."""
    train: str | None
    """The split folder below images/ and it; "" for all that is in there, None for none."""
    val: str | None
    labels: Labels

    def files(self, folder: str) -> SplitFiles:
        """List one split folder; labels without an image, and images without labels, are no error here."""
        images = _files(self.root, "images", folder, IMAGE_EXTENSIONS)
        masks = _files(self.root, self.masks, folder, {".png"})
        return SplitFiles(
            [(images[stem], masks[stem]) for stem in images if stem in masks],
            [images[stem] for stem in images if stem not in masks],
            [masks[stem] for stem in masks if stem not in images],
        )


def find_layout(data: str | Path, reduce_zero_label: bool | None = None) -> Layout:
    """Find the images, labels and classes in the folder `data`.

    Raises:
        ConvNextError: no such folder, another layout, or as `read_labels`.
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
    """True if a folder has images/ beside a folder of label PNGs, as `open_masks` expects."""
    root = Path(path).expanduser()
    return (root / "images").is_dir() and any(_holds_png(root / name) for name in MASK_FOLDERS)


def _files(root: Path, top: str, folder: str, endings: frozenset[str] | set[str]) -> dict[str, str]:
    """Map the path below the folder without ending -> path below the root, of visible files with one of the endings."""

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
