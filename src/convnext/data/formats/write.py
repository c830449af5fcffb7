"""Writers of images with objects: COCO, YOLO and Pascal VOC, out of a `Content`. What a format cannot say is counted and told.

Images are copied; their names stay, since they decide which images are held out.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

from convnext.data.formats.content import CLASSES, Content, Item, Object
from convnext.data.formats.pictures import Source
from convnext.data.images import IMAGE_EXTENSIONS
from convnext.errors import ConvNextError
from convnext.files import replace_text

LOST = {
    "crowd": "{} crowds or difficult objects are left out: YOLO has no word for them.",
    "polygons": "{} objects of several polygons or of run lengths are written as boxes: YOLO has one polygon an object.",
    "mask": "{} masks are left out: Pascal VOC has boxes alone.",
    "unreadable": "{} images cannot be read and are left out.",
    "hull": "{} boxes become those around their polygons: YOLO has one or the other.",
}


def write_objects(content: Content, out: Path, kind: str, progress: Callable[[int, int], None]) -> list[str]:
    """Write the images and objects of a content as `kind` into the folder `out`; what was lost, a sentence each.

    Raises:
        ConvNextError: an image has a name that the format cannot keep.
    """
    parts = {"train": content.part("train", ""), "val": content.part("val")}
    parts = {part: items for part, items in parts.items() if items}
    lost: Counter[str] = Counter()
    done, total = 0, sum(map(len, parts.values()))
    begin, write, end = WRITERS[kind]
    begin(content, out, parts)
    for part, items in parts.items():
        written = []
        for item in items:
            done += 1
            progress(done, total)
            size = content.size(item)
            if size is None:
                lost["unreadable"] += 1
                continue
            if item.row >= 0 and Path(item.name).suffix.lower() not in IMAGE_EXTENSIONS:
                item.name += ending_of(content.source(item))
            written.append((item, write(content, out, part, item, size, lost), size))
        end(content, out, part, written)
    return [LOST[key].format(f"{count:,}") for key, count in lost.items()]


MAGIC = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II*\0": ".tif",
}
"""First bytes of image files, and the ending of their names."""


def ending_of(source: Source) -> str:
    """Ending of the name for an image that is written as it is stored; pixels in memory become PNG."""
    if isinstance(source, Path):
        return source.suffix
    if not isinstance(source, bytes):
        return ".png"
    return next((ending for magic, ending in MAGIC.items() if source.startswith(magic)), ".jpg")


def place(content: Content, item: Item, target: Path) -> None:
    """Write an item's image to another place, as it is stored."""
    source = content.source(item)
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, Path):
        shutil.copyfile(source, target)
    elif isinstance(source, bytes):
        target.write_bytes(source)
    else:
        source.save(target, "PNG")


# -- COCO


def _begin_coco(content: Content, out: Path, parts: dict[str, list[Item]]) -> None:
    (out / "annotations").mkdir(parents=True, exist_ok=True)


def _write_coco(
    content: Content, out: Path, part: str, item: Item, size: tuple[int, int], lost: Counter[str]
) -> list[Object]:
    place(content, item, out / part / item.name)
    return item.objects


def _end_coco(content: Content, out: Path, part: str, written: list) -> None:
    images, annotations = [], []
    for number, (item, objects, (height, width)) in enumerate(written, 1):
        images.append({"id": number, "file_name": item.name, "height": height, "width": width})
        for each in objects:
            box = [float(value) for value in each.box]
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": each.label + 1, "bbox": box}
            annotation |= {"area": box[2] * box[3] if each.area is None else each.area, "iscrowd": int(each.crowd)}
            if each.segmentation:
                annotation.update(segmentation=each.segmentation)
            annotations.append(annotation)
    categories = [{"id": k, "name": name} for k, name in enumerate(content.classes, 1)]
    values = {"images": images, "annotations": annotations, "categories": categories}
    replace_text(out / "annotations" / f"instances_{part}.json", json.dumps(values))


