"""Rows of Arrow tables with features, as Hugging Face `datasets` has them, as a `Content`.

    image: Image                        bytes, or a path
    label: ClassLabel | string | int    one label; a list of them: several
    objects: {bbox, category}           boxes x y w h in pixels

Columns are found by their features and names; `Reading` names them where that is not enough.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from convnext.data.conventions import TRAIN_NAMES, VAL_NAMES
from convnext.data.formats.arrow import ArrowPictures, is_bytes, open_table
from convnext.data.formats.columns import Columns, Split, class_names, find_columns, object_keys
from convnext.data.formats.content import Content, Item, Object, inside, listed_classes, part_of
from convnext.data.formats.pictures import size_of
from convnext.errors import ConvNextError, nearest
from convnext.recipes.reading import Reading


def rows_content(splits: list[Split], root: Path, title: str, reading: Reading) -> Content:
    """The images of some splits: training, and validation or else test.

    Raises:
        ConvNextError: a file that cannot be read, columns that cannot be told, a row without an image or label.
    """
    chosen, notes = _chosen(splits, root)
    if reading.images:
        below = (Path(reading.images).expanduser(),)
        chosen = [(replace(split, roots=below), part) for split, part in chosen]
    tables = [_table(split) for split, _ in chosen]
    columns = [find_columns(split, table.schema, reading) for (split, _), table in zip(chosen, tables, strict=True)]
    if any(each != columns[0] for each in columns):
        raise ConvNextError(f"The splits of {root} have different columns of images or labels. Give all the same.")
    names = class_names([split.features for split, _ in chosen], columns[0], root)
    pictures = ArrowPictures([path for split, _ in chosen for path in split.files], columns[0].image)
    found = [
        _Rows(split, part, table, columns[0], names, reading.separator).items()
        for (split, part), table in zip(chosen, tables, strict=True)
    ]
    several = len(columns[0].labels) > 1 or any(isinstance(row.labels, list) for rows in found for row in rows)
    words = {word for rows in found for row in rows for word in row.words()}
    if len(columns[0].labels) > 1:
        classes = list(columns[0].labels)
    else:
        classes = names or listed_classes(root if root.is_dir() else root.parent, words)
    place = {name: k for k, name in enumerate(classes)}
    items, start = [], 0
    for rows in found:
        for k, row in enumerate(rows):
            item = row.item
            item.row = start + k if item.row >= 0 else -1
            item.labels = tuple(sorted({place[word] for word in _listed(row.labels)}))
            for word, box, more in row.objects:
                item.objects.append(Object(place[word], box, *more))
            items.append(item)
        start += len(rows)
    parts = {item.part for item in items}
    if "test" in parts:  # of a column: as in tables
        if "val" in parts:
            notes.append(f"{sum(item.part == 'test' for item in items):,} rows of the test part are left out.")
            items = [item for item in items if item.part != "test"]
        for item in items:
            item.part = "val" if item.part == "test" else item.part
    content = Content(title, root, classes, items, several, notes, pictures=pictures)
    for item in content.items:
        if item.objects and item.size is None:
            item.size = size_of(content.source(item))
    return content


def _table(split: Split) -> pa.Table:
    """All rows of a split. Raises ConvNextError: as `open_table`; files of different columns."""
    tables = [open_table(path) for path in split.files]
    for path, table in zip(split.files, tables, strict=True):
        if not table.schema.equals(tables[0].schema):
            raise ConvNextError(f"{path} has other columns than {split.files[0]}. Save the dataset again.")
        if len(set(table.column_names)) < table.num_columns:
            raise ConvNextError(f"{path} has two columns of one name. Rename one and save the dataset again.")
    return pa.concat_tables(tables)


def _chosen(splits: list[Split], root: Path) -> tuple[list[tuple[Split, str]], list[str]]:
    """The splits to train and to evaluate on with their parts, and notes about the others."""
    if len(splits) == 1 and part_of(splits[0].name) in (None, "train"):
        return [(splits[0], "")], []
    by_name = {split.name: split for split in splits}
    train = next((by_name[name] for name in TRAIN_NAMES if name in by_name), None)
    val = next((by_name[name] for name in (*VAL_NAMES, "dev") if name in by_name), None)
    found = [(split, part) for split, part in ((train, "train" if val else ""), (val, "val")) if split]
    if not found:
        raise ConvNextError(
            f"{root} has the splits {', '.join(by_name)}, and none is called train, validation or test. Rename them."
        )
    left = [name for name in by_name if by_name[name] not in (train, val)]
    return found, [f"The splits {', '.join(left)} are left out."] if left else []


@dataclass
class Row:
    """An image with its labels and objects by name: (name, box, (segmentation, crowd, area))."""

    item: Item
    labels: str | list[str] | None
    objects: list[tuple[str, tuple[float, float, float, float], tuple]]

    def words(self) -> Iterable[str]:
        """All class names of the row."""
        return [*_listed(self.labels), *(word for word, _, _ in self.objects)]


def _listed(labels: str | list[str] | None) -> list[str]:
    return labels if isinstance(labels, list) else [] if labels is None else [labels]


class _Rows:
    """The rows of one split."""

    def __init__(
        self,
        split: Split,
        part: str,
        table: pa.Table,
        columns: Columns,
        names: list[str] | None,
        separator: str | None,
    ):
        self.split, self.part, self.table, self.columns = split, part, table, columns
        self.names, self.separator = names, separator

    def items(self) -> list[Row]:
        table, columns, split = self.table, self.columns, self.split
        if not len(table):
            raise ConvNextError(f"{split.where} has no rows. Get a complete dataset.")
        files, stored = self._paths()
        called = _row_names(files, split.name or "row")
        labels = [table.column(name).to_pylist() for name in columns.labels]
        objects = table.column(columns.objects).to_pylist() if columns.objects else None
        parts = table.column(columns.split).to_pylist() if columns.split else None
        sides = [table.column(name).to_pylist() for name in ("height", "width") if name in table.column_names]
        found = []
        for i, (name, path) in enumerate(zip(called, files, strict=True)):
            where = f"{split.where}, row {i}"
            file = Path(name) if stored[i] else self._file(path, where)
            item = Item(name, file, self._part(parts[i], where) if parts else self.part, where=where, row=stored[i] - 1)
            if len(sides) == 2 and all(type(side[i]) is int and side[i] > 0 for side in sides):
                item.size = sides[0][i], sides[1][i]
            given = self._labels([column[i] for column in labels], where) if labels else None
            found.append(Row(item, given, self._objects(objects[i], where) if objects else []))
        if (boxes := [box for row in found for _, box, _ in row.objects]) and all(max(box) <= 1 for box in boxes):
            raise ConvNextError(
                f"{split.where}: no box has a number above 1; they must be x, y, width and height in pixels, not shares."
            )
        return found

    def _paths(self) -> tuple[list[str], list[bool]]:
        """The path of every row's image, "" without one, and True where its bytes are in the row."""
        paths, stored = [], []
        for chunk in self.table.column(self.columns.image).chunks:
            plain = is_bytes(chunk.type)
            inner = chunk if plain else chunk.field("bytes")
            stored += inner.is_valid().to_pylist()
            known = None if plain or chunk.type.get_field_index("path") < 0 else chunk.field("path")
            paths += [each or "" for each in known.to_pylist()] if known is not None else [""] * len(chunk)
        return paths, stored

    def _file(self, path: str, where: str) -> Path:
        if not path:
            raise ConvNextError(f"{where} has no image. Leave the row out.")
        for root in self.split.roots[1:]:
            if Path(path).is_absolute() and Path(path).is_relative_to(root):
                return inside(root, path, where)[0]
        return inside(self.split.roots[0], path, where)[0]

    def _part(self, word: Any, where: str) -> str:
        if isinstance(word, str) and (part := part_of(word)):
            return part
        raise ConvNextError(f"{where}: {self.columns.split!r} is {word!r}, and must be train, val or test.")

    def _labels(self, values: list[Any], where: str) -> str | list[str]:
        if len(values) > 1:
            for name, value in zip(self.columns.labels, values, strict=True):
                if value not in (0, 1):
                    raise ConvNextError(
                        f"{where}: {name!r} is {repr(value)[:80]}, and must be 0 or 1. Correct it or leave the row out."
                    )
            return [name for name, value in zip(self.columns.labels, values, strict=True) if value]
        (value,) = values
        if isinstance(value, str) and self.separator:
            value = [each.strip() for each in value.split(self.separator) if each.strip()]
        return [self._word(each, where) for each in value] if isinstance(value, list) else self._word(value, where)

    def _word(self, value: Any, where: str) -> str:
        """The class name of a label. Raises ConvNextError: it is missing, or none."""
        if value is None or value == -1 or value == "":
            raise ConvNextError(f"{where} has no label ({value!r}). Add it, or leave the row out.")
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ConvNextError(
                f"{where}: {repr(value)[:80]} is no label; it must be a name, a number, or a list of them."
            )
        if self.names is None or isinstance(value, str):
            if self.names is not None and value not in self.names:
                raise ConvNextError(f"{where}: the dataset has no class {value!r}.{nearest(str(value), self.names)}")
            return str(value)
        if not 0 <= value < len(self.names):
            raise ConvNextError(
                f"{where}: there is no class {value}; the dataset names 0 to {len(self.names) - 1}. Correct the row."
            )
        return self.names[value]

    def _objects(self, value: Any, where: str) -> list[tuple[str, tuple[float, float, float, float], tuple]]:
        box_key, category_key = object_keys(self.split.features[self.columns.objects or ""]) or ("", "")
        if isinstance(value, dict):  # a list for each key
            keys = [key for key in value if isinstance(value[key], list)]
            lengths = {len(value[key]) for key in keys}
            if len(lengths) > 1:
                raise ConvNextError(
                    f"{where}: its objects have {', '.join(map(str, sorted(lengths)))} values; give each all."
                )
            value = [{key: value[key][k] for key in keys} for k in range(lengths.pop() if lengths else 0)]
        found = []
        for k, each in enumerate(value or []):
            here = f"{where}, object {k}"
            given: Any = each if isinstance(each, dict) else {}
            box: Any = given.get(box_key)
            good = (
                isinstance(box, list)
                and len(box) == 4
                and all(isinstance(v, int | float) and math.isfinite(v) for v in box)
            )
            if not good:
                raise ConvNextError(
                    f"{here}: {box_key!r} is {repr(box)[:80]}, and must be x, y, width and height in pixels. Correct it."
                )
            x, y, w, h = map(float, box)
            area: Any = given.get("area")
            known = isinstance(area, int | float) and math.isfinite(area)
            more = (None, given.get("iscrowd") in (1, True), float(area) if known else None)
            found.append((self._word(given.get(category_key), here), (x, y, w, h), more))
        return found


def _row_names(paths: list[str], prefix: str) -> list[str]:
    """Stable ids of the rows: their paths where these are names of files, all different, else numbers."""
    names = [path.replace("\\", "/") for path in paths]
    names = [PurePosixPath(name).name if name.startswith("/") else name for name in names]
    good = all(name and "\0" not in name and ".." not in name.split("/") and ":" not in name for name in names)
    if good and len(set(names)) == len(names):
        return names
    return [f"{prefix}/{i:08}" for i in range(len(paths))]
