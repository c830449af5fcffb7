"""Parquet files as the Hugging Face hub has them: a column of encoded images and a column of labels."""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from convnext.classification.dataset import ImageDataset, file_state, hold_out
from convnext.data.formats.content import read_text
from convnext.data.images import ImageError
from convnext.data.texts import Texts
from convnext.errors import ConvNextError
from convnext.files import table_source

LABEL_COLUMNS = ("label", "labels", "fine_label")
VAL_PREFIXES = ("val", "test")  # val begins valid and validation, too
NAMED = b"convnext_names"
"""Key of the metadata of files whose column `file` has the images' names."""
CACHE_BYTES = 2**30
"""Row groups that a process keeps in memory, decompressed."""
SMALL_READ = 2**19
"""Bytes of a row group up to which reading all of it takes hardly longer than reading one of its images."""
WORTH_A_WORD = 3
"""Times that more is read than used."""


class ParquetDataset(ImageDataset):
    """The rows of some parquet files, in the order of the files; an image is called `train.parquet#17`, or as the column `file`
    of files of `convnext data convert` says.

    Labels are read at once, images by the row group when one of its images is asked for. Data larger than
    `CACHE_BYTES` therefore wants small row groups in random order; the footers, which say where they are, stay in memory.

    Args:
        files: files with a column `image` of {bytes, path} or of bytes, and a column of integers named as one of
            `LABEL_COLUMNS`.
        classes: class names in the order of the labels; default: the names in the first file's metadata, else "0" to
            "K-1".

    Raises:
        ConvNextError: a file that cannot be read, a column missing or of another type, no rows, a label out of range.
    """

    def __init__(self, files: list[Path], classes: list[str] | None = None):
        self._files = files
        self._metadata: dict[int, pq.FileMetaData] = {}
        labels, groups, names, own = [], [], classes, []
        for number, path in enumerate(files):
            try:
                with table_source(path) as source, pq.ParquetFile(source) as file:
                    _check_image_column(path, file.schema_arrow)
                    label_column = _label_column(path, file.schema_arrow)
                    names = names or _names_in_metadata(file.schema_arrow, label_column)
                    labels.append(file.read(columns=[label_column]).column(0).to_numpy())
                    own.append(_own_names(file))
                    self._metadata[number] = file.metadata
                    for group in range(file.num_row_groups):
                        metadata = file.metadata.row_group(group)
                        groups.append((number, group, metadata.num_rows, metadata.total_byte_size))
            except (OSError, pa.ArrowException) as error:
                raise ConvNextError(f"Cannot read {path} as parquet: {error}. Get a fresh copy of it.") from None
        self._file_start = np.cumsum([0] + [len(part) for part in labels])
        self._groups = np.array(groups, dtype=np.int64).reshape(-1, 4)
        self._group_start = np.cumsum([0, *self._groups[:, 2]])
        self.labels = _checked_labels(np.concatenate(labels), files[0], names)
        self.classes = names or [str(label) for label in range(self.labels.max() + 1)]
        self._names = None
        if all(each is not None for each in own):
            every = [name for each in own for name in each or ()]
            self._names = Texts(every) if len(set(every)) == len(every) else None
        self._encoded: Callable[[int], pa.Array] | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_encoded": None, "_metadata": {}}  # another process reads for itself

    def name(self, i: int) -> str:
        if self._names is not None:
            return self._names[i].decode()
        number = np.searchsorted(self._file_start, i, "right") - 1
        return f"{self._files[number].name}#{i - self._file_start[number]}"

    def source(self, i: int) -> bytes:
        if self._encoded is None:
            capacity = int(CACHE_BYTES / self._groups[:, 3].mean())
            self._encoded = lru_cache(max(capacity, 1))(self._read_group)
        group = int(np.searchsorted(self._group_start, i, "right")) - 1
        try:
            return self._encoded(group)[int(i - self._group_start[group])].as_py() or b""
        except (OSError, pa.ArrowException) as error:
            raise ImageError(f"Cannot read {self.name(i)}: {error}. Get a fresh copy of the file.") from None

    def state(self, i: int) -> tuple[int, ...]:
        return file_state(self._files[int(np.searchsorted(self._file_start, i, "right")) - 1])

    def blocks(self) -> np.ndarray:
        return self._group_start

    def amplification(self) -> float:
        """A group is read for each image of it that does not find it among those in memory."""
        bytes_, rows = self._groups[:, 3], self._groups[:, 2]
        kept = max(int(CACHE_BYTES / bytes_.mean()), 1)
        rows_read = float((rows * bytes_).sum() / bytes_.sum())  # large groups are read more often
        return max(1.0, rows_read * (1 - min(kept / len(rows), 1)))

    def reading_advice(self, data: str) -> str:
        times, size = self.amplification(), self._groups[:, 3].mean()
        if times <= WORTH_A_WORD or size <= SMALL_READ:
            return ""
        return (
            f"In random order about {times:.0f} times as much of {data} is read as used, because an image comes with its whole "
            f"row group, {size / 1e6:.1f} MB. --order block reads a group once in each loading process. Or write the images "
            f"once more: convnext data convert {data} OUT --to parquet makes small row groups, convnext data shard {data} OUT tar "
            "files, from which an image is read alone."
        )

    def _read_group(self, group: int) -> pa.Array:
        number, group_in_file = self._groups[group, :2].tolist()
        with (
            table_source(self._files[number]) as source,
            pq.ParquetFile(source, metadata=self._metadata.get(number)) as file,
        ):
            self._metadata[number] = file.metadata
            nested = pa.types.is_struct(file.schema_arrow.field("image").type)
            # without threads: they do not survive the fork into a loader process
            table = file.read_row_group(
                group_in_file, columns=["image.bytes" if nested else "image"], use_threads=False
            )
        images = table.column("image").combine_chunks()
        return images.field("bytes") if nested else images


