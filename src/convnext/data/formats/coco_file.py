"""COCO's annotation JSON as columns: everything that is in the file, checked for its form and not yet for its sense."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from convnext.data.images import ImageError
from convnext.data.texts import Texts
from convnext.errors import ConvNextError
from convnext.extras import require

SEGMENTATION = "segmentation"
"""A key of annotations."""


@dataclass
class CocoFile:
    """An annotation file as columns: N images, M annotations, K categories in the order of their ids."""

    path: Path
    classes: list[str]
    category_ids: np.ndarray  # (K,) int64
    image_ids: np.ndarray  # (N,) int64
    names: Texts  # N file names
    sizes: np.ndarray  # (N, 2) int64: height, width
    ids: np.ndarray  # (M,) int64
    images: np.ndarray  # (M,) int64: image ids
    categories: np.ndarray  # (M,) int64: category ids
    bbox: np.ndarray  # (M, 4) float64: x, y, w, h
    area: np.ndarray  # (M,) float64; w x h where the file has none
    crowd: np.ndarray  # (M,) bool
    segmentations: Texts  # M times JSON, polygons or RLE; empty where the file has none

    @classmethod
    def read(cls, path: Path) -> "CocoFile":
        """Raises ConvNextError: unreadable, not JSON, not COCO's keys, a value of another type; names the first."""
        content = _parse(path)
        _, annotations, categories = (content[key] for key in _KEYS)
        image, annotation, category = (partial(_column, path, key, content[key]) for key in _KEYS)
        category_ids = category("id", int)
        order = np.argsort(category_ids, kind="stable")
        bbox = annotation("bbox", float, 4)
        sizes = np.stack([image("height", int), image("width", int)], axis=1)
        if len(flat := np.flatnonzero((sizes < 1).any(axis=1))):
            raise ConvNextError(
                f"{path}: entry {flat[0]} in 'images' is {sizes[flat[0]].tolist()} pixels high and wide. Correct it, or leave "
                "the image out."
            )
        has_segmentation = [bool(entry.get(SEGMENTATION)) for entry in annotations]
        return cls(
            path=path,
            classes=[str(categories[k].get("name", category_ids[k])) for k in order],
            category_ids=category_ids[order],
            image_ids=image("id", int),
            names=Texts(name.encode("utf-8", "surrogateescape") for name in image("file_name", str)),
            sizes=sizes,
            ids=annotation("id", int, default=range(len(annotations))),
            images=annotation("image_id", int),
            categories=annotation("category_id", int),
            bbox=bbox,
            area=annotation("area", float, default=bbox[:, 2] * bbox[:, 3]),
            crowd=annotation("iscrowd", int, default=[0] * len(annotations)) > 0,
            segmentations=Texts(
                json.dumps(entry[SEGMENTATION], separators=(",", ":")).encode() if there else b""
                for entry, there in zip(annotations, has_segmentation, strict=True)
            ),
        )

    def masks(self, annotations: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The masks of annotations (n,) of one image of `size` (h, w) -> (n, h, w) bool.

        Raises:
            ImageError: one has no segmentation, or one that cannot be decoded.
        """
        masks = np.zeros((len(annotations), *size), dtype=bool)
        for mask, k in zip(masks, annotations, strict=True):
            try:
                mask[:] = _decode(self.segmentations[k], size)
            except (ValueError, TypeError, KeyError) as error:
                raise ImageError(
                    f"The segmentation of annotation {self.ids[k]} in {self.path} cannot be used: {error}. For masks, "
                    "every object needs polygons [[x, y, x, y, ..], ..] or run lengths of its image."
                ) from None
        return masks


def _decode(text: bytes, size: tuple[int, int]) -> np.ndarray:
    """A segmentation -> (h, w) bool."""
    if not text:
        raise ValueError("it has none")
    segmentation = json.loads(text)
    if isinstance(segmentation, list):
        # a polygon has three corners; pycocotools would take four numbers for a box
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        if not np.isfinite(np.concatenate([np.asarray(polygon, dtype=float) for polygon in polygons] or [[]])).all():
            raise ValueError("a corner is not a finite number")
        if not polygons:
            return np.zeros(size, dtype=bool)
        tools = require("pycocotools.mask", "detection")
        segmentation = tools.merge(tools.frPyObjects(polygons, *size))
    elif tuple(segmentation["size"]) != size:
        raise ValueError(f"its run lengths are of (height, width) {segmentation['size']}, its image of {size}")
    counts = segmentation["counts"]
    runs = np.array(counts, dtype=np.int64) if isinstance(counts, list) else run_lengths(counts)
    if not len(runs) or runs.min() < 0 or runs.sum() != math.prod(size):
        raise ValueError("its run lengths do not add up to its image")
    return mask_of(runs, size)


def mask_of(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Lengths (n,) of runs of 0 and 1 in turn -> mask (h, w) bool of `size`; runs go down the columns."""
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[::-1]).T


