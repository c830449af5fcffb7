"""Images with boxes, masks and crowds, from COCO's annotation JSON in its usual folder layouts."""

import hashlib
import json
import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from convnext.data import split
from convnext.data.formats.coco import coco_file, find_parts
from convnext.data.formats.coco_file import CocoFile
from convnext.data.formats.content import Content, Item, inside
from convnext.data.formats.pictures import Pictures, Source, decoded
from convnext.data.images import ImageError, open_image
from convnext.data.texts import Texts
from convnext.errors import ConvNextError


class CocoImages:
    """N images with their annotated objects; a `data.loader.Samples`. It holds arrays and buffers for loader processes.

    Attributes:
        classes: the K class names, in the order of the labels, which is that of the category ids.
        category_ids: (K,) int64, what the annotation file calls them.

    Raises:
        ConvNextError: an annotation of an image or category that the file does not have, or ids that are there twice.
    """

    def __init__(
        self,
        file: CocoFile,
        folder: Path,
        files: Sequence[Path] = (),
        format: str = "COCO",
        pictures: Pictures | None = None,
        places: Sequence[int] = (),
    ):
        """`files`: the images, where they are not `folder` and the names in the annotations; `places`: of each image the row in
        `pictures`, -1 for a file."""
        self.path, self.folder, self.format = file.path, folder, format
        self._pictures, self._places = pictures, np.asarray(places, dtype=np.int64)
        self._files = Texts(os.fsencode(path) for path in files) if files else None
        self.classes, self.category_ids = file.classes, file.category_ids
        self._file = file
        owner = _positions(file, "images", file.images, file.image_ids)
        self._labels = _positions(file, "categories", file.categories, file.category_ids)
        self._order = np.argsort(owner, kind="stable")  # annotations, image after image, each image's in file order
        self._ends = np.searchsorted(owner[self._order], np.arange(len(file.image_ids) + 1))
        height, width = file.sizes[owner].T
        corners = np.concatenate([file.bbox[:, :2], file.bbox[:, :2] + file.bbox[:, 2:]], axis=1)
        self._boxes = np.clip(corners, 0, np.stack([width, height, width, height], axis=1)).astype(np.float32)
        sides = self._boxes[:, 2:] - self._boxes[:, :2]
        self._usable = (sides >= 1).all(axis=1) & (file.area > 0)
        names = [file.names[row].decode("utf-8", "surrogateescape") for row in range(len(file.image_ids))]
        for name in names:
            if not files and (name.startswith(("/", "\\")) or ".." in name):
                inside(folder, name, str(file.path))
        # by name, so that the order does not depend on the format that the images came from
        self._rows = np.array(sorted(range(len(names)), key=lambda row: names[row].split("/")), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def image_ids(self) -> np.ndarray:
        """(N,) int64."""
        return self._file.image_ids[self._rows]

    @property
    def has_masks(self) -> bool:
        """True if every annotation of these images has a segmentation."""
        lengths = np.diff(self._file.segmentations.ends)
        return bool((lengths[self._annotations()] > 0).all())

    def name(self, i: int) -> str:
        """The file name of image i, as in the annotation file."""
        return self._file.names[self._rows[i]].decode("utf-8", "surrogateescape")

    def file(self, i: int) -> Path | None:
        """The file of image i; None where it is stored otherwise."""
        source = self._place(i)
        return source if isinstance(source, Path) else None

    def _place(self, i: int) -> Path | int:
        """The file of image i, or its row in the pictures."""
        row = self._rows[i]
        if len(self._places) and self._places[row] >= 0:
            return int(self._places[row])
        return Path(os.fsdecode(self._files[row])) if self._files else self.folder / self.name(i)

    def source(self, i: int) -> Source:
        """Image i as it is stored."""
        place = self._place(i)
        if isinstance(place, Path):
            return place
        assert self._pictures is not None
        return self._pictures.source(place)

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of image i, as in the annotation file."""
        height, width = self._file.sizes[self._rows[i]]
        return int(height), int(width)

    def image(self, i: int) -> Image.Image:
        """Image i, mode RGB.

        Raises:
            ImageError: it cannot be decoded, or is not of the size for which its objects were annotated.
        """
        source, (height, width) = self.source(i), self.size(i)
        image = decoded(source, self.name(i))
        if image.size == (height, width) != (width, height):
            # annotated as it is stored, as COCO's were: without its EXIF orientation
            image = decoded(source, self.name(i), upright=False)
        if image.size != (width, height):
            shown = str(self.file(i) or self.name(i))
            raise ImageError(
                f"{shown!r} has {image.width} x {image.height} pixels, and {self.path} says {width} x {height}; its "
                "objects would be in the wrong places. Annotate it again or leave it out."
            )
        return image

    def files(self, i: int) -> tuple[Path, ...]:
        """The files that `check_header` reads."""
        return () if (file := self.file(i)) is None else (file,)

    def check_header(self, i: int) -> None:
        """Read the header of image i and compare its size with the annotations'. Raises ImageError."""
        source = self.source(i)
        if isinstance(source, Image.Image):
            size = source.size
        else:
            with open_image(source, name=None if isinstance(source, Path) else repr(self.name(i))) as image:
                size = image.size
        if size[::-1] != self.size(i):
            self.image(i)  # an orientation may turn it, which only decoding shows for all formats

    def target(self, i: int, masks: bool | None = None) -> dict[str, np.ndarray]:
        """The objects of image i, without those that are less than a pixel wide or high inside it.

        Args:
            masks: with masks; None: where the annotations have any, since data of boxes alone has none to give.

        Returns:
            boxes: (n, 4) float32 x1 y1 x2 y2, clipped to the image; labels: (n,) int64; masks: (n, h, w) bool, unless
            they are not asked for; ignore: (m, 4) float32, boxes around crowds.

        Raises:
            ImageError: an object has no segmentation, or one that cannot be decoded.
        """
        masks = bool(self._file.segmentations.buffer) if masks is None else masks
        mine = self._annotations(i)
        mine = mine[self._usable[mine]]
        objects, crowds = mine[~self._file.crowd[mine]], mine[self._file.crowd[mine]]
        target = {"boxes": self._boxes[objects], "labels": self._labels[objects], "ignore": self._boxes[crowds]}
        if masks:
            target["masks"] = self._file.masks(objects, self.size(i))
        return target

    def aspect_groups(self) -> np.ndarray:
        """(N,) float: width over height, by which batches are put together."""
        height, width = self._file.sizes[self._rows].T
        return width / height

    def counts(self) -> np.ndarray:
        """(K,) int64: objects of each class, crowds left out."""
        mine = self._annotations()
        return np.bincount(self._labels[mine[~self._file.crowd[mine]]], minlength=len(self.classes))

    def fingerprint(self) -> str:
        """SHA-256 (hex) of classes, names, sizes and annotations; equal while the data is the same."""
        file, digest = self._file, hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        mine = self._annotations()
        counts = np.diff(self._ends)[self._rows]
        # what is trained on, in the precision in which it is: the same in whatever format it is written
        columns = (file.sizes[self._rows], counts, self._labels[mine], self._boxes[mine], file.crowd[mine])
        for column in (*columns, file.area[mine].astype(np.float32)):
            digest.update(np.ascontiguousarray(column).tobytes())
        for i in range(len(self)):
            digest.update(b"\0" + file.names[self._rows[i]])
        for k in mine:
            digest.update(b"\0" + file.segmentations[k])
        return digest.hexdigest()

    def subset(self, indices: Sequence[int] | np.ndarray) -> "CocoImages":
        """The images at these positions, in this order."""
        other = copy(self)
        other._rows = self._rows[np.asarray(indices, dtype=np.int64)]
        return other

    def with_objects(self) -> "CocoImages":
        """The images that have something to learn from, as mmdet's `filter_empty_gt` leaves them.

        Raises:
            ConvNextError: none has.
        """
        useful = self._usable & ~self._file.crowd
        kept = [i for i in range(len(self)) if useful[self._annotations(i)].any()]
        if not kept:
            raise ConvNextError(f"{self.path} has no image with an object of at least 1 x 1 pixels. Annotate some.")
        return self.subset(kept)

    def ground_truth(self) -> dict:
        """These images in COCO's format for an evaluator: all annotations as in the file, but numbered from 1.

        Numbered anew, because pycocotools takes a match with the annotation 0 for none.
        """
        file = self._file
        owner = np.repeat(self._rows, np.diff(self._ends)[self._rows])
        return {
            "images": [
                {"id": int(file.image_ids[row]), "height": int(file.sizes[row, 0]), "width": int(file.sizes[row, 1])}
                for row in self._rows
            ],
            "annotations": [
                {
                    "id": number,
                    "image_id": int(file.image_ids[row]),
                    "category_id": int(file.categories[k]),
                    "bbox": file.bbox[k].tolist(),
                    "area": float(file.area[k]),
                    "iscrowd": int(file.crowd[k]),
                    "segmentation": json.loads(file.segmentations[k] or b"[]"),
                }
                for number, (row, k) in enumerate(zip(owner, self._annotations(), strict=True), 1)
            ],
            "categories": [
                {"id": int(key), "name": name} for key, name in zip(self.category_ids, self.classes, strict=True)
            ],
        }

    def _annotations(self, i: int | None = None) -> np.ndarray:
        """Positions in the columns of the annotations of image i, or of all images one after the other."""
        if i is not None:
            row = self._rows[i]
            return self._order[self._ends[row] : self._ends[row + 1]]
        spans = [self._order[self._ends[row] : self._ends[row + 1]] for row in self._rows]
        return np.concatenate(spans) if spans else np.empty(0, np.int64)


def _positions(file: CocoFile, what: str, wanted: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Position in `ids` of each of the `wanted`: from the ids of a file to rows."""
    order = np.argsort(ids)
    ordered = ids[order]
    if len(twice := ordered[1:][ordered[1:] == ordered[:-1]]):
        raise ConvNextError(f"{file.path} has the id {twice[0]} twice in {what!r}. Give each entry its own.")
    found = np.minimum(np.searchsorted(ordered, wanted), len(ids) - 1)
    if len(unknown := np.flatnonzero(ordered[found] != wanted)):
        raise ConvNextError(
            f"{file.path}: annotation {file.ids[unknown[0]]} is of the id {wanted[unknown[0]]}, which {what!r} does not "
            "have. Add the entry or remove the annotation."
        )
    return order[found]


def open_coco(data: str | Path, val_share: float = 0.1, seed: int = 0) -> tuple[CocoImages, CocoImages]:
    """The (train, val) images of a folder; train without those that have no object, val all of them.

    Args:
        data: a folder with one of `LAYOUTS`.
        val_share: share of the images that is held out by a hash of (seed, name) where there is no validation part.

    Raises:
        ConvNextError: as `formats.coco.find_parts` and `CocoImages`; no training part; train and val have different categories.
    """
    parts = find_parts(data)
    if "train" not in parts:
        raise ConvNextError(f"{data} has a validation part alone, {parts['val'].annotations}. Add a part to train on.")
    train = CocoImages(*parts["train"].open())
    if "val" not in parts:
        train, val = _hold_out(train, val_share, seed)
        return train.with_objects(), val
    val = CocoImages(*parts["val"].open())
    mine, other = (dict(zip(p.category_ids.tolist(), p.classes, strict=True)) for p in (train, val))
    if mine != other:
        key = min(k for k in mine | other if mine.get(k) != other.get(k))
        raise ConvNextError(
            f"The category {key} is {mine.get(key, 'missing')!r} in {train.path} and {other.get(key, 'missing')!r} in "
            f"{val.path}. Both must list the same categories."
        )
    return train.with_objects(), val


def open_coco_split(
    data: str | Path, split: Literal["train", "val"], val_share: float = 0.1, seed: int = 0
) -> CocoImages:
    """One part of `open_coco`, without reading the other's file; a folder may have a validation part alone."""
    parts = find_parts(data)
    if "val" not in parts or split not in parts:
        train, val = open_coco(data, val_share, seed)
        return {"train": train, "val": val}[split]
    part = CocoImages(*parts[split].open())
    return part.with_objects() if split == "train" else part


def _hold_out(whole: CocoImages, share: float, seed: int) -> tuple[CocoImages, CocoImages]:
    """`split.hold_out` of all images alike: one can have objects of many classes."""
    train, val = split.hold_out([whole.name(i) for i in range(len(whole))], share, seed)
    return whole.subset(train), whole.subset(val)


def open_content(content: Content, val_share: float, seed: int) -> tuple[CocoImages, CocoImages]:
    """The (train, val) images of another format; errors as `open_coco`."""
    train, val = content.part("train", ""), content.part("val")
    if not train:
        raise ConvNextError(f"{content.path} has a validation part alone. Add a part to train on.")
    if not any(item.objects for item in content.items):
        raise ConvNextError(f"{content.path} ({content.format}) has no boxes. Annotate some.")
    images = content_images(content, train)
    if val:
        return images.with_objects(), content_images(content, val)
    images, held_out = _hold_out(images, val_share, seed)
    return images.with_objects(), held_out


def content_images(content: Content, items: list[Item]) -> CocoImages:
    """Some items of a content."""
    file = coco_file(content, items)
    files, places = [item.file for item in items], [item.row for item in items]
    return CocoImages(file, content.path, files, content.format, content.pictures, places)
