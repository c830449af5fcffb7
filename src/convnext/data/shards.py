"""WebDataset shards: plain tar files of samples, each an image and its label, read at random through an index.

The members of a sample stand together and share a name up to its first dot: `0017.jpg` with `0017.cls` (the label as a
number) or `0017.json` (`{"label": 3}`). Beside each tar an index file, made in one pass when it is first opened, says where the
images are and what they are: it is memory-mapped, so all processes share one copy, and millions of samples are open at once.
"""

import hashlib
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convnext.data.images import IMAGE_EXTENSIONS, ImageError
from convnext.errors import ConvNextError
from convnext.files import replace

ENDING = ".convnext-index"
MAGIC = b"convnext shard index 1\n"
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
COLUMNS = (("offset", "<i8"), ("length", "<i8"), ("label", "<i4"), ("name_end", "<i8"))
LONGEST_LABEL = 1_000_000
"""Bytes of a .cls or .json file; more is no label."""
OPEN_FILES = 128
"""Shards that a process holds open."""


def is_shards(root: Path) -> bool:
    """True if a folder holds tar files, or folders `train` or `val` of them."""
    return any(next(root.glob(pattern), None) for pattern in ("*.tar", "train/*.tar", "val/*.tar"))


@dataclass
class Index:
    """Contents of a shard, as views of its memory-mapped index file.

    Attributes:
        offset, length: of each image in the tar, in bytes; label: of each; name_end: ends of their names in `names`.
        digest: SHA-256 of names and labels, in hexadecimal.
        state: size and time of the tar.
    """

    offset: np.ndarray
    length: np.ndarray
    label: np.ndarray
    name_end: np.ndarray
    names: np.ndarray
    digest: str
    state: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.label)

    def name(self, i: int) -> str:
        start = int(self.name_end[i - 1]) if i else 0
        return os.fsdecode(self.names[start : int(self.name_end[i])].tobytes())


def open_index(shard: Path) -> Index:
    """The index of a tar file, made anew where it is missing or older than the tar.

    Raises:
        ConvNextError: the tar is compressed, truncated or holds other things than samples; the index cannot be written.
    """
    file = shard.with_name(shard.name + ENDING)
    state = _state(shard)
    if (index := _read(file, state)) is not None:
        return index
    try:
        content = _pack(_scan(shard), state)
    except OSError as error:
        raise ConvNextError(f"Cannot read {shard}: {error.strerror}. Make the file readable.") from None
    try:
        replace(file, lambda aside: aside.write_bytes(content))
    except OSError as error:
        raise ConvNextError(
            f"The index of {shard} cannot be written beside it: {error.strerror}. Make the folder writable, or free some space."
        ) from None
    index = _read(file, state)
    assert index is not None
    return index


def open_index_alone(shard: Path) -> Index | None:
    """The index of a tar file that is not here; None if there is none, or it is damaged."""
    return _read(shard.with_name(shard.name + ENDING), None)


def _state(shard: Path) -> list[int]:
    try:
        state = shard.stat()
    except OSError as error:
        raise ConvNextError(f"Cannot read {shard}: {error.strerror}. Make the file readable.") from None
    return [state.st_size, state.st_mtime_ns]


