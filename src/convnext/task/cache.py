"""The cache of decoded images of a run: what it will take, whether that is there, and the file."""

import errno
import hashlib
import os
import shutil
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import PIL
import torch

from convnext.data.cache import CachedImages, ImageCache, bounded_size, create, create_file
from convnext.data.images import ImageError, open_image
from convnext.errors import ConvNextError
from convnext.files import cache_folder, clear_leftovers
from convnext.recipes.schema import Recipe, Runtime
from convnext.runtime.memory import free_memory
from convnext.runtime.world import World
from convnext.task.spec import TaskSpec

LOOKED_AT = 64
"""Images whose sizes tell what all of them take."""
SHARE = 0.8
"""Of the free memory, or of the free disk, that a cache may take."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk on which there is no room for a file of this size."""


@dataclass(frozen=True)
class CachePlan:
    """Plan of a cache.

    Attributes:
        kind: "ram" or "disk"; side: images have at most side x side pixels.
        size: bytes that all images take, about; room: bytes that it may take, with those that it takes already.
        file: where it is; None in memory.
        scaled: share of the images that are scaled down.
    """

    kind: str
    side: int
    size: int
    room: int
    file: Path | None
    scaled: float

    def __str__(self) -> str:
        where = "memory" if self.file is None else str(self.file)
        small = f"none of more than {self.side} x {self.side} pixels was seen"
        pixels = (
            f"{self.scaled:.0%} of the images are scaled down to {self.side} x {self.side} pixels"
            if self.scaled
            else small
        )
        part = (
            f", of which {_gigabytes(self.room)} fit into {SHARE:.0%} of what is free: the other images are decoded each time"
            if self.size > self.room
            else ""
        )
        return f"{self.kind}, about {_gigabytes(self.size)} in {where}{part}; {pixels}"


def plan_cache(runtime: Runtime, images: Any, fingerprint: str) -> CachePlan:
    """Plan what the cache of these training images will be."""
    side, (mean, scaled) = runtime.cache_side, _sizes(images, runtime.cache_side)
    size, file = int(mean * len(images)), None
    if runtime.cache == "ram":
        free = free_memory(torch.device("cpu"))
    else:
        # the stamp of an image changes with its file and with the way it is turned
        words = f"{fingerprint} {images.stamp(0)} {side} {PIL.__version__}"
        file = cache_folder() / "images" / f"{hashlib.sha256(words.encode()).hexdigest()[:32]}.pixels"
        parent = next(folder for folder in file.parents if folder.exists())
        free = shutil.disk_usage(parent).free
        free += file.stat().st_blocks * 512 if file.exists() else 0
    return CachePlan(runtime.cache, side, size, int(SHARE * free), file, scaled)


def check_room(plan: CachePlan, images: int) -> None:
    """Raise ConvNextError if the cache of so many images will not fit into memory; on a disk, those that fit are kept."""
    if plan.size <= plan.room or plan.file is not None:
        return
    side = plan.side
    fitting = int(side * (plan.room / plan.size) ** 0.5) // 32 * 32
    less = f"take --runtime.cache-side {fitting} or less, " if fitting >= 64 else ""
    raise ConvNextError(
        f"The cache would take about {_gigabytes(plan.size)} for {images:,} images of at most {side} x {side} pixels, and may "
        f"take {_gigabytes(plan.room)}: {SHARE:.0%} of what is free in memory. Free some, {less}take "
        "--runtime.cache disk, or leave --runtime.cache out."
    )


def cache_rows(spec: TaskSpec, recipe: Recipe, images: Any) -> list[tuple[str, str]]:
    """The row about the cache in the table before a run.

    Raises:
        ConvNextError: the task takes no images from a cache, or it will not fit.
    """
    if recipe.runtime.cache == "off":
        return []
    if not spec.caches:
        raise ConvNextError(
            f"--runtime.cache is for classifiers, and a {spec.noun} needs images in full. Leave it out."
        )
    fingerprint = spec.fingerprint(images) if recipe.runtime.cache == "disk" else ""
    plan = plan_cache(recipe.runtime, images, fingerprint)
    check_room(plan, len(images))
    return [("cache", str(plan))]


def open_cache(plan: CachePlan, images: Any, world: World) -> tuple[CachedImages, ImageCache | None]:
    """The images through their cache, which all processes of a machine share; in memory it goes with the last of them.

    On a full disk there is none, and the images are what they are with one.

    Raises:
        ConvNextError: it cannot be created.
    """
    try:
        file = world.from_first_here(lambda: _created(plan, len(images)))
        if file is None:
            return CachedImages(images, None, plan.side), None
        cache = ImageCache(file, len(images), plan.side, plan.room)
        cache.reopen()
        if plan.file is None:
            world.any(False)  # all have opened it
            owner, handle = file.split("/")[2::2]
            if int(owner) == os.getpid():
                os.close(int(handle))
    except (OSError, ValueError) as error:
        raise _unusable(plan, error) from None
    return CachedImages(images, cache, plan.side), cache


def _created(plan: CachePlan, images: int) -> str | None:
    """The path of the cache's file; None if the disk is full."""
    if plan.file is None:
        return _in_memory(images, plan.side)
    try:
        clear_leftovers(plan.file.parent)
        create_file(plan.file, images, plan.side)
    except OSError as error:
        if error.errno in FULL:
            return None
        raise _unusable(plan, error) from None
    return str(plan.file)


def _unusable(plan: CachePlan, error: Exception) -> ConvNextError:
    return ConvNextError(
        f"The cache of images {plan.file or 'in memory'} cannot be used: {error}. Remove it, or leave --runtime.cache out."
    )


def _in_memory(images: int, side: int) -> str:
    """A file without a name, in memory, as a path that other processes of the same user can open."""
    if not hasattr(os, "memfd_create"):
        raise ConvNextError("--runtime.cache ram needs Linux. Take --runtime.cache disk.")
    handle = os.memfd_create("convnext-images")
    create(handle, images, side)
    return f"/proc/{os.getpid()}/fd/{handle}"


def _sizes(images: Any, side: int) -> tuple[float, float]:
    """Mean bytes of a bounded image, and the share of images that are scaled down, of some at equal distances."""
    sizes = []
    for i in range(0, len(images), -(-len(images) // LOOKED_AT)):
        try:
            source = images.source(i)
            if not isinstance(source, Path | bytes):
                sizes.append(source.size)
                continue
            with open_image(source) as image:
                sizes.append(image.size)
        except ImageError:
            continue
    bounded = [bounded_size(size, side) for size in sizes]
    pages = sum(-(-3 * width * height // PAGESIZE) for width, height in bounded)
    return pages * PAGESIZE / max(len(sizes), 1), sum(
        size != small for size, small in zip(sizes, bounded, strict=True)
    ) / max(len(sizes), 1)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
