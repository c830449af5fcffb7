"""Labelled images in WebDataset shards."""

import hashlib
import subprocess
from pathlib import Path

import numpy as np

from convnext.classification.dataset import ImageDataset, hold_out
from convnext.data.formats.content import read_text
from convnext.data.patterns import braces, matching_files
from convnext.data.remote import RemoteReader, fetch_indexes, remote_index
from convnext.data.shards import Index, ShardReader, open_index
from convnext.errors import ConvNextError

VAL_PARTS = ("val", "test")  # val begins valid and validation, too


class ShardDataset(ImageDataset):
    """The samples of some tar files, in the order of the files; an image is called `train-000.tar#0017`.

    Args:
        files: tar files as `data.shards` describes them.
        classes: class names in the order of the labels; default: "0" to "K-1".

    Raises:
        ConvNextError: a tar that cannot be read so, or a label beyond the classes.
    """

    def __init__(self, files: list[Path], classes: list[str] | None = None):
        self._files, self._reader = files, ShardReader(files)
        self._map()
        most = int(self.labels.max())
        if classes is not None and most >= len(classes):
            raise ConvNextError(
                f"The labels in {files[0].parent} go up to {most}, and classes.txt names {len(classes)} classes. Correct one "
                "of them."
            )
        self.classes = classes or [str(label) for label in range(most + 1)]

    def _map(self) -> None:
        self._shards = [self._index(file) for file in self._files]
        self._states = [shard.state for shard in self._shards]
        self._start = np.cumsum([0, *map(len, self._shards)])
        self.labels = np.concatenate([shard.label for shard in self._shards]).astype(np.int64)

    def _index(self, file: Path) -> Index:
        return open_index(file)

    def __getstate__(self) -> dict:
        """Without what another process maps for itself."""
        mapped = ("_shards", "_states", "_start", "labels")
        return {key: value for key, value in self.__dict__.items() if key not in mapped}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._map()

    def _at(self, i: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._start, i, "right")) - 1
        return number, int(i - self._start[number])

    def name(self, i: int) -> str:
        number, k = self._at(i)
        return f"{self._files[number].name}#{self._shards[number].name(k)}"

    def source(self, i: int) -> bytes:
        number, k = self._at(i)
        shard = self._shards[number]
        return self._reader.read(number, int(shard.offset[k]), int(shard.length[k]))

    def state(self, i: int) -> tuple[int, ...]:
        return self._states[self._at(i)[0]]

    def blocks(self) -> np.ndarray:
        return self._start

    def digest(self) -> str:
        """SHA-256 of names and labels, from the shards' own."""
        parts = [f"{file.name} {shard.digest}" for file, shard in zip(self._files, self._shards, strict=True)]
        return hashlib.sha256("\0".join([*self.classes, *parts]).encode("utf-8", "surrogateescape")).hexdigest()


class RemoteShardDataset(ShardDataset):
    """As `ShardDataset`, of tar files by URL: their indexes are fetched at once, each tar when it is wanted first."""

    def __init__(self, urls: list[str], classes: list[str] | None = None):
        files = fetch_indexes(urls)
        super().__init__(files, classes or _classes(files[0].parent))
        self._reader = RemoteReader(urls, files)

    def _index(self, file: Path) -> Index:
        index = remote_index(file)
        if index is None:
            raise ConvNextError(f"The index of {file} is damaged. Remove it, and it is fetched or made again.")
        return index

    def read_ahead(self, order: np.ndarray) -> subprocess.Popen | None:
        assert isinstance(self._reader, RemoteReader)
        return self._reader.ahead(order.tolist())


def open_urls(pattern: str, val_share: float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """As `open_pattern`, of URLs with braces.

    Raises:
        ConvNextError: as `ShardDataset`; a file cannot be fetched.
    """
    urls = braces(pattern)
    val = [url for url in urls if url.rpartition("/")[2].startswith(VAL_PARTS)]
    train = [url for url in urls if url not in set(val)]
    if not train:
        raise ConvNextError(f"{pattern!r} names validation shards alone. Name the training shards, too.")
    images = RemoteShardDataset(train)
    return (images, RemoteShardDataset(val, images.classes)) if val else hold_out(images, val_share, seed)


def open_pattern(pattern: str, val_share: float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """As `open_shards`, of the tar files that a pattern of braces or a glob names; those whose names begin with val or test are
    the validation part. `classes.txt` is beside the first.

    Raises:
        ConvNextError: as `ShardDataset`; a file of the pattern is not there.
    """
    files = matching_files(pattern)
    val = [file for file in files if file.name.startswith(VAL_PARTS)]
    train = [file for file in files if file not in set(val)]
    if not train:
        raise ConvNextError(f"{pattern!r} names validation shards alone. Name the training shards, too.")
    images = ShardDataset(train, _classes(train[0].parent))
    return (images, ShardDataset(val, images.classes)) if val else hold_out(images, val_share, seed)


def open_pattern_for_evaluation(pattern: str) -> ImageDataset:
    """All images of the shards that a pattern names, of whichever part."""
    files = matching_files(pattern)
    return ShardDataset(files, _classes(files[0].parent))


def open_shards(root: Path, val_share: float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """The (train, val) images of `train*.tar` and the first of `val*.tar`, `test*.tar`, or of folders of these names.

    Without the latter, `val_share` of each class is held out by `seed`. `classes.txt` has the names of the classes, one a
    line.

    Raises:
        ConvNextError: as `ShardDataset`; no training part.
    """
    train, val = _parts(root)
    if not train:
        raise ConvNextError(f"{root} has no training shards. Name them train*.tar, or put them into {root}/train.")
    classes = _classes(root)
    images = ShardDataset(train, classes)
    return (images, ShardDataset(val, images.classes)) if val else hold_out(images, val_share, seed)


def open_shards_for_evaluation(root: Path, val_share: float, seed: int) -> ImageDataset:
    """The validation images as in `open_shards`, which here may also be there alone."""
    train, val = _parts(root)
    if val and not train:
        return ShardDataset(val, _classes(root))
    return open_shards(root, val_share, seed)[1]


def _parts(root: Path) -> tuple[list[Path], list[Path]]:
    def named(prefix: str) -> list[Path]:
        return sorted(root.glob(f"{prefix}*.tar")) or sorted(root.glob(f"{prefix}*/*.tar"))

    val = next(filter(None, map(named, VAL_PARTS)), [])
    every = sorted(root.glob("*.tar"))
    return named("train") or [file for file in every if file not in val], val


def _classes(root: Path) -> list[str] | None:
    path = root / "classes.txt"
    return read_text(path).splitlines() if path.is_file() else None
