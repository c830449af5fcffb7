"""Open the images with boxes that `--data` names, in any format that has them."""

from pathlib import Path
from typing import Literal

from convnext.data.find import no_such_data
from convnext.data.formats import Format, find_format
from convnext.data.formats.content import Content
from convnext.data.formats.named import is_named, read_named, read_named_for
from convnext.detection.coco import CocoImages, content_images, open_coco, open_coco_split, open_content
from convnext.errors import ConvNextError
from convnext.recipes.reading import Reading


def find(data: str, reading: Reading) -> tuple[Path, Format]:
    """The folder or file of the data, and its format.

    Raises:
        ConvNextError: there is no such data, or its format has no boxes.
    """
    root = Path(data).expanduser().absolute()
    if not root.exists():
        raise ConvNextError(
            f"{no_such_data(data)} It must be a folder of images with boxes: COCO, YOLO, Pascal VOC, LabelMe, Hugging Face "
            "datasets."
        )
    found = find_format(root, reading)
    if not found.has_objects(root) and (reading.format or found.found(root)):
        raise ConvNextError(
            f"{data} is read as {found.title}, which has no boxes. Boxes are read as COCO, YOLO, Pascal VOC, LabelMe and Hugging "
            "Face datasets; docs/own-data.md draws them."
        )
    return root, found


def read(data: str, reading: Reading) -> tuple[Path, Content | None]:
    """The folder or file of the data and its contents; None for COCO's, read as columns, which says what is missing where
    nothing was found. Errors as `find`, and those of the format."""
    if is_named(data):
        return Path(data), read_named(data, reading)
    root, found = find(data, reading)
    if found.name == "coco" or not found.has_objects(root) or found.read is None:
        return root, None
    return root, found.read(root, reading)


def open_objects(data: str, val_share: float, seed: int, reading: Reading) -> tuple[CocoImages, CocoImages]:
    """The (train, val) images; arguments and errors as `open_coco`."""
    root, content = read(data, reading)
    return open_coco(root, val_share, seed) if content is None else open_content(content, val_share, seed)


def open_objects_split(
    data: str, split: Literal["train", "val"], val_share: float, seed: int, reading: Reading
) -> CocoImages:
    """One part of `open_objects`; a validation part may be there alone."""
    root, content = read(data, reading)
    if content is None:
        return open_coco_split(root, split, val_share, seed)
    if split == "val" and (items := content.part("val")):
        return content_images(content, items)
    train, val = open_content(content, val_share, seed)
    return {"train": train, "val": val}[split]


def open_objects_for_evaluation(data: str, classes: list[str], reading: Reading) -> CocoImages | None:
    """All images of a Python sequence or the validation part of a dataset of the Hub, for a model with these classes; None for
    data in folders and files, and of the Hub without such a part."""
    if not is_named(data):
        return None
    content = read_named_for(data, reading, classes)
    items = content.part("val")
    return content_images(content, items) if items else None