def _read(file: Path, state: list[int] | None) -> Index | None:
    """The index in a file; None if there is none for a tar of this size and time (None: of any), or it is damaged."""
    try:
        content = np.memmap(file, np.uint8, "r")
        if content[: len(MAGIC)].tobytes() != MAGIC:
            return None
        room = int(content[len(MAGIC) : len(MAGIC) + 8].view("<i8")[0]) if len(content) > len(MAGIC) + 8 else 0
        start = len(MAGIC) + 8
        head = json.loads(content[start : start + room].tobytes())
        if (state is not None and head["tar"] != state) or head["size"] != len(content):
            return None
        arrays, at = {}, start + room
        for name, kind in COLUMNS:
            end = at + head["samples"] * np.dtype(kind).itemsize
            arrays[name], at = content[at:end].view(kind), end
        if at > len(content) or len(arrays["label"]) != head["samples"]:
            return None
        return Index(**arrays, names=content[at:], digest=head["digest"], state=tuple(map(int, head["tar"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _pack(samples: list[tuple[str, int, int, int]], state: list[int]) -> bytes:
    """The content of an index file."""
    names = [os.fsencode(name) for name, *_ in samples]
    table = np.array([numbers for _, *numbers in samples], dtype=np.int64).reshape(-1, 3).T
    name_end = np.cumsum([len(name) for name in names], dtype=np.int64)
    columns: dict[str, np.ndarray] = {"offset": table[0], "length": table[1], "label": table[2], "name_end": name_end}
    body = b"".join([*(columns[name].astype(kind).tobytes() for name, kind in COLUMNS), *names])
    digest = hashlib.sha256(columns["label"].astype("<i4").tobytes() + b"\0".join(names)).hexdigest()
    head: dict[str, Any] = {"tar": state, "samples": len(samples), "digest": digest, "size": 10**15}
    room = -(-(len(json.dumps(head)) + len(MAGIC) + 8) // 8) * 8 - len(MAGIC) - 8  # so that the numbers are aligned
    head["size"] = len(MAGIC) + 8 + room + len(body)
    return MAGIC + room.to_bytes(8, "little") + json.dumps(head).encode().ljust(room) + body


def _scan(shard: Path) -> list[tuple[str, int, int, int]]:
    """(name, offset, length, label) of each sample of a tar, in one pass."""
    with open(shard, "rb") as file:
        start = file.read(8)
        if kind := next((kind for magic, kind in COMPRESSED.items() if start.startswith(magic)), None):
            raise ConvNextError(
                f"{shard} is compressed ({kind}), so no image in it can be read by itself. Decompress it: images gain nothing."
            )
        samples: list[tuple[str, int, int, int]] = []
        key, found, label, size = "", None, None, os.fstat(file.fileno()).st_size
        try:
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    tar.members = []  # type: ignore[attr-defined]  # it would grow with the tar
                    if not member.isfile():
                        continue
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError("it ends within a file")
                    folder, _, base = member.name.rpartition("/")
                    stem, _, ending = base.partition(".")
                    if (name := f"{folder}/{stem}" if folder else stem) != key:
                        _complete(shard, samples, key, found, label)
                        key, found, label = name, None, None
                    if f".{ending.lower().rpartition('.')[2]}" in IMAGE_EXTENSIONS:
                        found = (member.offset_data, member.size)
                    elif ending in ("cls", "json"):
                        length = min(member.size, LONGEST_LABEL + 1)
                        label = _label(shard, member.name, os.pread(file.fileno(), length, member.offset_data))
        except tarfile.TarError as error:
            raise ConvNextError(
                f"{shard} is no tar file, or is truncated or damaged ({error}). Get a fresh copy of it."
            ) from None
    _complete(shard, samples, key, found, label)
    if not samples:
        raise ConvNextError(
            f"{shard} holds no sample: an image and its label, such as 0017.jpg and 0017.cls. Put some in."
        )
    return samples


def _complete(
    shard: Path, samples: list[tuple[str, int, int, int]], key: str, found: tuple[int, int] | None, label: int | None
) -> None:
    """Add a sample that has all its parts."""
    if found is None and label is None:
        return
    if found is None or label is None:
        missing = "image" if found is None else "label (.cls or .json)"
        raise ConvNextError(
            f"The sample {key!r} of {shard} has no {missing}. Add it: all files of a sample stand together in one tar, "
            "named alike up to the first dot; where a sample is cut by the end of a tar, write the tars again."
        )
    samples.append((key, *found, label))


def _label(shard: Path, name: str, content: bytes) -> int:
    try:
        if len(content) > LONGEST_LABEL:
            raise ValueError
        value = json.loads(content)
        value = value["label"] if isinstance(value, dict) else value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            raise ValueError
    except (ValueError, KeyError, RecursionError):
        raise ConvNextError(
            f'{name} in {shard} states no label: a .cls file holds a number from 0 on, a .json file has it as "label". Correct it.'
        ) from None
    return value


class ShardReader:
    """Reads parts of many files, of which some are held open; it travels to other processes without them."""

    def __init__(self, files: list[Path]):
        self.files = files
        self._open: dict[int, int] = {}

    def __getstate__(self) -> dict:
        return {"files": self.files, "_open": {}}

    def __del__(self):
        for handle in self._open.values():
            os.close(handle)

    def local(self, number: int) -> Path:
        """The path of file `number`. Raises ImageError if it cannot be had."""
        return self.files[number]

    def read(self, number: int, offset: int, length: int) -> bytes:
        """Bytes of file `number`. Raises ImageError if it is gone or was cut short."""
        file = self.files[number]
        try:
            if number not in self._open:
                if len(self._open) >= OPEN_FILES:
                    os.close(self._open.pop(next(iter(self._open))))
                self._open[number] = os.open(self.local(number), os.O_RDONLY)
            handle = self._open[number]
            # an index that came with its tar may say anything
            inside = offset >= 0 and 0 <= length <= os.fstat(handle).st_size - offset
            content = os.pread(handle, length, offset) if inside else b""
        except OSError as error:
            raise ImageError(f"Cannot read {file}: {error.strerror}.") from None
        if not inside or len(content) < length:
            raise ImageError(
                f"Cannot read {file}: its index points outside it. Remove {file.name}{ENDING}, or get a fresh copy of the tar."
            )
        return content
