"""Tables: CSV, TSV and JSON lines with a row for each image, or for each image and label.

    file,label,split            one label
    cats/1.jpg,cat,train
    file,labels                 several: separated, or a list in JSON lines
    1.jpg,cat|sofa
    file,cat,dog,sofa           several: one column each, 0 and 1
    1.jpg,1,0,1

Columns are found by their names, or by what is in them; `Reading` names them where that is not enough.
"""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from convnext.data.conventions import VAL_NAMES
from convnext.data.formats.content import Content, Item, inside, listed_classes, part_of, read_text
from convnext.data.images import IMAGE_EXTENSIONS
from convnext.errors import ConvNextError, nearest
from convnext.recipes.reading import Reading

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson")
STEMS = ("labels", "annotations", "metadata", "dataset", "data", "images", "index")
FILE_COLUMNS = (
    "file",
    "file_name",
    "filename",
    "image",
    "image_path",
    "filepath",
    "file_path",
    "path",
    "img",
    "image_id",
    "id",
)
LABEL_COLUMNS = ("label", "labels", "class", "classes", "category", "categories", "target", "tags", "class_name", "y")
SPLIT_COLUMNS = ("split", "part", "subset", "set", "partition")
SEPARATORS = ("|", ";")
"""Separators of labels that need not be named; a comma may be part of a name."""
BITS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


@dataclass
class Table:
    """A table as text: column names, and for each row its line and its cells."""

    path: Path
    header: list[str]
    rows: list[tuple[int, list[Any]]]

    def where(self, line: int) -> str:
        return f"{self.path}, line {line}"

    def column(self, name: str) -> int:
        """Raises ConvNextError: there is no such column."""
        if name not in self.header:
            raise ConvNextError(
                f"{self.path} has no column {name!r}.{nearest(name, self.header)} It has: {', '.join(self.header)}."
            )
        return self.header.index(name)


@dataclass(frozen=True)
class Columns:
    """Positions of the columns: the file, the labels (several: one for each class), the split."""

    file: int
    labels: list[int]
    split: int | None


def find_tables(root: Path) -> list[tuple[Path, str]]:
    """The tables of a folder with the part that each is of: one of `STEMS`, or train and val; or `root` itself."""
    if root.is_file():
        return [(root, "")] if root.suffix.lower() in ENDINGS else []
    for stem in STEMS:
        for ending in ENDINGS:
            if (path := root / f"{stem}{ending}").is_file():
                return [(path, "")]
    for ending in ENDINGS:
        if (train := root / f"train{ending}").is_file():
            names = [name for name in VAL_NAMES if name != "test"]  # a test table mostly has no labels
            val = next((path for name in names if (path := root / f"{name}{ending}").is_file()), None)
            return [(train, "train" if val else ""), *([(val, "val")] if val else [])]
    return []


def is_table(root: Path) -> bool:
    return bool(find_tables(root))


def read_tables(root: Path, reading: Reading) -> Content:
    """The images and labels of a table, or of the tables of a folder.

    Raises:
        ConvNextError: no table, columns that cannot be told, a row without a file or label; it names file and line.
    """
    found = find_tables(root)
    if not found:
        raise ConvNextError(
            f"{root} has no table: name the file itself, or call it {STEMS[0]}{ENDINGS[0]}. Endings are {', '.join(ENDINGS)}."
        )
    tables = [read_table(path) for path, _ in found]
    columns = [find_columns(table, reading) for table in tables]
    several = [[table.header[k] for k in column.labels] for table, column in zip(tables, columns, strict=True)]
    wide = len(several[0]) > 1
    if wide and several[0] != several[-1]:
        raise ConvNextError(f"{found[0][0]} and {found[-1][0]} have different columns of labels. Give both the same.")
    texts = [_texts(table, column, reading) for table, column in zip(tables, columns, strict=True)]
    multi = wide or reading.separator is not None or any(isinstance(each, list) for cells in texts for each in cells)
    names = {name for cells in texts for each in cells for name in (each if isinstance(each, list) else [each])}
    classes = several[0] if wide else listed_classes(root.parent if root.is_file() else root, names)
    label_of = {name: label for label, name in enumerate(classes)}
    items: dict[tuple[str, str], Item] = {}
    problems: list[str] = []
    for (_, part), table, column, cells in zip(found, tables, columns, texts, strict=True):
        base, ending = _base(table, column, reading)
        for (line, row), cell in zip(table.rows, cells, strict=True):
            where = table.where(line)
            file, name = inside(base, str(row[column.file]) + ending(str(row[column.file])), where)
            side = _part(table, row, column, line) or part
            labels = tuple(sorted({label_of[text] for text in (cell if isinstance(cell, list) else [cell])}))
            item = Item(name, file, side, labels, where=where)
            if (before := items.setdefault((side, name), item)) is not item:
                _merge(before, item, multi, classes, problems)
    left_out = [key for key in items if key[0] == "test"]
    parts = {part for part, _ in items}
    notes = []
    if "val" in parts and left_out:
        notes.append(f"{len(left_out):,} rows of the test part are left out.")
        items = {key: item for key, item in items.items() if key[0] != "test"}
    for item in items.values():
        item.part = "val" if item.part == "test" else item.part
    kind = "JSON lines" if found[0][0].suffix.lower() in ENDINGS[2:] else found[0][0].suffix[1:].upper()
    return Content(kind, found[0][0], classes, list(items.values()), multi, notes, problems)


