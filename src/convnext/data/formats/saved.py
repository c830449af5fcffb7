"""Folders that `save_to_disk` of Hugging Face `datasets` writes; pyarrow reads them, the library is not needed.

photos/dataset_dict.json                   {"splits": ["train", "test"]}; a single dataset has only what is below
photos/train/dataset_info.json             "features": columns of images, class names
photos/train/state.json                    "_data_files": the Arrow files in their order
photos/train/data-00000-of-00001.arrow
"""

import json
from pathlib import Path
from typing import Any

from convnext.data.formats.columns import Split, is_objects
from convnext.data.formats.content import Content, inside, read_text
from convnext.data.formats.rows import rows_content
from convnext.errors import ConvNextError
from convnext.recipes.reading import Reading

SPLITS, INFO, STATE = "dataset_dict.json", "dataset_info.json", "state.json"
AGAIN = "Save it again with save_to_disk, or get a fresh copy of the folder."
MOST = 2**26
"""Bytes of a JSON file."""


def is_saved(root: Path) -> bool:
    """True if a folder has the files of `save_to_disk`, going by their names."""
    return (root / SPLITS).is_file() or ((root / STATE).is_file() and (root / INFO).is_file())


def has_objects(root: Path) -> bool:
    """True if a saved dataset has a column of boxes with categories; False where it cannot be read."""
    try:
        return any(is_objects(feature) for split in saved_splits(root) for feature in split.features.values())
    except ConvNextError:  # whoever reads it says so
        return False


def read_saved(root: Path, reading: Reading) -> Content:
    """The images, labels and objects of a saved dataset.

    Raises:
        ConvNextError: a file is missing or damaged, columns that cannot be told, a row that cannot be used.
    """
    if not is_saved(root):
        raise ConvNextError(
            f"{root} has no {SPLITS}, and no {STATE} with {INFO}: give the folder that save_to_disk wrote."
        )
    return rows_content(saved_splits(root), root, "Hugging Face datasets", reading)


def saved_splits(root: Path) -> list[Split]:
    """The splits of a folder. Raises ConvNextError: a file of JSON is missing or not as the library writes it."""
    if not (root / SPLITS).is_file():
        return [_split("", root)]
    names = _read(root / SPLITS).get("splits")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ConvNextError(f"{root / SPLITS} has no list 'splits' of names. {AGAIN}")
    return [_split(name, inside(root, name, str(root / SPLITS))[0]) for name in names]


def _split(name: str, folder: Path) -> Split:
    state, info = _read(folder / STATE), _read(folder / INFO)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise ConvNextError(
            f"{folder} was saved as rows of another dataset, which is not read. Save it as "
            "`dataset.flatten_indices().save_to_disk(folder)`."
        )
    listed = state.get("_data_files")
    names = (
        [each.get("filename") if isinstance(each, dict) else None for each in listed]
        if isinstance(listed, list)
        else []
    )
    if not names or not all(isinstance(each, str) for each in names):
        raise ConvNextError(f"{folder / STATE} has no list '_data_files' of file names. {AGAIN}")
    features = info.get("features")
    if not isinstance(features, dict):
        raise ConvNextError(f"{folder / INFO} has no 'features'. {AGAIN}")
    files = [inside(folder, str(each), str(folder / STATE))[0] for each in names]
    return Split(name, files, features, (folder,))


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(read_text(path, MOST))
    except json.JSONDecodeError as error:
        raise ConvNextError(f"{path}, line {error.lineno}, is not JSON: {error.msg}. {AGAIN}") from None
    except (ValueError, RecursionError) as error:
        raise ConvNextError(f"{path} is not JSON: {error}. {AGAIN}") from None
    if not isinstance(values, dict):
        raise ConvNextError(f"{path} is no object of JSON. {AGAIN}")
    return values
