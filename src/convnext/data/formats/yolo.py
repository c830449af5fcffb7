"""YOLO: a text file of boxes or polygons for each image, and the classes in data.yaml or classes.txt.

data.yaml                        train: images/train  val: images/val  names: [cat, dog]
images/train/1.jpg               the labels of images/.. are in labels/.., of other folders beside the images
labels/train/1.txt               class x y w h, or class x y x y x y ..; of an image of width and height 1
"""

import math
from pathlib import Path
from typing import Any

from convnext.data.formats.content import Content, Item, Object, hull, inside, read_text
from convnext.data.formats.pictures import size_of
from convnext.data.images import IMAGE_EXTENSIONS
from convnext.errors import ConvNextError
from convnext.recipes.reading import Reading

CONFIGS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
MAX_CONFIG, MAX_LABELS = 2**22, 2**26
MARGIN = 1e-3
"""Share of a side by which a box may leave its image without a word: tools round outwards."""


def is_yolo(root: Path) -> bool:
    if _config(root):
        return True
    labelled = (root / "classes.txt").is_file() and (root / "images").is_dir() and (root / "labels").is_dir()
    return labelled and next((root / "labels").rglob("*.txt"), None) is not None


def _config(root: Path) -> Path | None:
    if root.is_file():
        return root if root.suffix.lower() in (".yaml", ".yml") else None
    return next((root / name for name in CONFIGS if (root / name).is_file()), None)


def read_yolo(root: Path, reading: Reading) -> Content:
    """The objects of every part that data.yaml names; of images/ where there is only classes.txt.

    Raises:
        ConvNextError: no classes, no images, a line that cannot be used; with file and line.
    """
    config = _config(root)
    folder = root if root.is_dir() else root.parent
    if config:
        settings = _settings(config)
        classes = _names(config, settings)
        parts = {part: _folders(config, settings, keys) for part, keys in _KEYS.items()}
    else:
        settings = {}
        if not (folder / "classes.txt").is_file():
            raise ConvNextError(f"{folder} has neither data.yaml nor classes.txt. Write the classes into one of them.")
        classes = [line.strip() for line in read_text(folder / "classes.txt").splitlines() if line.strip()]
        if not classes:
            raise ConvNextError(f"{folder / 'classes.txt'} is empty. Write the class names into it, one a line.")
        inner = {part: folder / "images" / part for part in _KEYS if (folder / "images" / part).is_dir()}
        parts = {part: [path] for part, path in inner.items()} or {"train": [folder / "images"]}
    if not any(parts.values()):
        raise ConvNextError(f"{config or folder} names no images. Give it a line such as train: images/train.")
    only_boxes = "kpt_shape" in settings  # then key points follow the box
    items: list[Item] = []
    problems: list[str] = []
    for part, folders in parts.items():
        side = part if parts.get("val") else ""
        for images in folders:
            base = images if len(folders) == 1 and images.is_dir() else folder
            for file in _images(images, folder):
                name = file.relative_to(base).as_posix()
                items.append(_item(file, name, side, len(classes), only_boxes, problems))
    return Content("YOLO", root, classes, items, problems=problems)


_KEYS = {"train": ("train",), "val": ("val", "valid", "validation")}


def _settings(config: Path) -> dict[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(read_text(config, MAX_CONFIG))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}," if mark else ""
        raise ConvNextError(
            f"{config}{line} is not YAML: {getattr(error, 'problem', None) or error}. Correct it."
        ) from None
    if not isinstance(settings, dict):
        raise ConvNextError(
            f"{config} must have lines such as train: images/train, val: images/val and names: [cat, dog]."
        )
    return settings


def _names(config: Path, settings: dict[str, Any]) -> list[str]:
    names = settings.get("names")
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise ConvNextError(
                f"{config}: the keys of 'names' must be 0 to {len(names) - 1}, each once. Number them anew."
            )
        names = [names.get(k, names.get(str(k))) for k in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int) for name in names):
        raise ConvNextError(f"{config} has no class names. Add a line such as names: [cat, dog].")
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConvNextError(f"{config} has the class {twice!r} twice. Give each its own name.")
    if isinstance(settings.get("nc"), int) and settings["nc"] != len(names):
        raise ConvNextError(f"{config} says nc: {settings['nc']}, and names {len(names)} classes. Correct one of them.")
    return names


