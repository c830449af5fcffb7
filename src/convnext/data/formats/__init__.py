"""The formats of datasets: one file each, and one entry here.

A format is found by the names of what is in a folder. Its reader gives a `Content`, which every task turns into its own
dataset; formats that a task reads by itself, for speed or because labels are not in files, have their reader there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from convnext.data.formats import coco, folder, labelme, saved, table, voc, yolo
from convnext.data.formats.content import Content
from convnext.data.shards import is_shards
from convnext.errors import ConvNextError, nearest
from convnext.recipes.reading import Reading


@dataclass(frozen=True)
class Format:
    """A format of datasets.

    Attributes:
        name: what `--read.format` takes; `title`: for people.
        layout: the files in a few words.
        found: True if a folder or file is laid out so, going by names.
        read: reader; None where only the tasks read it.
        objects: True if images have boxes, or polygons; as labels of whole images, the classes of their objects are taken. A
            function of the folder where that differs.
    """

    name: str
    title: str
    layout: str
    found: Callable[[Path], bool]
    read: Callable[[Path, Reading], Content] | None = None
    objects: bool | Callable[[Path], bool] = False

    def has_objects(self, root: Path) -> bool:
        """True if the images of a folder in this format have boxes, or polygons."""
        return self.objects if isinstance(self.objects, bool) else self.objects(root)


def _is_parquet(root: Path) -> bool:
    return any(next(root.glob(pattern), None) for pattern in ("*.parquet", "data/*.parquet"))


FORMATS = (
    Format("coco", "COCO", coco.LAYOUTS, coco.is_coco, coco.read_coco, True),
    Format("yolo", "YOLO", "data.yaml, images/ and labels/", yolo.is_yolo, yolo.read_yolo, True),
    Format(
        "hf",
        "Hugging Face datasets",
        "dataset_dict.json or state.json, and *.arrow, of save_to_disk",
        saved.is_saved,
        saved.read_saved,
        saved.has_objects,
    ),
    Format("parquet", "parquet", "train*.parquet with images and labels", _is_parquet),
    Format("shards", "WebDataset shards", "train*.tar of samples, such as 0017.jpg and 0017.cls", is_shards),
    Format("folder", "image folder", "a folder per class, alone or in train/ and val/", folder.is_class_folders),
    Format(
        "voc", "Pascal VOC", "Annotations/*.xml and JPEGImages/, or XML beside images", voc.is_voc, voc.read_voc, True
    ),
    Format("labelme", "LabelMe", "a JSON file beside each image", labelme.is_labelme, labelme.read_labelme, True),
    Format(
        "table",
        "table",
        "labels.csv, .tsv or .jsonl: a file and its labels in each row",
        table.is_table,
        table.read_tables,
    ),
)
"""Looked for in this order."""


def find_format(root: Path, reading: Reading) -> Format:
    """The format that `reading` names, or the first that is found; a folder per class where none is.

    Raises:
        ConvNextError: there is no format of that name.
    """
    by_name = {each.name: each for each in FORMATS}
    if reading.format is not None:
        if reading.format not in by_name:
            raise ConvNextError(
                f"There is no format {reading.format!r}.{nearest(reading.format, by_name)} There are: {', '.join(by_name)}."
            )
        return by_name[reading.format]
    return next((each for each in FORMATS if each.found(root)), by_name["folder"])
