"""A check, before the first step of a run, that evaluation will be able to read its images."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from convnext.data.images import unreadable
from convnext.data.loader import Samples
from convnext.data.look import BLOCK
from convnext.errors import ConvNextError


def check_readable(
    samples: Samples,
    contents: int = 32,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    key: str = "",
    memory: Path | None = None,
) -> ConvNextError | None:
    """Return the first problem that an evaluation of these samples would end with, or None.

    Headers and sizes of all images are read, in threads, where the dataset can (`check_header(i)`, which raises ImageError);
    images and targets are decoded of a small sample, evenly spaced.

    Args:
        contents: number of images that are decoded.
        threads: threads that read headers; None: one per core, at most 16.
        progress: called with (images done, images in total) every `BLOCK` images and at the end.
        key: what is checked, as the data's fingerprint.
        memory: folder in which a check without a problem is remembered, by the key and the names, sizes and times of all files;
            while none of them has changed, their headers are not read again.
    """
    total, check_header = len(samples), getattr(samples, "check_header", None)
    try:
        for k in range(min(contents, total)):
            i = k * total // min(contents, total)
            samples.image(i)
            samples.target(i)
        if check_header is None:
            return None
        with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 16)) as pool:
            state = _state(samples, key, pool) if memory else None
            if memory and state and (memory / state).exists():
                return None
            for start in range(0, total, BLOCK):
                stop = min(start + BLOCK, total)
                list(pool.map(check_header, range(start, stop)))
                if progress:
                    progress(stop, total)
            if memory and state and state == _state(samples, key, pool):
                with suppress(OSError):  # a home that is full or read-only costs time alone
                    memory.mkdir(parents=True, exist_ok=True)
                    (memory / state).touch()
    except ConvNextError as error:
        return unreadable(str(error))
    return None


def _state(samples: Any, key: str, pool: ThreadPoolExecutor) -> str | None:
    """SHA-256 (hex) of the key and of name, size and times of every file; None where there are none, or one is missing."""

    def facts(i: int) -> str:
        found = [(os.path.abspath(path), os.stat(path)) for path in samples.files(i)]
        return "".join(f"\0{name}\0{s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}" for name, s in found)

    digest = hashlib.sha256(f"1 {key}".encode())
    try:
        empty = True
        for text in pool.map(facts, range(len(samples))):
            digest.update(text.encode("utf-8", "surrogateescape"))
            empty = empty and not text
    except OSError:
        return None
    return None if empty else digest.hexdigest()
