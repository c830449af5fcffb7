"""Decoded images in one file that all processes map into memory, so that an image is decoded once and not once an epoch.

The file has a place of fixed size for each image, of which the parts that nothing was written to take no room (it is sparse),
and a table of what is there. An entry of the table is written after its pixels, with their checksum: a kill leaves an image
there or not there. The checksum is compared when an entry comes from before the last start of the machine or from another
one, where the order of writing says nothing.
"""

import errno
import os
import secrets
import struct
import zlib
from contextlib import suppress
from hashlib import blake2b
from mmap import ACCESS_READ, PAGESIZE, mmap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convnext.data.regions import Choose, Region, cut_array
from convnext.files import sync

MAGIC = b"convnext image cache 1\n"
HEAD = 4096
"""Bytes before the table: `MAGIC`, and at `FULL` one that says that the file cannot grow."""
FULL = HEAD - 1
ENTRY = struct.Struct("<QIIIIIQ")
"""stamp of the source, checksum, height, width, height and width of the original, seal: 36 bytes."""
UNSEALED = struct.Struct("<QIIIII")


def bounded_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) of an image, scaled down where it has more than `side` x `side` pixels."""
    width, height = size
    scale = min(1.0, side / (width * height) ** 0.5)
    width = min(max(int(width * scale), 1), side * side)
    return width, max(min(int(height * scale), side * side // width), 1)


def bounded(images: Any, i: int, side: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Pixels (h, w, 3) uint8 of image i of at most `side` x `side` pixels, and (width, height) of the original.

    A function of the image alone: an image that is too large is decoded at a fraction of its size where the format can, and
    scaled by Pillow's bicubic filter.
    """
    sizes = []

    def whole(size: tuple[int, int]) -> Region:
        sizes.append(size)
        return Region(0, 0, *size, bounded_size(size, side))

    pixels = images.region(i, whole)
    wanted = bounded_size(sizes[0], side)
    if wanted != (pixels.shape[1], pixels.shape[0]):
        pixels = np.asarray(Image.fromarray(pixels).resize(wanted, Image.Resampling.BICUBIC))
    return pixels, sizes[0]


