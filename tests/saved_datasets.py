"""Folders as `save_to_disk` of Hugging Face `datasets` writes them, made with pyarrow alone."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

IMAGE = {"_type": "Image"}
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEXT = {"dtype": "string", "_type": "Value"}


def labelled(names: list[str]) -> dict:
    """The feature of a ClassLabel."""
    return {"names": names, "_type": "ClassLabel"}


def png(seed: int, size: tuple[int, int] = (8, 6)) -> bytes:
    """A file of noise, (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def save(folder: Path, columns: dict[str, pa.Array], features: dict, files: int = 2) -> Path:
    """A dataset in some Arrow files of several batches each."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    names = [f"data-{k:05}-of-{files:05}.arrow" for k in range(files)]
    each = -(-len(table) // files)
    for k, name in enumerate(names):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(k * each, each), max_chunksize=3)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


def save_splits(root: Path, splits: list[str]) -> Path:
    """The file that makes a dictionary of the splits below a folder."""
    (root / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    return root


def pictures(paths: list[str | None], first: int = 0, stored: bool = True) -> pa.Array:
    """A column of images, whose bytes are stored with their path."""
    rows = [{"bytes": png(first + i) if stored else None, "path": path} for i, path in enumerate(paths)]
    return pa.array(rows, PICTURE)