def run_lengths(text: str | bytes) -> np.ndarray:
    """COCO's compressed run lengths -> (n,) int64.

    Six bits to a character from "0" on: five of the number, the least first, and whether it goes on; the last is signed.
    From the fourth run on, a number is the difference to the run before the last. pycocotools decodes them, too, but
    returns whatever was in memory where they do not add up.
    """
    digits = np.frombuffer(text.encode() if isinstance(text, str) else text, dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits & 32 == 0)
    if not len(ends) or ends[-1] != len(digits) - 1 or digits.min() < 0 or digits.max() > 63:
        raise ValueError("its run lengths are damaged")
    lengths = np.diff(ends, prepend=-1)
    starts = ends - lengths + 1
    place = 5 * (np.arange(len(digits)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((digits & 31) << place, starts)
    runs -= (digits[ends] & 16 > 0) * (1 << (5 * lengths))
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


_KEYS = ("images", "annotations", "categories")


def _parse(path: Path) -> dict:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ConvNextError(f"Cannot read the annotations {path}: {error.strerror}. Make the file readable.") from None
    except (ValueError, RecursionError) as error:
        raise ConvNextError(f"The annotations {path} are not JSON: {error}. Get a fresh copy of the file.") from None
    for key in _KEYS:
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ConvNextError(
                f"{path} is not an annotation file in COCO's format: it has no list {key!r}. Get a file with lists of "
                f"{', '.join(_KEYS)}."
            )
        if not entries and key != "annotations":
            raise ConvNextError(f"The annotations {path} are of no {key}: the list is empty. Get a complete file.")
    return content


def _column(
    path: Path, what: str, entries: list[dict], key: str, kind: type, width: int = 0, default: Iterable | None = None
) -> np.ndarray:
    """The values of one key: (n,), or (n, width), or (n,) of strings; `default` has one for each entry without it."""
    values = [entry.get(key) for entry in entries]
    if default is not None:
        values = [other if value is None else value for value, other in zip(values, default, strict=True)]
    try:
        return _cast(values, kind, width)
    except (TypeError, ValueError, OverflowError):
        for position, value in enumerate(values):
            try:
                _cast([value], kind, width)
            except (TypeError, ValueError, OverflowError):
                expected = "a text" if kind is str else "4 numbers: x, y, w, h" if width else "a number"
                raise ConvNextError(
                    f"{path}: {key!r} of entry {position} in {what!r} is {repr(value)[:80]}, and must be {expected}. "
                    "Correct it, or leave the entry out."
                ) from None
        raise


def _cast(values: list, kind: type, width: int) -> np.ndarray:
    if kind is str:
        if not all(isinstance(value, str) and value for value in values):
            raise TypeError
        return np.array(values, dtype=object)
    column = np.array(values, dtype=kind).reshape(len(values), *([width] if width else []))
    if not np.isfinite(column).all():
        raise ValueError
    return column