class ImageCache:
    """Pixels of some of `images` images of at most `side` x `side` pixels, in a file that processes share.

    Args:
        file: what `create` made.
        room: bytes that the file may take; None for no limit but the disk's.
    """

    def __init__(self, file: str | Path, images: int, side: int, room: int | None = None):
        self._side, self._room = side, room
        self._place = -(-side * side * 3 // PAGESIZE) * PAGESIZE
        self._start = _table_end(images)
        self._handle = os.open(file, os.O_RDWR)
        if str(file).startswith("/proc/"):  # in memory: by this process's own handle, whatever becomes of the other
            file = f"/proc/{os.getpid()}/fd/{self._handle}"
        self._arguments = file, images, side, room
        if os.fstat(self._handle).st_size != self._start + images * self._place:
            raise ValueError(f"{file} is of another size")
        self._map = mmap(self._handle, 0, access=ACCESS_READ)
        self._boot = _boot()

    def __getstate__(self) -> tuple:
        return self._arguments

    def __setstate__(self, state: tuple) -> None:
        self.__init__(*state)

    def __del__(self):
        if hasattr(self, "_handle"):
            os.close(self._handle)

    @property
    def full(self) -> bool:
        """True when a process could not write."""
        return self._map[FULL] != 0

    def reopen(self) -> None:
        """Try again to write."""
        os.pwrite(self._handle, b"\0", FULL)

    def size(self) -> int:
        """Bytes that the file takes."""
        return os.fstat(self._handle).st_blocks * 512

    def get(self, i: int, stamp: int) -> tuple[np.ndarray, tuple[int, int]] | None:
        """As `bounded`, of image i whose source has this stamp: a view of the file; None if it is not there."""
        at = HEAD + i * ENTRY.size
        content = self._map[at : at + ENTRY.size]
        known, checksum, height, width, whole_height, whole_width, seal = ENTRY.unpack(content)
        if known != stamp or not 0 < height * width <= self._side * self._side or not whole_height * whole_width:
            return None
        start = self._start + i * self._place
        flat = np.frombuffer(self._map, np.uint8, height * width * 3, start)
        if seal != self._seal(i, content[: UNSEALED.size]):
            if zlib.crc32(flat.data, zlib.crc32(content[12 : UNSEALED.size])) != checksum:
                return None
            self._write_entry(i, content[: UNSEALED.size])
        return flat.reshape(height, width, 3), (whole_width, whole_height)

    def put(self, i: int, stamp: int, pixels: np.ndarray, whole: tuple[int, int]) -> None:
        """Keep what `bounded` gave of image i; where there is no room, nothing happens but that `full` becomes true."""
        if self.full:
            return
        height, width = pixels.shape[:2]
        sizes = struct.pack("<IIII", height, width, whole[1], whole[0])
        flat = np.ascontiguousarray(pixels).reshape(-1)
        checksum = zlib.crc32(flat.data, zlib.crc32(sizes))
        start = self._start + i * self._place
        try:
            if any(self._map[HEAD + i * ENTRY.size : HEAD + (i + 1) * ENTRY.size]):  # of another source
                os.pwrite(self._handle, bytes(ENTRY.size), HEAD + i * ENTRY.size)
            if self._room is not None and self.size() + len(flat) > self._room:
                raise OSError
            for begin in range(0, len(flat), 1 << 30):  # a write may be shorter than asked for
                part = flat[begin : begin + (1 << 30)]
                if os.pwrite(self._handle, part.data, start + begin) < len(part):
                    raise OSError
            self._write_entry(i, struct.pack("<QI", stamp, checksum) + sizes)
        except OSError:
            with suppress(OSError):
                os.pwrite(self._handle, b"\1", FULL)  # of a page that is there

    def _write_entry(self, i: int, unsealed: bytes) -> None:
        seal = struct.pack("<Q", self._seal(i, unsealed))
        os.pwrite(self._handle, unsealed + seal, HEAD + i * ENTRY.size)

    def _seal(self, i: int, unsealed: bytes) -> int:
        """Changes with every byte of an entry and with every start of the machine."""
        return int.from_bytes(blake2b(self._boot + struct.pack("<q", i) + unsealed, digest_size=8).digest(), "little")


def create(handle: int, images: int, side: int) -> None:
    """Make an empty, open file a cache without images.

    The table is written in full: where a disk in memory is full, reading a part that nothing was written to kills a process.
    """
    place = -(-side * side * 3 // PAGESIZE) * PAGESIZE
    end = _table_end(images)
    os.ftruncate(handle, end + images * place)
    for begin in range(0, end, 1 << 20):
        part = (b"" if begin else MAGIC).ljust(min(1 << 20, end - begin), b"\0")
        if os.pwrite(handle, part, begin) < len(part):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def create_file(file: Path, images: int, side: int) -> None:
    """`create` at a path, unless a cache is there already."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        return
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        handle = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            create(handle, images, side)
        finally:
            os.close(handle)
        sync(aside)
        os.replace(aside, file)  # of two that come at once, one keeps a file without a name to its end
        sync(file.parent)
    finally:
        aside.unlink(missing_ok=True)


def _table_end(images: int) -> int:
    return -(-(HEAD + images * ENTRY.size) // PAGESIZE) * PAGESIZE


def _boot() -> bytes:
    """A mark that changes with every start of the machine; of every process where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return secrets.token_bytes(16)


class CachedImages:
    """The training images of a loader, decoded once: `data.loader.Samples` with `region`, as `TrainSamples` asks of them.

    What is kept is not the image but `bounded`, and an image is cut from that when it comes for the first time, too: so what
    a training sees does not depend on what the cache held, or whether there is one.
    """

    def __init__(self, images: Any, cache: ImageCache | None, side: int):
        self._images, self._cache, self._side = images, cache, side

    def __len__(self) -> int:
        return len(self._images)

    def name(self, i: int) -> str:
        return self._images.name(i)

    def target(self, i: int) -> Any:
        return self._images.target(i)

    def region(self, i: int, choose: Choose) -> np.ndarray:
        """The part of image i that `choose` asks for, (h, w, 3) uint8. Raises ImageError if it cannot be decoded."""
        stamp = self._images.stamp(i)
        found = None if self._cache is None else self._cache.get(i, stamp)
        if found is None:
            found = bounded(self._images, i, self._side)
            if self._cache is not None:
                self._cache.put(i, stamp, *found)
        pixels, whole = found
        return cut_array(pixels, choose(whole), whole)
