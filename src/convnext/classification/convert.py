"""Writers of images with labels of the whole image: a CSV, a folder per class, parquet."""

import csv
import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL.Image import Image

from convnext.classification.dataset import ImageDataset
from convnext.classification.parquet import NAMED
from convnext.data.formats.content import CLASSES, inside
from convnext.data.formats.write import MAGIC, ending_of
from convnext.errors import ConvNextError
from convnext.files import replace, replace_text

ROWS, GROUP_BYTES, FILE_BYTES = 100, 2**18, 2**30
"""Images and bytes of a row group of a parquet file, and bytes of a file, at most: who reads one image reads its group, and who
opens a file reads where all its groups are."""
IMAGES = "images"


def write_labels(
    parts: dict[str, ImageDataset], out: Path, kind: str, progress: Callable[[int, int], None]
) -> list[str]:
    """Write the images and labels of some parts as `kind` into the folder `out`; what was lost, a sentence each.

    Args:
        parts: "train" and, where there are any, "val".

    Raises:
        ConvNextError: the format cannot say what the data has.
    """
    first = next(iter(parts.values()))
    if first.multi_label and kind != "csv":
        raise ConvNextError(f"The images have several labels each, which a {kind} cannot say; write --to csv.")
    out.mkdir(parents=True, exist_ok=True)
    WRITERS[kind](parts, out, progress)
    return []


def encoded(images: ImageDataset, i: int) -> tuple[bytes, str]:
    """The file of image i as it is stored, and the ending that its name lacks; pixels in memory become PNG."""
    source = images.source(i)
    if isinstance(source, Path):
        return source.read_bytes(), ""
    if isinstance(source, Image):
        stream = BytesIO()
        source.save(stream, "PNG")
        source = stream.getvalue()
    return source, "" if images.name(i).lower().endswith(tuple(MAGIC.values())) else ending_of(source)


def _counted(parts: dict[str, ImageDataset], progress: Callable[[int, int], None]) -> Any:
    done, total = 0, sum(map(len, parts.values()))
    for part, images in parts.items():
        for i in range(len(images)):
            yield part, images, i
            done += 1
            progress(done, total)


def _write_csv(parts: dict[str, ImageDataset], out: Path, progress: Callable[[int, int], None]) -> None:
    """`labels.csv` beside `images/`; several labels as a column of 0 and 1 for each class."""
    classes = next(iter(parts.values())).classes
    several = next(iter(parts.values())).multi_label
    if several and (len(classes) < 2 or {"file", "split"} & set(classes)):
        raise ConvNextError(
            "A CSV of several labels has a column for each class: two or more, none called file or split."
        )
    split = ["split"] if "val" in parts else []

    def rows(file: Path) -> None:
        with open(file, "w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream)
            table.writerow(["file", *(classes if several else ["label"]), *split])
            for part, images, i in _counted(parts, progress):
                content, ending = encoded(images, i)
                name = images.name(i) + ending
                _place(inside(out / IMAGES, name, f"{part}, image {i}")[0], content)
                labels = images.labels[i].astype(int).tolist() if several else [classes[images.labels[i]]]
                table.writerow([name, *labels, *([part] if split else [])])

    replace(out / "labels.csv", rows)
    replace_text(out / CLASSES, "".join(f"{name}\n" for name in classes))


def _write_folder(parts: dict[str, ImageDataset], out: Path, progress: Callable[[int, int], None]) -> None:
    """A folder per class, in train/ and val/ where there are two parts."""
    for part, images, i in _counted(parts, progress):
        content, ending = encoded(images, i)
        label, name = images.classes[images.labels[i]], images.name(i) + ending
        if label in ("", ".", "..") or "/" in label or "\0" in label or label.startswith("."):
            raise ConvNextError(f"The class {label!r} cannot be the name of a folder; write --to csv.")
        place = f"{part}/{label}" if "val" in parts else label
        for prefix in (place, label):
            if name.startswith(f"{prefix}/"):
                name = name.removeprefix(f"{prefix}/")
                break
        _place(inside(out / place, name, f"{part}, image {i}")[0], content)


def _write_parquet(parts: dict[str, ImageDataset], out: Path, progress: Callable[[int, int], None]) -> None:
    """`train.parquet` and `val.parquet` with columns `image`, `label` and `file`, as the Hugging Face hub reads them; of more
    than `FILE_BYTES` train-00000.parquet and so on."""
    classes = next(iter(parts.values())).classes
    label = {"names": classes, "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": label, "file": {"dtype": "string", "_type": "Value"}}
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.int64()),
            ("file", pa.string()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}}), NAMED: "file"},
    )
    done, total = 0, sum(map(len, parts.values()))
    for part, images in parts.items():
        _write_files(out, part, _groups(images), schema, lambda rows, before=done: progress(before + rows, total))
        done += len(images)


def _write_files(
    out: Path, part: str, groups: Iterator[list[dict]], schema: pa.Schema, progress: Callable[[int], None]
) -> None:
    """The row groups of a part, in as many files as they need; `progress` takes the number of rows so far."""
    following, done = next(groups, []), 0
    files: list[Path] = []

    def write(file: Path) -> None:
        nonlocal following, done
        # an image is in no dictionary, and its least and greatest bytes tell nothing
        lean: dict[str, Any] = {"use_dictionary": False, "write_statistics": ["label"]}
        with file.open("wb") as target, pq.ParquetWriter(target, schema, **lean) as writer:
            size = 0
            while following and size < FILE_BYTES:
                writer.write_table(pa.Table.from_pylist(following, schema))
                size += sum(len(row["image"]["bytes"]) for row in following)
                done += len(following)
                progress(done)
                following = next(groups, [])

    while following or not files:
        files.append(out / f"{part}-{len(files):05d}.parquet")
        replace(files[-1], write)
    if len(files) == 1:
        files[0].rename(out / f"{part}.parquet")


def _groups(images: ImageDataset) -> Iterator[list[dict]]:
    """The rows of each row group: of at most `ROWS` images and `GROUP_BYTES`, or of one larger image."""
    rows, size = [], 0
    for i in range(len(images)):
        content, name = encoded(images, i)[0], _utf8(images.name(i))
        if rows and (len(rows) == ROWS or size + len(content) > GROUP_BYTES):
            yield rows
            rows, size = [], 0
        rows.append({"image": {"bytes": content, "path": name}, "label": int(images.labels[i]), "file": name})
        size += len(content)
    if rows:
        yield rows


def _utf8(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ConvNextError(f"{name!r} is no UTF-8, which a parquet file needs: rename it.") from None
    return name


def _place(path: Path, content: bytes) -> None:
    if path.exists():
        raise ConvNextError(f"Two images would be written as {path}. Rename one of them.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


WRITERS = {"csv": _write_csv, "folder": _write_folder, "parquet": _write_parquet}
