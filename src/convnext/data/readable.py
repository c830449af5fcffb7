"""A check, before the first step of a run, that evaluation will be able to read its images."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from convnext.data.images import unreadable
from convnext.data.loader import Samples
from convnext.data.look import BLOCK
from convnext.errors import ConvNextError


def check_readable(
    samples: Samples,
    contents: int = 32,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ConvNextError | None:
    """Return the first problem that an evaluation of these samples would end with, or None.

    Headers and sizes of all images are read, in threads, where the dataset can (`check_header(i)`, which raises ImageError);
    images and targets are decoded of a small sample, evenly spaced.

    Args:
        contents: number of images that are decoded.
        threads: threads that read headers; None: one per core, at most 16.
        progress: called with (images done, images in total) every `BLOCK` images and at the end.
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
            for start in range(0, total, BLOCK):
                stop = min(start + BLOCK, total)
                list(pool.map(check_header, range(start, stop)))
                if progress:
                    progress(stop, total)
    except ConvNextError as error:
        return unreadable(str(error))
    return None
