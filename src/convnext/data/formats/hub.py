"""Datasets of the Hugging Face Hub by name, through the library `datasets`: hf:OWNER/NAME[:CONFIG][@REVISION].

The library downloads a dataset once and keeps it as Arrow files; these are read as those of `save_to_disk`. It runs no code
of the dataset's from version 4 on.
"""

import re
from pathlib import Path
from typing import Any

from convnext.data.formats.columns import Split
from convnext.data.formats.content import Content
from convnext.data.formats.rows import rows_content
from convnext.errors import ConvNextError
from convnext.extras import require
from convnext.recipes.reading import Reading

PREFIX = "hf:"
_NAME = re.compile(r"(?P<name>[^:@\s]+)(:(?P<config>[^:@\s]+))?(@(?P<revision>[^:@\s]+))?")


def is_hub(data: str) -> bool:
    """True if data is named as a dataset of the Hub."""
    return data.startswith(PREFIX)


def read_hub(data: str, reading: Reading) -> Content:
    """The images, labels and objects of a dataset of the Hub, or of a local folder that the library can load.

    Raises:
        ConvNextError: the library is missing, or cannot load it; as `rows_content`.
    """
    match = _NAME.fullmatch(data.removeprefix(PREFIX))
    if match is None:
        raise ConvNextError(
            f"{data!r} names no dataset; it must be hf:OWNER/NAME, hf:OWNER/NAME:CONFIG or ..@REVISION."
        )
    library = require("datasets", "hf")
    if int(library.__version__.partition(".")[0]) < 4:
        raise ConvNextError(
            f"The installed datasets {library.__version__} can run code that a dataset brings; version 4 or newer is needed. "
            "Install it: pip install 'datasets>=4'"
        )
    name = match["name"]
    try:
        loaded = library.load_dataset(name, match["config"], revision=match["revision"], keep_in_memory=False)
    except Exception as error:  # whatever a download raises
        said = " ".join(str(error).split())[:400]
        raise ConvNextError(
            f"datasets cannot load {name!r}: {said}. Check the name (hf:OWNER/NAME:CONFIG for one of several configurations) "
            "and the network; what was loaded once is read without it."
        ) from None
    splits = [_split(key, each, name) for key, each in (loaded.items() if hasattr(loaded, "items") else [("", loaded)])]
    return rows_content(splits, Path(name), f"Hugging Face datasets: {name}", reading)


def _split(key: str, dataset: Any, name: str) -> Split:
    """The Arrow files of a split, in the library's cache."""
    files = [Path(each["filename"]) for each in dataset.cache_files]
    if not files:
        raise ConvNextError(f"The split {key!r} of {name!r} has no rows. Take another configuration.")
    # images that the library downloaded are files in its caches, or in the local folder
    from huggingface_hub.constants import HF_HUB_CACHE

    local = (Path(name).expanduser().absolute(),) if Path(name).expanduser().exists() else ()
    caches = (files[0].parent, Path(HF_HUB_CACHE), *local)
    return Split(str(key), files, dataset.features.to_dict(), caches)