def read_table(path: Path) -> Table:
    """Raises ConvNextError: no rows, a row of another length, not UTF-8, not JSON; with the line."""
    text = read_text(path)
    if path.suffix.lower() in ENDINGS[2:]:
        table = _read_json_lines(path, text)
    else:
        table = _read_csv(path, text)
    if not table.rows:
        raise ConvNextError(f"{path} has no rows. Get a complete file.")
    return table


def _read_csv(path: Path, text: str) -> Table:
    first = text.lstrip().split("\n", 1)[0]
    counts = {delimiter: first.count(delimiter) for delimiter in ("\t", ",", ";")}
    delimiter = max(counts, key=lambda each: counts[each])
    rows: list[tuple[int, list[Any]]] = []
    if not counts[delimiter] and len(first.split()) > 1:
        rows = [(line, row) for line, text in enumerate(text.split("\n"), 1) if (row := text.split())]
    else:
        reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
        except csv.Error as error:
            raise ConvNextError(
                f"{path}, line {reader.line_num}: {error}. Check its quotes, or save the table again as CSV."
            ) from None
    if not rows:
        return Table(path, [], [])
    if any(_is_image(cell) for cell in rows[0][1]):  # no header
        header = [str(k) for k in range(1, len(rows[0][1]) + 1)]
    else:
        header, rows = rows[0][1], rows[1:]
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise ConvNextError(f"{path} has two columns {twice!r}. Give each its own name.")
    for line, row in rows:
        if len(row) != len(header):
            raise ConvNextError(
                f"{path}, line {line}, has {len(row)} cells, and the first line {len(header)}. Correct the line; a comma "
                'inside a cell needs "quotes".'
            )
    return Table(path, header, rows)


def _read_json_lines(path: Path, text: str) -> Table:
    header: list[str] = []
    rows: list[tuple[int, list[Any]]] = []
    for line, each in enumerate(text.split("\n"), 1):
        if not each.strip():
            continue
        try:
            entry = json.loads(each)
        except (ValueError, RecursionError) as error:
            said = getattr(error, "msg", None) or error  # its own numbers count in this line alone
            raise ConvNextError(
                f"{path}, line {line}, is not JSON: {said}. Correct it: each line is one object."
            ) from None
        if not isinstance(entry, dict):
            raise ConvNextError(f'{path}, line {line}, is no object like {{"file": "1.jpg", "label": "cat"}}.')
        header = header or list(entry)
        rows.append((line, [entry.get(key) for key in header]))
    return Table(path, header, rows)


def find_columns(table: Table, reading: Reading) -> Columns:
    """Find the columns by what `reading` says, else by their names, else by what is in them.

    Raises:
        ConvNextError: it cannot be told which they are.
    """

    def named(wanted: tuple[str, ...]) -> int | None:
        lower = [name.lower().replace(" ", "_") for name in table.header]
        return next((lower.index(name) for name in wanted if name in lower), None)

    known = ", ".join(table.header)
    samples = [row for _, row in table.rows[:20]]
    if reading.file_column:
        file = table.column(reading.file_column)
    else:
        looks = [k for k in range(len(table.header)) if all(_is_image(row[k]) for row in samples)]
        by_name = named(FILE_COLUMNS)
        found = by_name if by_name in looks or not looks else looks[0]
        if found is None:
            raise ConvNextError(
                f"{table.path}: which column has the image files? Give --read.file-column, one of: {known}."
            )
        file = found
    split = table.column(reading.split_column) if reading.split_column else named(SPLIT_COLUMNS)
    if reading.label_columns:
        return Columns(file, [table.column(name) for name in reading.label_columns], split)
    by_name = named(LABEL_COLUMNS)
    if by_name is not None and by_name != file:
        return Columns(file, [by_name], split)
    rest = [k for k in range(len(table.header)) if k not in (file, split)]
    bits = all(str(row[k]).lower() in BITS for _, row in table.rows for k in rest)
    if len(rest) == 1 or (rest and bits):
        return Columns(file, rest, split)
    raise ConvNextError(
        f"{table.path}: which columns have the labels? Give --read.label-columns, one or more of: {known}."
    )


