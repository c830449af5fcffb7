"""Pascal VOC: an XML file of boxes for each image, in VOC's own folders or beside the images.

    Annotations/1.xml  JPEGImages/1.jpg  ImageSets/Main/train.txt      VOC's own
    train/1.xml train/1.jpg  valid/..                                  Roboflow, LabelImg

Corners are pixels as they stand there, without VOC's own offset of one, as mmdet and most tools read and write them.
`difficult` objects are neither learnt nor counted, like COCO's crowds.
"""

import math
from pathlib import Path

from convnext.data.conventions import TRAIN_NAMES, VAL_NAMES
from convnext.data.formats.content import Content, Item, Object, inside, listed_classes, part_folders, read_text
from convnext.data.formats.xml_tree import Element, read_xml
from convnext.data.images import IMAGE_EXTENSIONS
from convnext.errors import ConvNextError
from convnext.recipes.reading import Reading

ANNOTATIONS, IMAGES, SETS = "Annotations", "JPEGImages", "ImageSets/Main"


def is_voc(root: Path) -> bool:
    if (root / ANNOTATIONS).is_dir():
        return next((root / ANNOTATIONS).glob("*.xml"), None) is not None
    return any(next(folder.glob("*.xml"), None) is not None for folder, _ in part_folders(root))


def read_voc(root: Path, reading: Reading) -> Content:
    """The objects of every XML file.

    Raises:
        ConvNextError: no such files, one that is not VOC's or has no image; with file and line.
    """
    notes: list[str] = []
    if (root / ANNOTATIONS).is_dir():
        folders = [(root / ANNOTATIONS, root / IMAGES, "")]
        parts = _sets(root / SETS)
    else:
        folders, parts = [(folder, folder, part) for folder, part in part_folders(root)], None
    items: list[Item] = []
    found: dict[str, int] = {}
    for annotations, images, part in folders:
        here = {path.stem: path.name for path in images.glob("*") if path.suffix.lower() in IMAGE_EXTENSIONS}
        for path in sorted(annotations.glob("*.xml")):
            if parts is not None and path.stem not in parts:
                continue
            item = _item(path, images, here, found)
            item.part = parts[path.stem] if parts is not None else part
            items.append(item)
    if not items:
        raise ConvNextError(f"{root} has no XML files in Pascal VOC's format. Put them into {root / ANNOTATIONS}.")
    if parts is not None and (left := len(list((root / ANNOTATIONS).glob("*.xml"))) - len(items)):
        notes.append(f"{left:,} images that no list in {SETS} names are left out.")
    classes = listed_classes(root, found)
    place = {number: classes.index(name) for name, number in found.items()}
    for item in items:
        for each in item.objects:
            each.label = place[each.label]
    return Content("Pascal VOC", root, classes, items, notes=notes)


def _sets(folder: Path) -> dict[str, str] | None:
    """The part of each image by its stem, from the lists of ImageSets/Main; None without lists."""
    lists = {}
    for part, names in (("val", VAL_NAMES), ("train", (*TRAIN_NAMES, "trainval"))):
        path = next((path for name in names if (path := folder / f"{name}.txt").is_file()), None)
        if path:
            lists[part] = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    parts = {stem: part for part, stems in lists.items() for stem in stems}
    return {stem: part if len(lists) > 1 or part == "val" else "" for stem, part in parts.items()} if lists else None


def _item(path: Path, images: Path, here: dict[str, str], found: dict[str, int]) -> Item:
    root = read_xml(path)
    if root.tag != "annotation":
        raise ConvNextError(
            f"{path}, line {root.line}: <{root.tag}> is not Pascal VOC's <annotation>. Remove the file."
        )
    name = here.get(path.stem) or root.value("filename") or f"{path.stem}.jpg"
    file, name = inside(images, name, f"{path}, line 1")
    item = Item(name, file, where=str(path))
    size = root.first("size")
    if size is not None:
        width, height = (_number(path, size, key) for key in ("width", "height"))
        item.size = (int(height), int(width)) if width >= 1 and height >= 1 else None
    for each in root.all("object"):
        label, box = each.value("name"), each.first("bndbox")
        if not label or box is None:
            missing = "<name>" if not label else "<bndbox>"
            raise ConvNextError(f"{path}, line {each.line}: the object has no {missing}. Add it, or remove the object.")
        left, top, right, bottom = (_number(path, box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
        crowd = each.value("difficult") == "1"
        item.objects.append(
            Object(found.setdefault(label, len(found)), (left, top, right - left, bottom - top), None, crowd)
        )
    return item


def _number(path: Path, element: Element, key: str) -> float:
    text = element.value(key)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not abs(value) < 1e9:
        raise ConvNextError(
            f"{path}, line {element.line}: <{key}> is {text!r}, and must be a number of pixels. Correct it."
        )
    return value
