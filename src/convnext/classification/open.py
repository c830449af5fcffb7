"""Open the classification dataset that `--data` names."""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np

from convnext.classification.builtin import open_digits, open_torchvision
from convnext.classification.content import open_content, open_content_for_evaluation
from convnext.classification.dataset import ImageDataset
from convnext.classification.folder import open_folder, open_folder_for_evaluation
from convnext.classification.parquet import open_parquet, open_parquet_for_evaluation
from convnext.classification.shards import (
    RemoteShardDataset,
    ShardDataset,
    open_pattern,
    open_pattern_for_evaluation,
    open_shards,
    open_shards_for_evaluation,
    open_urls,
)
from convnext.data.find import no_such_data
from convnext.data.formats import Format, find_format
from convnext.data.formats.content import Content
from convnext.data.formats.named import is_named, read_named, read_named_for
from convnext.data.patterns import braces, is_pattern, is_url
from convnext.data.unread import unread_sentence
from convnext.errors import ConvNextError, nearest
from convnext.recipes.reading import FOUND, Reading

TORCHVISION = "torchvision:"


def open_dataset(data: str, val_share: float, seed: int, reading: Reading = FOUND) -> tuple[ImageDataset, ImageDataset]:
    """Open the (train, val) images of `data` for training.

    Args:
        data, val_share, seed, reading: as in `open_parts`.

    Raises:
        ConvNextError: as `open_parts`; all images are of one class.
    """
    train, val = open_parts(data, val_share, seed, reading)
    if len(train.classes) < 2 and not train.multi_label:
        raise ConvNextError(one_class(train.classes, data))
    return train, val


def one_class(classes: list[str], data: str) -> str:
    """Error message for data of one class, with the files that look like labels and are not read."""
    return (
        f"{data} has one class, {classes[0]!r}: there is nothing to learn.{unread_sentence(Path(data).expanduser())} Add "
        "images of another class; in folders, each class has its own."
    )


def open_parts(data: str, val_share: float, seed: int, reading: Reading = FOUND) -> tuple[ImageDataset, ImageDataset]:
    """Open the (train, val) images of `data`, of any number of classes.

    Args:
        data: a folder or file in one of `data.formats.FORMATS`, a pattern of tar files, `digits`, `torchvision:NAME[@ROOT]`,
            `hf:OWNER/NAME[:CONFIG][@REVISION]`, or the name of a Python sequence.
        val_share: share of each class that is held out where the data has no validation part of its own.
        seed: what decides which images are held out.
        reading: how the data is read, where that is not to be found out.

    Raises:
        ConvNextError: there is no such data, or it is not laid out as expected.
    """
    if data == "digits":
        return open_digits(seed)
    if data.startswith(TORCHVISION):
        return open_torchvision(data.removeprefix(TORCHVISION), val_share, seed)
    if is_named(data):
        return open_content(read_named(data, reading), val_share, seed)
    if is_url(data):
        return open_urls(data, val_share, seed)
    if is_pattern(data):
        return open_pattern(data, val_share, seed)
    root, found = _found(data, reading)
    if found.name in NATIVE:
        train, val = NATIVE[found.name][0](root, val_share, seed)
        train.format = val.format = found.title
        return train, val
    return open_content(_read(root, found, reading), val_share, seed)


def open_split(
    data: str, split: Literal["train", "val"], val_share: float, seed: int, reading: Reading = FOUND
) -> ImageDataset:
    """Open one part of `open_parts`."""
    train, val = open_parts(data, val_share, seed, reading)
    return {"train": train, "val": val}[split]


