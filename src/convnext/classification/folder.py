"""A folder of images: one folder per class, in train/ and val/ or on its own."""

import os
from pathlib import Path

import numpy as np

from convnext.classification.dataset import ImageDataset, hold_out
from convnext.data.conventions import VAL_NAMES
from convnext.data.images import IMAGE_EXTENSIONS, open_image
from convnext.data.unread import unread_sentence
from convnext.data.walk import images_by_folder, visible
from convnext.errors import ConvNextError, nearest


class FolderDataset(ImageDataset):
    """The images below root/part/CLASS/, nested folders included; hidden and other files are passed over.

    Args:
        root: what the names of the images are relative to.
        part: `train`, `val` or whichever folder below root has the class folders; empty: root itself.
        classes: class names in the order of the labels; default: the class folders, sorted.

    Raises:
        ConvNextError: no class folders, one that is none of `classes`, no images at all, or an unreadable folder.
    """

    def __init__(self, root: Path, part: str = "", classes: list[str] | None = None):
        self._root = root
        folder = root / part
        found = images_by_folder(folder)
        folders = list(found)
        if not folders:
            raise ConvNextError(
                f"{folder} has no class folders. Give each class a folder there, named after the class, and put its "
                "images into it." + unread_sentence(folder)
            )
        self.classes = folders if classes is None else classes
        label_of = {name: label for label, name in enumerate(self.classes)}
        begin = os.fsencode(f"{part}/" if part else "")
        paths, lengths, labels = [], [], []
        for name in folders:
            if name not in label_of:
                raise ConvNextError(
                    f"{folder} has a class {name!r} that the training data lacks.{nearest(name, self.classes)} Rename "
                    "or remove the folder, or add the class to the training data."
                )
            images = [begin + path for path in found.pop(name)]  # the lists of millions of paths go one by one
            paths.append(b"".join(images))
            lengths.append(np.array([len(path) for path in images], dtype=np.int64))
            labels.append(np.full(len(images), label_of[name], dtype=np.int64))
        self.labels = np.concatenate(labels)
        if not len(self.labels):
            raise ConvNextError(f"No class folder of {folder} holds an image; {_LOOKED_FOR}.")
        # one buffer, not a list: counting references to its strings would copy the list into every loader process
        self._paths = b"".join(paths)
        self._ends = np.cumsum(np.concatenate([[0], *lengths]))

    def name(self, i: int) -> str:
        return os.fsdecode(self._paths[self._ends[i] : self._ends[i + 1]])

    def source(self, i: int) -> Path:
        return self._root / self.name(i)

    def file(self, i: int) -> Path:
        return self.source(i)

    def check_header(self, i: int) -> None:
        with open_image(self.source(i)):
            pass


def open_folder(root: Path, val_share: float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """The (train, val) images of a folder.

    These are `train/` and the first of `VAL_NAMES` that is there. Of `train/` alone, or of a folder of class folders,
    `val_share` of each class is held out by `seed`.

    Raises:
        ConvNextError: as `FolderDataset`; a class without training images; a validation part alone.
    """
    train_part, val_part = _parts(root)
    if train_part is None:
        raise ConvNextError(
            f"{root} has {val_part}/ but no train/; put the training images there, one folder per class."
        )
    train = FolderDataset(root, train_part)
    for name, count in zip(train.classes, np.bincount(train.labels, minlength=len(train.classes)), strict=True):
        if not count:
            raise ConvNextError(
                f"The class folder {root / train_part / name} holds no image; {_LOOKED_FOR}. Add images or remove it."
                + unread_sentence(root)
            )
    if val_part:
        return train, FolderDataset(root, val_part, train.classes)
    return hold_out(train, val_share, seed)


def open_folder_for_evaluation(root: Path, val_share: float, seed: int) -> ImageDataset:
    """The validation images as in `open_folder`; but all images of a folder of class folders.

    Raises:
        ConvNextError: as `FolderDataset`.
    """
    train_part, val_part = _parts(root)
    if val_part:
        return FolderDataset(root, val_part, _subfolders(root / train_part) if train_part else None)
    return open_folder(root, val_share, seed)[1] if train_part else FolderDataset(root)


_LOOKED_FOR = f"looked for files that end in {', '.join(sorted(IMAGE_EXTENSIONS))}"


def _parts(root: Path) -> tuple[str | None, str | None]:
    """The folders below root of the training and validation part; ("", None) for a folder of class folders."""
    folders = _subfolders(root)
    val = next((name for name in VAL_NAMES if name in folders), None)
    if "train" in folders:
        return "train", val
    if val and set(folders) <= set(VAL_NAMES):
        return None, val
    return "", None


def _subfolders(folder: Path) -> list[str]:
    return [name for name, is_folder in visible(folder) if is_folder]
