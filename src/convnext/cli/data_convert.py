"""`convnext data convert SRC OUT --to FORMAT`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from convnext.cli.parsing import parse
from convnext.console import progress_bar, stdout
from convnext.errors import ConvNextError
from convnext.recipes.reading import Reading

if TYPE_CHECKING:
    from convnext.data.formats.content import Content

DESCRIPTION = """Write a dataset in another format. Images are copied as they are and keep their names, so that the same
ones are held out.

    convnext data convert yolo coco --to coco
    convnext data convert voc yolo --to yolo
    convnext data convert photos table --to csv
    convnext data convert labels.csv photos.parquet --to parquet

Boxes, and masks where both formats have them: coco, yolo, voc. Labels of whole images: csv, folder, parquet; of data with boxes
the labels are the classes of an image's objects. What a format cannot say is counted and told."""


@dataclass(frozen=True)
class Arguments:
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """A dataset in any format that `train` reads."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """New folder."""
    to: Literal["coco", "yolo", "voc", "csv", "folder", "parquet"]
    """The format to write."""
    read: Reading = field(default_factory=Reading)


def run(argv: list[str]) -> int:
    arguments = parse(Arguments, argv, "data convert", DESCRIPTION)

    from convnext.classification.convert import WRITERS as OF_LABELS

    if arguments.out.exists() and (not arguments.out.is_dir() or any(arguments.out.iterdir())):
        raise ConvNextError(f"{arguments.out} is there already. Give a new folder.")
    with progress_bar("converting") as progress:
        if arguments.to in OF_LABELS:
            lost = _labels(arguments, progress)
        else:
            from convnext.data.formats.write import write_objects

            content = _read(arguments)
            if content.multi_label or not any(item.objects for item in content.items):
                raise ConvNextError(f"{arguments.data} has no objects to write as {arguments.to}.")
            lost = write_objects(content, arguments.out, arguments.to, progress)
    for sentence in lost:
        stdout().print(sentence, style="yellow")
    stdout().print(f"Written: {arguments.out}")
    return 0


def _read(arguments: Arguments) -> "Content":
    from convnext.data.find import no_such_data
    from convnext.data.formats import find_format
    from convnext.data.formats.named import is_named, read_named

    if is_named(arguments.data):
        return read_named(arguments.data, arguments.read)
    root = Path(arguments.data).expanduser().absolute()
    if not root.exists():
        raise ConvNextError(no_such_data(arguments.data))
    found = find_format(root, arguments.read)
    if not found.has_objects(root) or found.read is None:
        raise ConvNextError(
            f"{arguments.data} is read as {found.title}, which has no boxes, and {arguments.to} is for boxes. Labels of whole "
            "images are written --to csv, folder or parquet."
        )
    return found.read(root, arguments.read)


def _labels(arguments: Arguments, progress: object) -> list[str]:
    from convnext.classification.convert import write_labels
    from convnext.classification.open import open_parts

    train, val = open_parts(arguments.data, 0.0, 0, arguments.read)
    parts = {"train": train} | ({"val": val} if len(val) else {})
    return write_labels(parts, arguments.out, arguments.to, progress)  # pyright: ignore[reportArgumentType]