def parquet_files(root: Path) -> list[Path]:
    """The parquet files of a folder, or else of its folder `data`, by name."""
    return sorted(root.glob("*.parquet")) or sorted(root.glob("data/*.parquet"))


def open_parquet(root: Path, val_share: float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """The (train, val) images of `train*.parquet` and the first of `val*.parquet`, `test*.parquet` that is there.

    Without the latter, `val_share` of each class is held out by `seed`. A file `classes.txt`, one name a line, takes
    precedence over class names in the metadata.

    Raises:
        ConvNextError: as `ParquetDataset`; no training files.
    """
    train_files, val_files = _parts(root)
    if not train_files:
        raise ConvNextError(
            f"No parquet file in {root} begins with train; there are "
            f"{', '.join(path.name for path in parquet_files(root)[:5])}. Rename the training files to train*.parquet."
        )
    train = ParquetDataset(train_files, _names_in_file(root))
    return (train, ParquetDataset(val_files, train.classes)) if val_files else hold_out(train, val_share, seed)


def open_parquet_for_evaluation(root: Path, val_share: float, seed: int) -> ImageDataset:
    """The validation images as in `open_parquet`, which here may also be there alone."""
    train_files, val_files = _parts(root)
    if val_files and not train_files:
        return ParquetDataset(val_files, _names_in_file(root))
    return open_parquet(root, val_share, seed)[1]


def _parts(root: Path) -> tuple[list[Path], list[Path]]:
    def starting(prefix: str) -> list[Path]:
        return [path for path in parquet_files(root) if path.name.startswith(prefix)]

    return starting("train"), next(filter(None, map(starting, VAL_PREFIXES)), [])


def _names_in_file(root: Path) -> list[str] | None:
    path = root / "classes.txt"
    return read_text(path).splitlines() if path.is_file() else None


def _names_in_metadata(schema: pa.Schema, label_column: str) -> list[str] | None:
    """The names of the hub's ClassLabel feature."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return metadata.get("info", {}).get("features", {}).get(label_column, {}).get("names")


def _own_names(file: pq.ParquetFile) -> list[bytes] | None:
    """The names in the column `file`, where the metadata says that it has them."""
    schema = file.schema_arrow
    if (
        NAMED not in (schema.metadata or {})
        or "file" not in schema.names
        or not pa.types.is_string(schema.field("file").type)
    ):
        return None
    names = file.read(columns=["file"]).column(0).to_pylist()
    return [name.encode() for name in names] if all(names) else None


def _check_image_column(path: Path, schema: pa.Schema) -> None:
    kind = schema.field("image").type if "image" in schema.names else None
    if kind is not None and pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else None
    if kind is None or not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ConvNextError(
            f"{path} needs a column image of {{bytes, path}} or of bytes, with encoded images such as JPEG; its "
            f"columns are {_columns(schema)}."
        )


def _label_column(path: Path, schema: pa.Schema) -> str:
    for name in LABEL_COLUMNS:
        if name in schema.names and pa.types.is_integer(schema.field(name).type):
            return name
    raise ConvNextError(
        f"{path} needs a column of integers named {' or '.join(LABEL_COLUMNS)}; its columns are {_columns(schema)}."
    )


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _checked_labels(labels: np.ndarray, path: Path, names: list[str] | None) -> np.ndarray:
    if not len(labels):
        raise ConvNextError(f"{path} has no rows. Get a fresh copy of it.")
    low, high = labels.min(), labels.max()
    # a missing label arrives as not-a-number
    if not low >= 0 or (names and high >= len(names)):
        allowed = f"0 to {len(names) - 1}, one for each of the {len(names)} class names" if names else "0 to K-1"
        raise ConvNextError(
            f"The labels in {path.parent} go from {low} to {high}; in every row they must be {allowed}. Leave out rows "
            "without a label (often -1), or correct the class names."
        )
    return labels.astype(np.int64)
