"""The images below a folder. Large folders are walked once: what was found is kept, with the time of each folder in it.

A folder whose time is as it was holds the same names, and is not listed again: a look at 22 thousand folders instead of at 14
million names. Of several processes that start together the first walks, and the others take what it found.
"""

import hashlib
import json
import os
import time
from pathlib import Path

from filelock import FileLock

from convnext.data.images import IMAGE_EXTENSIONS
from convnext.errors import ConvNextError
from convnext.files import cache_folder, replace

MAGIC = b"convnext walk 1\n"
LARGE = 10_000
"""Images from which a walk is kept."""
RACY = 2_000_000_000
"""Nanoseconds between the last change of a folder and its listing, below which a change may have been missed."""

Entries = list[bytes]
"""What counts in a folder, sorted: images, and folders with a slash at the end; nothing hidden."""


def images_by_folder(root: Path) -> dict[str, list[bytes]]:
    """Paths of the images below each folder in `root`, relative to it, in the order of their names, folders among them.

    Raises:
        ConvNextError: a folder cannot be listed.
    """
    walk = _Walk(root)
    found = walk.all()
    walk.keep()
    return found


def visible(folder: str | Path) -> list[tuple[str, bool]]:
    """(name, is a folder) of all that is visible in a folder, sorted. Raises ConvNextError if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise ConvNextError(
            f"Cannot list {error.filename or folder}: {error.strerror}. Make it readable or remove it."
        ) from None


class _Walk:
    """Listings of the folders below a root: those that are known, if their time is the same, and new ones."""

    def __init__(self, root: Path):
        self._root = root
        name = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:32]
        self._file = cache_folder() / "walks" / name
        self._known = _read(self._file)
        self._listed: dict[str, tuple[int, Entries]] = {}
        self._images, self._new, self._lock = 0, False, None

    def all(self) -> dict[str, list[bytes]]:
        folders = [entry[:-1] for entry in self._entries("") if entry.endswith(b"/")]
        found: dict[str, list[bytes]] = {}
        for folder in folders:
            found[os.fsdecode(folder)] = paths = []
            self._add(folder, paths)
        return found

    def _add(self, folder: bytes, paths: list[bytes]) -> None:
        for entry in self._entries(os.fsdecode(folder)):
            if entry.endswith(b"/"):
                self._add(folder + b"/" + entry[:-1], paths)
            else:
                paths.append(folder + b"/" + entry)

    def _entries(self, folder: str) -> Entries:
        if self._images >= LARGE and self._new and self._lock is None:
            self._wait()
        path = os.path.join(self._root, folder)
        changed = _changed(path)
        known = self._known.get(folder)
        if known is None or known[0] != changed:
            self._new = True
            began = time.time_ns()
            known = (changed if began - changed > RACY else -1, _list(path))
        self._listed[folder] = known
        self._images += len(known[1])
        return known[1]

    def _wait(self) -> None:
        """Take the lock of this walk, and what another process may have found while it had it."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._file.with_suffix(".lock"))
            self._lock.acquire()
        except OSError:  # then every process walks for itself
            self._new = False
            return
        self._known = _read(self._file)
        self._new = not self._known

    def keep(self) -> None:
        """Write what was found, if it is much and new."""
        try:
            if self._new and self._images >= LARGE:
                content = _pack(self._listed)
                replace(self._file, lambda aside: aside.write_bytes(content))
        except OSError:
            pass  # it is found again next time
        finally:
            if self._lock is not None:
                self._lock.release()


def _changed(folder: str) -> int:
    """Nanoseconds of a folder's last change; -2, which no listing has, where it cannot be asked."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return -2


def _list(folder: str) -> Entries:
    return [
        os.fsencode(name) + b"/" * is_folder
        for name, is_folder in visible(folder)
        if is_folder or os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS
    ]


def _pack(listed: dict[str, tuple[int, Entries]]) -> bytes:
    parts = [b"\0".join(entries) for _, entries in listed.values()]
    body = b"".join(parts)
    folders = [[name, changed, len(part)] for (name, (changed, _)), part in zip(listed.items(), parts, strict=True)]
    head = {"extensions": sorted(IMAGE_EXTENSIONS), "folders": folders}
    text = json.dumps(head).encode()
    checked = len(text).to_bytes(8, "little") + text + body
    return MAGIC + hashlib.blake2b(checked, digest_size=16).digest() + checked


def _read(file: Path) -> dict[str, tuple[int, Entries]]:
    """Read what a walk has kept; nothing if it is damaged, or of another version."""
    try:
        content = memoryview(file.read_bytes())
        checked = content[len(MAGIC) + 16 :]
        if (
            content[: len(MAGIC)] != MAGIC
            or hashlib.blake2b(checked, digest_size=16).digest() != content[len(MAGIC) :][:16]
        ):
            return {}
        at = 8 + int.from_bytes(checked[:8], "little")
        head = json.loads(bytes(checked[8:at]))
        if head["extensions"] != sorted(IMAGE_EXTENSIONS):
            return {}
        found = {}
        for name, changed, length in head["folders"]:
            part, at = bytes(checked[at : at + length]), at + length
            found[name] = (changed, part.split(b"\0") if part else [])
        return found
    except (OSError, ValueError, KeyError, TypeError):
        return {}