def _folders(config: Path, settings: dict[str, Any], keys: tuple[str, ...]) -> list[Path]:
    """The folders of images, or lists of them, of one part."""
    value = next((settings[key] for key in keys if settings.get(key)), [])
    found = []
    for each in value if isinstance(value, list) else [value]:
        if not isinstance(each, str):
            raise ConvNextError(
                f"{config}: {keys[0]!r} is {each!r}, and must be a folder of images, or a list of folders."
            )
        base = settings.get("path") if isinstance(settings.get("path"), str) else "."
        stripped = each.replace("\\", "/")
        while stripped.startswith("../"):  # Roboflow's are relative to another folder than their own
            stripped = stripped[3:]
        candidates = []
        for text in (f"{base}/{each}", each, stripped):
            try:
                candidates.append(inside(config.parent, text, str(config))[0])
            except ConvNextError:
                continue
        path = next((path for path in candidates if path.exists()), None)
        if path is None:
            raise ConvNextError(
                f"{config}: {keys[0]}: {each} is not below {config.parent}. Put the images there, or correct the line."
            )
        found.append(path)
    return found


def _images(images: Path, root: Path) -> list[Path]:
    if images.is_file():
        lines = enumerate(read_text(images).splitlines(), 1)
        return [inside(root, line, f"{images}, line {number}")[0] for number, line in lines if line.strip()]
    found = [path for path in images.rglob("*") if path.suffix.lower() in IMAGE_EXTENSIONS]
    if not found:
        raise ConvNextError(f"{images} has no images. Put them there, or correct data.yaml.")
    return found


def label_file(image: Path) -> Path:
    """The label file of an image: in labels/ where it is in images/, the last one of its path; else beside it."""
    parts = list(image.parts)
    for k in range(len(parts) - 2, -1, -1):
        if parts[k] == "images":
            return Path(*parts[:k], "labels", *parts[k + 1 :]).with_suffix(".txt")
    return image.with_suffix(".txt")


def _item(file: Path, name: str, part: str, classes: int, only_boxes: bool, problems: list[str]) -> Item:
    path = label_file(file)
    item = Item(name, file, part, where=str(path))
    lines = read_text(path, MAX_LABELS).splitlines() if path.is_file() else []
    if not any(line.strip() for line in lines):
        return item
    item.size = size_of(file)
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        if line.strip() and (each := _object(line, where, classes, only_boxes, item.size, problems)):
            item.objects.append(each)
    return item


def _object(
    line: str, where: str, classes: int, only_boxes: bool, size: tuple[int, int] | None, problems: list[str]
) -> Object | None:
    words = line.split()
    try:
        label, values = float(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        raise ConvNextError(
            f"{where}: {line.strip()[:60]!r} are not numbers: class x y w h, or class x y x y x y .. "
            "Correct the line, or remove it."
        ) from None
    values = values[:4] if only_boxes else values
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ConvNextError(
            f"{where} has {len(words)} numbers; it needs 5 (class x y w h), or a class and three points or more. "
            "Correct the line, or remove it."
        )
    if label != int(label) if math.isfinite(label) else True:
        raise ConvNextError(f"{where}: the class {words[0]!r} is no whole number. Correct it.")
    if not 0 <= label < classes:
        raise ConvNextError(
            f"{where}: there is no class {int(label)}; the list has 0 to {classes - 1}. Add its name, or remove the line."
        )
    if not all(abs(value) < 10 for value in values):
        raise ConvNextError(
            f"{where}: the numbers must be shares of the image's sides, 0 to 1; these look like pixels. "
            "Write them anew."
        )
    if size is None:  # the image cannot be read; whoever reads it says so
        return None
    height, width = size
    if len(values) == 4:
        x, y, w, h = values
        corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        each = Object(int(label), (corners[0] * width, corners[1] * height, w * width, h * height))
    else:
        corners = (min(values), max(values))
        polygon = [value * (height if k % 2 else width) for k, value in enumerate(values)]
        each = Object(int(label), hull([polygon]), [polygon], area=area(polygon))
    if min(corners) < -MARGIN or max(corners) > 1 + MARGIN:
        problems.append(f"{where}: the object leaves its image; it is clipped.")
    return each


def area(polygon: list[float]) -> float:
    """Area inside a polygon x y x y .. in square pixels."""
    xs, ys = polygon[::2], polygon[1::2]
    return abs(sum(x * ys[k - 1] - xs[k - 1] * y for k, (x, y) in enumerate(zip(xs, ys, strict=True)))) / 2
