"""Columns of datasets that come with features: which holds the images, the labels, the boxes; class names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from convnext.data.formats.arrow import is_picture
from convnext.data.formats.table import LABEL_COLUMNS, SPLIT_COLUMNS
from convnext.errors import ConvNextError, nearest
from convnext.recipes.reading import Reading

IMAGES = ("image", "img", "picture", "photo")
LABELS = (*LABEL_COLUMNS, "fine_label")
OBJECTS = ("objects", "annotations", "faces")
BOXES = ("bbox", "bboxes", "box", "boxes")
CATEGORIES = ("category", "categories", "category_id", "label", "labels", "class", "classes")


@dataclass(frozen=True)
class Split:
    """A named part of a dataset.

    Attributes:
        name: as the dataset calls it; "" for a dataset without splits.
        files: Arrow files in their order; features: of its columns, as `Features.to_dict()` gives them.
        roots: folders below which an image may be a file of its own; the paths of rows are relative to the first.
    """

    name: str
    files: list[Path]
    features: dict[str, Any]
    roots: tuple[Path, ...]

    @property
    def where(self) -> str:
        """The split in messages."""
        return str(self.files[0].parent)


@dataclass(frozen=True)
class Columns:
    """Names of the columns: images, labels (several: one of 0 and 1 for each class), objects, split."""

    image: str
    labels: tuple[str, ...]
    objects: str | None
    split: str | None


def find_columns(split: Split, schema: pa.Schema, reading: Reading) -> Columns:
    """Find the columns by what `reading` says, else by their features, types and names.

    Raises:
        ConvNextError: it cannot be told which they are, or one is of another type.
    """
    known = ", ".join(f"{name} ({_kind(split, schema, name)})" for name in schema.names)

    def named(wanted: str) -> str:
        if wanted not in schema.names:
            raise ConvNextError(
                f"{split.where} has no column {wanted!r}.{nearest(wanted, schema.names)} It has: {known}."
            )
        return wanted

    def one(candidates: list[str], words: tuple[str, ...]) -> str | None:
        return next((word for word in words if word in candidates), candidates[0] if len(candidates) == 1 else None)

    kinds = {name: schema.field(name).type for name in schema.names}
    pictures = [name for name in schema.names if _type(split, name) == "Image"]
    pictures = pictures or [name for name in schema.names if is_picture(kinds[name])]
    image = named(reading.file_column) if reading.file_column else one(pictures, IMAGES)
    if image is None:
        raise ConvNextError(f"{split.where}: which column has the images? Give --read.file-column, one of: {known}.")
    if not is_picture(kinds[image]):
        raise ConvNextError(
            f"{split.where}: the column {image!r} is {kinds[image]}, and must be encoded images: bytes, or {{bytes, path}}. Cast "
            "it with `dataset.cast_column(name, datasets.Image())` and save it again."
        )
    texts = [name for name in schema.names if pa.types.is_string(kinds[name]) or pa.types.is_large_string(kinds[name])]
    parts = named(reading.split_column) if reading.split_column else None
    parts = parts or next((name for name in SPLIT_COLUMNS if name in texts), None)
    if reading.label_columns:
        labels = tuple(map(named, reading.label_columns))
        objects = labels[0] if len(labels) == 1 and is_objects(split.features.get(labels[0])) else None
        return Columns(image, () if objects else labels, objects, parts)
    objects = one([name for name in schema.names if is_objects(split.features.get(name))], OBJECTS)
    rest = [name for name in schema.names if name not in (image, objects, parts)]
    label = next((name for name in LABELS if name in rest), None)
    label = label or one([name for name in rest if _names(split.features.get(name))], ())
    if label is None and objects is None:
        raise ConvNextError(
            f"{split.where}: which columns have the labels? Give --read.label-columns, one or more of: {known}."
        )
    return Columns(image, (label,) if label else (), objects, parts)


def _kind(split: Split, schema: pa.Schema, name: str) -> str:
    return _type(split, name) or str(schema.field(name).type)[:40]


def _type(split: Split, name: str) -> str:
    feature = split.features.get(name)
    kind = feature.get("_type") if isinstance(feature, dict) else ""
    return kind if isinstance(kind, str) and kind != "Value" else ""


def is_objects(feature: Any) -> bool:
    """True if a feature is a group with boxes and categories, in any nesting of lists."""
    return object_keys(feature) is not None


def object_keys(feature: Any) -> tuple[str, str] | None:
    """Keys of the boxes and the categories of a feature; None if it has none."""
    inner = _inner(feature)
    if not isinstance(inner, dict):
        return None
    box, category = (next((key for key in keys if key in inner), None) for keys in (BOXES, CATEGORIES))
    return (box, category) if box and category else None


def _inner(feature: Any) -> Any:
    """The feature inside lists."""
    for _ in range(8):
        if isinstance(feature, list) and len(feature) == 1:
            feature = feature[0]
        elif isinstance(feature, dict) and "feature" in feature:
            feature = feature["feature"]
    return feature


def _names(feature: Any) -> list[str] | None:
    """Class names of a ClassLabel, in any nesting of lists."""
    inner = _inner(feature)
    names = inner.get("names") if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" else None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def class_names(features: list[dict[str, Any]], columns: Columns, root: Path) -> list[str] | None:
    """The class names that the features state; labels and objects share them. None where they state none."""
    stated: list[list[str] | None] = []
    for each in features:
        stated += [_names(each.get(name)) for name in columns.labels]
        if columns.objects and (keys := object_keys(each[columns.objects])):
            stated.append(_names(_inner(each[columns.objects])[keys[1]]))
    first = next((names for names in stated if names is not None), None)
    if any(names != first for names in stated):
        raise ConvNextError(
            f"{root}: its splits, or its labels and objects, have different class names. Give all the same, or name the column "
            "that is meant with --read.label-columns."
        )
    if first and len(set(first)) < len(first):
        raise ConvNextError(f"{root} has a class name twice: {next(n for n in first if first.count(n) > 1)!r}.")
    return first
