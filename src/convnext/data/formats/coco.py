"""COCO's folder layouts, those of Roboflow's and Label Studio's exports too: finding the files; writing them.

annotations/instances_train.json    train/1.jpg ..            COCO's own
train/_annotations.coco.json        train/1.jpg ..            Roboflow
result.json                         images/1.jpg ..           Label Studio
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convnext.data.conventions import VAL_NAMES
from convnext.data.formats.coco_file import CocoFile
from convnext.data.formats.content import Content, Item, Object, inside
from convnext.data.texts import Texts
from convnext.errors import ConvNextError
from convnext.recipes.reading import Reading

JSON_NAMES = ("_annotations.coco.json", "annotations.json", "instances.json", "coco.json", "result.json")
"""Names of annotation files other than COCO's own."""

LAYOUTS = (
    "annotations/instances_train*.json and instances_val*.json with folders of images named after them (train2017/), "
    f"or train/ and valid/ with one of {', '.join(JSON_NAMES)} in each, or one such file for all images"
)


@dataclass(frozen=True)
class Part:
    """An annotation file and the folders in which its images may be, the likeliest first."""

    annotations: Path
    folders: tuple[Path, ...]

    def open(self) -> tuple[CocoFile, Path]:
        """The file, and the folder of its images. Raises ConvNextError: it cannot be used, or its images are not there."""
        file = CocoFile.read(self.annotations)
        return file, self.folder_of(file)

    def folder_of(self, file: CocoFile) -> Path:
        """The first folder that has one of the first images. Raises ConvNextError: none has."""
        names = [file.names[i].decode("utf-8", "surrogateescape") for i in range(min(len(file.image_ids), 20))]
        for folder in self.folders:
            if any((folder / name).is_file() for name in names):
                return folder
        looked = ", ".join(str(folder) for folder in self.folders)
        raise ConvNextError(
            f"The images of {self.annotations} are not there: looked for {names[0]!r} in {looked}. Put them into the first."
        )


def find_parts(data: str | Path) -> dict[str, Part]:
    """The parts `train` and `val` of a folder; `train` alone for one file without a validation part.

    Raises:
        ConvNextError: there is no such folder, it has none of `LAYOUTS`, or two files claim the same part.
    """
    root = Path(data).expanduser().absolute()
    if not root.is_dir():
        raise ConvNextError(f"There is no folder {str(data)!r}. It must have {LAYOUTS}.")
    parts = {}
    for part in ("train", "val"):
        files = sorted((root / "annotations").glob(f"instances_{part}*.json"))
        if len(files) > 1:
            raise ConvNextError(
                f"{root / 'annotations'} has {len(files)} files for {part}: {', '.join(file.name for file in files)}. "
                "Keep the one that is meant."
            )
        for file in files:
            part_name = file.stem.removeprefix("instances_")
            parts[part] = Part(file, (root / part_name, root / "images" / part_name, root / "images", root))
    for part, folders in (("train", ("train",)), ("val", VAL_NAMES)):
        for folder in (root / name for name in folders):
            if part not in parts and (file := _beside(folder)):
                parts[part] = Part(file, (folder, folder / "images", root / "images", root))
    if not parts and (file := _beside(root) or _beside(root / "annotations")):
        parts["train"] = Part(file, (root / "images", root))
    if not parts:
        raise ConvNextError(f"{root} has no annotations in COCO's format. It must have {LAYOUTS}.")
    return parts


def is_coco(data: str | Path) -> bool:
    """True if a folder has annotations in one of `LAYOUTS`, going by the names of its files."""
    root = Path(data).expanduser()
    own = any(next((root / "annotations").glob(f"instances_{part}*.json"), None) for part in ("train", "val"))
    return own or any(_beside(root / name) for name in ("", "annotations", "train", *VAL_NAMES))


def _beside(folder: Path) -> Path | None:
    return next((folder / name for name in JSON_NAMES if (folder / name).is_file()), None)


def read_coco(root: Path, reading: Reading) -> Content:
    """The objects of every part. Raises ConvNextError as `find_parts` and `CocoFile.read`."""
    items, classes = [], []
    parts = find_parts(root)
    for name, part in parts.items():
        file, folder = part.open()
        if classes and file.classes != classes:
            raise ConvNextError(f"{file.path} has other categories than the other part. Both must list the same.")
        classes = file.classes
        items += _items(file, folder, name if len(parts) > 1 or name == "val" else "")
    return Content("COCO", root, classes, items)


def _items(file: CocoFile, folder: Path, part: str) -> list[Item]:
    place = {key: k for k, key in enumerate(file.category_ids.tolist())}
    items = {}
    for row, key in enumerate(file.image_ids.tolist()):
        name = file.names[row].decode("utf-8", "surrogateescape")
        path, below = inside(folder, name, f"{file.path}, image {key}")
        items[key] = Item(below, path, part, size=tuple(file.sizes[row].tolist()), where=f"{file.path}, image {key}")
    for k, (image, category) in enumerate(zip(file.images.tolist(), file.categories.tolist(), strict=True)):
        if image not in items or category not in place:
            raise ConvNextError(
                f"{file.path}: annotation {file.ids[k]} is of an image or a category that is not listed. Add that entry, or "
                "remove the annotation."
            )
        segmentation = json.loads(file.segmentations[k]) if file.segmentations[k] else None
        box = tuple(file.bbox[k].tolist())
        items[image].objects.append(
            Object(place[category], box, segmentation, bool(file.crowd[k]), float(file.area[k]))
        )
    return list(items.values())


def coco_file(content: Content, items: list[Item]) -> CocoFile:
    """Items as the columns of an annotation file; an image that cannot be read is 1 x 1 pixels, without objects.

    File names are whole paths, because the images can be in several folders.
    """
    sizes = [content.size(item) for item in items]
    owners, objects = [], []
    for i, (item, size) in enumerate(zip(items, sizes, strict=True)):
        for each in item.objects if size else []:
            owners.append(i + 1)
            objects.append(each)
    bbox = np.array([each.box for each in objects], dtype=np.float64).reshape(-1, 4)
    area = [each.box[2] * each.box[3] if each.area is None else each.area for each in objects]
    return CocoFile(
        path=content.path,
        classes=list(content.classes),
        category_ids=np.arange(1, len(content.classes) + 1),
        image_ids=np.arange(1, len(items) + 1),
        names=Texts(item.name.encode("utf-8", "surrogateescape") for item in items),
        sizes=np.array([size or (1, 1) for size in sizes], dtype=np.int64).reshape(-1, 2),
        ids=np.arange(1, len(objects) + 1),
        images=np.array(owners, dtype=np.int64),
        categories=np.array([each.label + 1 for each in objects], dtype=np.int64),
        bbox=bbox,
        area=np.array(area, dtype=np.float64),
        crowd=np.array([each.crowd for each in objects], dtype=bool),
        segmentations=Texts(
            json.dumps(each.segmentation, separators=(",", ":")).encode() if each.segmentation else b""
            for each in objects
        ),
    )
