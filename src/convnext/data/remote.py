"""Shards elsewhere, which are fetched as a whole when one of their images is wanted, or before."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from convnext.data.fetch import fetch, fetch_ahead
from convnext.data.images import ImageError
from convnext.data.shards import ENDING, Index, ShardReader, open_index, open_index_alone
from convnext.errors import ConvNextError
from convnext.files import cache_folder


def local_file(url: str) -> Path:
    """Where a file from elsewhere is kept: a folder for each folder there."""
    parent, _, name = url.rpartition("/")
    return cache_folder() / "shards" / hashlib.sha256(parent.encode()).hexdigest()[:16] / PurePosixPath(name).name


def fetch_indexes(urls: Sequence[str]) -> list[Path]:
    """The local paths of shards whose indexes are here, with `classes.txt` beside the first; tars without an index are fetched.

    Raises:
        ConvNextError: a shard cannot be fetched, or all of them will not fit on the disk.
    """
    files = [local_file(url) for url in urls]
    beside = (f"{urls[0].rpartition('/')[0]}/classes.txt", files[0].with_name("classes.txt"), False)
    indexes = [(url + ENDING, file.with_name(file.name + ENDING), False) for url, file in zip(urls, files, strict=True)]
    unknown = [each for each, file in zip(indexes, files, strict=True) if not file.exists()]
    fetch([beside, *unknown])
    whole = [(url, file, True) for url, file in zip(urls, files, strict=True) if remote_index(file) is None]
    fetch(whole)
    for _, file, _ in whole:
        open_index(file)
    missing = sum(index.state[0] for file in files if not file.exists() and (index := remote_index(file)))
    if missing > (free := shutil.disk_usage(files[0].parent).free):
        raise ConvNextError(
            f"The shards that are not here yet have {missing / 1e9:,.1f} GB, and the disk of {files[0].parent} has "
            f"{free / 1e9:,.1f} GB free. Free some, name fewer shards, or move the cache with CONVNEXT_CACHE."
        )
    return files


def remote_index(file: Path) -> Index | None:
    """The index of a shard that is here or will be."""
    return (
        open_index(file)
        if file.exists() and not file.with_name(file.name + ENDING).exists()
        else open_index_alone(file)
    )


class RemoteReader(ShardReader):
    """Reads parts of shards that come from elsewhere, and waits for those that are not here."""

    def __init__(self, urls: Sequence[str], files: list[Path]):
        super().__init__(files)
        self._urls = urls

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"_urls": self._urls}

    def local(self, number: int) -> Path:
        file = self.files[number]
        try:
            fetch([(self._urls[number], file, True)])
        except ConvNextError as error:
            raise ImageError(str(error)) from None
        index = open_index_alone(file)
        if index and file.stat().st_size != index.state[0]:
            raise ImageError(
                f"{self._urls[number]} has another size than its index says: write the index anew, and remove "
                f"{os.fspath(file)} and its index here."
            )
        return file

    def ahead(self, order: Sequence[int]) -> subprocess.Popen | None:
        """Fetch shards in this order while others work."""
        return fetch_ahead([(self._urls[number], self.files[number], True) for number in order])
