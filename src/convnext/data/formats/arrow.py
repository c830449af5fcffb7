"""Arrow files as Hugging Face `datasets` writes them: tables in mapped memory, and the images in one of their columns."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from convnext.data.formats.pictures import Pictures
from convnext.data.images import ImageError
from convnext.errors import ConvNextError


def open_table(path: Path) -> pa.Table:
    """The rows of a file in mapped memory: nothing is read but what is asked for.

    Raises:
        ConvNextError: it is not there, no Arrow, cut short, or has offsets that leave it.
    """
    try:
        mapped = pa.memory_map(str(path))
        table = pa.ipc.open_stream(mapped).read_all()
        table.validate(full=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        said = " ".join(str(error).split())[:200]
        raise ConvNextError(f"Cannot read {path} as an Arrow file: {said}. Get a fresh copy of it.") from None
    return table


def is_bytes(kind: pa.DataType) -> bool:
    """True if values of a type are bytes."""
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def is_picture(kind: pa.DataType) -> bool:
    """True if a type can hold encoded images: bytes, or {bytes, path}."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and is_bytes(kind.field("bytes").type)
    return is_bytes(kind)


class ArrowPictures(Pictures):
    """The images in a column of some Arrow files, by the row over all of them.

    Args:
        files: the files in their order.
        column: a column of bytes or of {bytes, path}, for which `is_picture`.
    """

    def __init__(self, files: list[Path], column: str):
        self._files, self._column = files, column
        self._chunks: list[pa.Array] = []
        self._ends = np.zeros(0, dtype=np.int64)
        self._owner: list[int] = []

    def __getstate__(self) -> dict[str, Any]:
        return {"_files": self._files, "_column": self._column, "_chunks": [], "_ends": self._ends[:0], "_owner": []}

    def source(self, row: int) -> bytes:
        chunk, place, _ = self._at(row)
        return chunk[place].as_py() or b""

    def state(self, row: int) -> tuple[int, ...]:
        found = self._files[self._at(row)[2]].stat()
        return found.st_size, found.st_mtime_ns, row

    def _at(self, row: int) -> tuple[pa.Array, int, int]:
        """The chunk that has a row, the row in it, and its file."""
        if not self._chunks:
            self._open()
        k = int(np.searchsorted(self._ends, row, side="right"))
        return self._chunks[k], int(row - (self._ends[k - 1] if k else 0)), self._owner[k]

    def _open(self) -> None:
        chunks, owner = [], []
        for number, path in enumerate(self._files):
            try:
                column = open_table(path).column(self._column)
            except (ConvNextError, KeyError) as error:
                raise ImageError(str(error)) from None
            found = [chunk for chunk in column.chunks if len(chunk)]
            chunks += [chunk.field("bytes") if pa.types.is_struct(chunk.type) else chunk for chunk in found]
            owner += [number] * len(found)
        self._ends, self._owner = np.cumsum([len(chunk) for chunk in chunks], dtype=np.int64), owner
        self._chunks = chunks  # last: another thread may be here