def open_for_evaluation(
    data: str, classes: list[str] | None, val_share: float, seed: int, reading: Reading = FOUND
) -> ImageDataset:
    """The validation part of `data`, labelled for a model with the given classes.

    All images of a folder of class folders, or of a Python sequence; else the validation part of `open_dataset`, which for
    data without one is what training on it with the same `val_share` and `seed` holds out. Classes are matched by name.
    Where one side has only numbers for names, labels are taken as they are if there are equally many classes.

    Args:
        data, val_share, seed, reading: as in `open_dataset`; the data may consist of a validation part alone.
        classes: the model's class names in the order of its outputs; None: keep the data's.

    Raises:
        ConvNextError: as `open_dataset`; classes that the model does not know.
    """
    if data == "digits" or data.startswith(TORCHVISION):
        dataset = open_split(data, "val", val_share, seed)
    elif is_named(data):
        dataset = open_content_for_evaluation(read_named_for(data, reading, classes), val_share, seed)
    elif is_url(data):
        dataset = RemoteShardDataset(braces(data))
    elif is_pattern(data):
        dataset = open_pattern_for_evaluation(data)
    else:
        root, found = _found(data, reading)
        if found.name in NATIVE:
            dataset = NATIVE[found.name][1](root, val_share, seed)
        else:
            dataset = open_content_for_evaluation(_read(root, found, reading), val_share, seed)
    return dataset if classes is None else _matched(dataset, classes, data)


def fingerprint(dataset: ImageDataset) -> str:
    """SHA-256 (hex) of a dataset's class names, labels and image names; equal while the data is the same.

    Of shards it comes from their indexes: no name is read.
    """
    if isinstance(dataset, ShardDataset):
        return dataset.digest()
    digest = hashlib.sha256()
    digest.update("\0".join(dataset.classes).encode("utf-8", "surrogateescape"))
    digest.update((dataset.labels if dataset.multi_label else dataset.labels.astype("<i8")).tobytes())
    for start in range(0, len(dataset), 8192):
        names = (dataset.name(i) for i in range(start, min(start + 8192, len(dataset))))
        digest.update("".join(f"\0{name}" for name in names).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _matched(dataset: ImageDataset, classes: list[str], data: str) -> ImageDataset:
    """The dataset with labels that count in `classes`."""
    label_of = {name: label for label, name in enumerate(classes)}
    unknown = [name for name in dataset.classes if name not in label_of]
    if not unknown:
        places = np.array([label_of[name] for name in dataset.classes], dtype=np.int64)
        if not dataset.multi_label:
            return dataset.relabeled(places[dataset.labels], classes)
        labels = np.zeros((len(dataset), len(classes)), dtype=bool)
        labels[:, places] = dataset.labels
        return dataset.relabeled(labels, classes)
    if _numbered(classes) or _numbered(dataset.classes):
        if len(dataset.classes) == len(classes):
            return dataset.relabeled(dataset.labels, classes)
        raise ConvNextError(
            f"{data} has {len(dataset.classes)} classes and the model {len(classes)}; without names on both sides they "
            "cannot be matched. Evaluate on data with the model's classes."
        )
    raise ConvNextError(
        f"{data} has {len(unknown)} classes that the model does not know, such as {unknown[0]!r}."
        f"{nearest(unknown[0], classes)} Rename them to names of the model's {len(classes)} classes, or leave them out."
    )


def _numbered(classes: list[str]) -> bool:
    return classes == [str(label) for label in range(len(classes))]


def _found(data: str, reading: Reading) -> tuple[Path, Format]:
    """The folder or file of the data, and its format."""
    if not data:
        raise ConvNextError(f"No data is given; it must be {_EXPECTED}.")
    path = Path(data).expanduser().absolute()
    if not path.exists():
        raise ConvNextError(f"{no_such_data(data)} It must be {_EXPECTED}.")
    found = find_format(path, reading)
    if path.is_file() and not found.found(path):
        raise ConvNextError(f"The data {data!r} is a file; it must be {_EXPECTED}. Give the folder that holds it.")
    return path, found


def _read(root: Path, found: Format, reading: Reading) -> Content:
    if found.read is None:
        raise ConvNextError(f"{root} is data for another task ({found.title}), and has no labels of whole images.")
    return found.read(root, reading)


NATIVE = {
    "folder": (open_folder, open_folder_for_evaluation),
    "parquet": (open_parquet, open_parquet_for_evaluation),
    "shards": (open_shards, open_shards_for_evaluation),
}
"""Formats that are read here: to train on, and to evaluate on."""

_EXPECTED = (
    "a folder of images, a table (.csv, .tsv, .jsonl), parquet files, shards (.tar, also as train-{000..146}.tar), a folder of "
    "save_to_disk, digits, torchvision:NAME, or hf:OWNER/NAME"
)