# -- YOLO


def _begin_yolo(content: Content, out: Path, parts: dict[str, list[Item]]) -> None:
    import yaml

    out.mkdir(parents=True, exist_ok=True)
    settings = {part: f"images/{part}" for part in parts} | {"names": dict(enumerate(content.classes))}
    replace_text(out / "data.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def _write_yolo(content: Content, out: Path, part: str, item: Item, size: tuple[int, int], lost: Counter[str]) -> None:
    place(content, item, out / "images" / part / item.name)
    lines = [line for each in item.objects if (line := _yolo_line(each, size, lost))]
    label = (out / "labels" / part / item.name).with_suffix(".txt")
    if label.exists():
        raise ConvNextError(
            f"{item.name!r} and another image differ in their endings alone, and YOLO has one label file for both. Rename one."
        )
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text("".join(lines), encoding="utf-8")


def _yolo_line(each: Object, size: tuple[int, int], lost: Counter[str]) -> str:
    height, width = size
    x, y, w, h = each.box
    if each.crowd:
        lost["crowd"] += 1
        return ""
    polygons = each.segmentation if isinstance(each.segmentation, list) else []
    if len(polygons) == 1 and len(polygons[0]) >= 6:
        xs, ys = polygons[0][::2], polygons[0][1::2]
        around = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        lost.update({"hull": 1} if max(abs(a - b) for a, b in zip(around, each.box, strict=True)) > 1e-6 else {})
        values = [value / (height if k % 2 else width) for k, value in enumerate(polygons[0])]
    else:
        lost.update({"polygons": 1} if each.segmentation else {})
        values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
    return f"{each.label} {' '.join(map(repr, map(float, values)))}\n"


# -- Pascal VOC


def _begin_voc(content: Content, out: Path, parts: dict[str, list[Item]]) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    replace_text(out / CLASSES, "".join(f"{name}\n" for name in content.classes))


def _write_voc(content: Content, out: Path, part: str, item: Item, size: tuple[int, int], lost: Counter[str]) -> str:
    stem = Path(item.name).stem
    if "/" in item.name or any(c.isspace() for c in stem) or (out / "Annotations" / f"{stem}.xml").exists():
        raise ConvNextError(
            f"{item.name!r}: Pascal VOC has one folder of images whose names without ending are different and without spaces. "
            "Rename it, or take COCO or YOLO, which keep such names."
        )
    place(content, item, out / "JPEGImages" / item.name)
    lines = [f"<filename>{escape(item.name)}</filename>"]
    lines.append(f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>")
    for each in item.objects:
        lost.update({"mask": 1} if each.segmentation else {})
        x, y, w, h = map(float, each.box)
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (x, y, x + w, y + h), strict=True)
        box = "".join(f"<{key}>{value!r}</{key}>" for key, value in corners)
        lines.append(
            f"<object><name>{escape(content.classes[each.label])}</name><difficult>{int(each.crowd)}</difficult>"
            f"<bndbox>{box}</bndbox></object>"
        )
    body = "\n".join(lines)
    (out / "Annotations" / f"{stem}.xml").write_text(f"<annotation>\n{body}\n</annotation>\n", encoding="utf-8")
    return stem


def _end_voc(content: Content, out: Path, part: str, written: list) -> None:
    replace_text(out / "ImageSets" / "Main" / f"{part}.txt", "".join(f"{stem}\n" for _, stem, _ in written))


def _nothing(*_: object) -> None:
    pass


WRITERS: dict[str, tuple[Callable, Callable, Callable]] = {
    "coco": (_begin_coco, _write_coco, _end_coco),
    "yolo": (_begin_yolo, _write_yolo, _nothing),
    "voc": (_begin_voc, _write_voc, _end_voc),
}
"""Kind -> what is done before the images, for each, and after those of a part."""
