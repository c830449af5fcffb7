"""LabelMe: a JSON file of shapes beside each image, in one folder or in train/ and val/.

Polygons are masks, rectangles and circles are boxes; shapes with the same label and group_id are one object. Points and lines
have no area and are left out.
"""

import json
import math
from pathlib import Path
from typing import Any

from convnext.data.formats.content import Content, Item, Object, hull, inside, listed_classes, part_folders, read_text
from convnext.data.images import IMAGE_EXTENSIONS
from convnext.errors import ConvNextError
from convnext.recipes.reading import Reading

MAX_BYTES = 2**28  # the image can be inside


def is_labelme(root: Path) -> bool:
    """True if a folder has JSON files of the names of its images."""
    return any(_pairs(folder) for folder, _ in part_folders(root))


def _pairs(folder: Path) -> list[tuple[Path, str]]:
    """JSON files with an image of the same name beside them, and that name."""
    here = {path.stem: path.name for path in folder.glob("*") if path.suffix.lower() in IMAGE_EXTENSIONS}
    return [(path, here[path.stem]) for path in sorted(folder.glob("*.json")) if path.stem in here]


def read_labelme(root: Path, reading: Reading) -> Content:
    """The shapes of every JSON file.

    Raises:
        ConvNextError: no such files, or one that is not LabelMe's; it names the file and the shape.
    """
    items: list[Item] = []
    found: dict[str, int] = {}
    left_out = 0
    for folder, part in part_folders(root):
        for path, name in _pairs(folder):
            content = _parse(path)
            file, name = inside(folder, name, str(path))
            size = (content.get("imageHeight"), content.get("imageWidth"))
            known = all(isinstance(side, int) and side > 0 for side in size)
            item = Item(name, file, part, size=size if known else None, where=str(path))  # type: ignore[arg-type]
            left_out += _add_objects(path, content["shapes"], item, found)
            items.append(item)
    if not items:
        raise ConvNextError(f"{root} has no LabelMe files: a JSON file beside each image, of the same name.")
    classes = listed_classes(root, found)
    place = {number: classes.index(name) for name, number in found.items()}
    for item in items:
        for each in item.objects:
            each.label = place[each.label]
    notes = [f"{left_out:,} points and lines are left out."] if left_out else []
    return Content("LabelMe", root, classes, items, notes=notes)


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path, MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise ConvNextError(f"{path} is not JSON: {error}. Get a fresh copy of it, or remove it.") from None
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise ConvNextError(f"{path} is not LabelMe's: it has no list 'shapes'. Remove the file, or save it again.")
    return content


def _add_objects(path: Path, shapes: list[dict[str, Any]], item: Item, found: dict[str, int]) -> int:
    """Add the objects of a file; the number of shapes that are none."""
    groups: dict[Any, Object] = {}
    left_out = 0
    for number, shape in enumerate(shapes):
        where = f"{path}, shape {number}"
        label, kind = shape.get("label"), shape.get("shape_type") or "polygon"
        if not isinstance(label, str) or not label.strip():
            raise ConvNextError(f"{where} has no label. Give it one, or remove it.")
        if kind not in ("polygon", "rectangle", "circle"):
            left_out += 1
            continue
        points = _points(where, shape.get("points"), {"polygon": 3, "rectangle": 2, "circle": 2}[kind])
        polygon = None
        if kind == "circle":
            (x, y), edge = points[0], math.dist(points[0], points[1])
            box = (x - edge, y - edge, 2 * edge, 2 * edge)
        else:
            flat = [value for point in points for value in point]
            box, polygon = hull([flat]), [flat] if kind == "polygon" else None
        new = Object(found.setdefault(label.strip(), len(found)), box, polygon)
        key = (label, shape["group_id"]) if isinstance(shape.get("group_id"), int) else number
        if (before := groups.get(key)) and before.segmentation and polygon:
            before.segmentation += polygon
            before.box = hull(before.segmentation)
        else:
            groups[key if before is None else number, "again"] = groups[key] = new
            item.objects.append(new)
    return left_out


def _points(where: str, points: Any, least: int) -> list[tuple[float, float]]:
    try:
        pairs = [(float(x), float(y)) for x, y in points]
    except (TypeError, ValueError):
        pairs = []
    if len(pairs) < least or not all(abs(value) < 1e9 for pair in pairs for value in pair):
        raise ConvNextError(f"{where} must have {least} points [x, y] or more, in pixels. Draw it again, or remove it.")
    return pairs