def _texts(table: Table, columns: Columns, reading: Reading) -> list[str | list[str]]:
    """For each row its label as text, or a list of those that an image with several has."""
    if len(columns.labels) > 1:
        return [_of_bits(table, line, row, columns.labels) for line, row in table.rows]
    (column,) = columns.labels
    values = [row[column] for _, row in table.rows]
    separator = reading.separator
    if separator is None:
        separator = next((s for s in SEPARATORS if any(isinstance(v, str) and s in v for v in values)), None)
    lists = separator is not None or any(isinstance(value, list) for value in values)
    texts: list[str | list[str]] = []
    for (line, _), value in zip(table.rows, values, strict=True):
        if isinstance(value, list):
            texts.append([_text(table, line, each) for each in value])
        elif lists:
            whole = "" if value is None else _text(table, line, value, empty=True)
            parts = re.split(r"\s+", whole) if separator == " " else whole.split(separator) if separator else [whole]
            texts.append([part.strip() for part in parts if part.strip()])
        else:
            texts.append(_text(table, line, value))
    return texts


def _of_bits(table: Table, line: int, row: list[Any], columns: list[int]) -> list[str]:
    for k in columns:
        if str(row[k]).lower() not in BITS:
            raise ConvNextError(
                f"{table.where(line)}: {table.header[k]!r} is {row[k]!r}, and must be 0 or 1. Correct it or leave the row out."
            )
    return [table.header[k] for k in columns if BITS[str(row[k]).lower()]]


def _text(table: Table, line: int, value: Any, empty: bool = False) -> str:
    if isinstance(value, str | int) and not isinstance(value, bool) and (str(value).strip() or empty):
        return str(value).strip()
    if value is None or value == "":
        raise ConvNextError(f"{table.where(line)} has no label. Add it, or leave the row out.")
    raise ConvNextError(f"{table.where(line)}: {value!r} is no label; it must be a name, or a list of names.")


def _part(table: Table, row: list[Any], columns: Columns, line: int) -> str:
    if columns.split is None:
        return ""
    if part := part_of(str(row[columns.split])):
        return part
    name = table.header[columns.split]
    raise ConvNextError(f"{table.where(line)}: {name!r} is {row[columns.split]!r}, and must be train, val or test.")


def _merge(before: Item, item: Item, multi: bool, classes: list[str], problems: list[str]) -> None:
    """A second row about the same image: one more label of several, or a mistake."""
    if before.labels == item.labels:
        problems.append(f"{item.where} repeats {before.name!r}.")
    elif multi:
        before.labels = tuple(sorted({*before.labels, *item.labels}))
    else:
        one, other = (classes[each.labels[0]] for each in (before, item))
        raise ConvNextError(
            f"{item.where}: {before.name!r} is {other!r} here and {one!r} in {before.where}. Correct one; if images have "
            "several labels, give --read.separator with what stands between them, such as '|'."
        )


def _base(table: Table, columns: Columns, reading: Reading) -> tuple[Path, Callable[[str], str]]:
    """The folder of the images, and a function that gives the ending that a name lacks.

    Raises:
        ConvNextError: none of the first images is there.
    """
    folder = table.path.parent
    folders = [Path(reading.images).expanduser()] if reading.images else [folder, folder / "images", folder / "train"]
    first = [(line, str(row[columns.file]).strip()) for line, row in table.rows[:20]]
    for base in folders:
        for line, name in first:
            if inside(base, name, table.where(line))[0].is_file():
                return base, lambda name: ""
    for base in folders:  # names without ending
        for ending in sorted(IMAGE_EXTENSIONS):
            if any(not _is_image(name) and (base / f"{Path(name).name}{ending}").is_file() for _, name in first):
                return base, lambda name, ending=ending: "" if _is_image(name) else ending
    raise ConvNextError(
        f"The images of {table.path} are not there: looked for {first[0][1]!r} (line {first[0][0]}) in "
        f"{', '.join(map(str, folders))}. Give their folder with --read.images."
    )


def _is_image(value: Any) -> bool:
    return isinstance(value, str) and Path(value.strip()).suffix.lower() in IMAGE_EXTENSIONS
