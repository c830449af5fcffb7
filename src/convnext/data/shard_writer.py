"""Write shards: the same images give the same bytes, and a write that was killed goes on where it stopped."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from convnext.data.images import open_image
from convnext.data.sampler import epoch_order
from convnext.data.shards import open_index
from convnext.errors import ConvNextError
from convnext.files import clear_leftovers, replace, replace_text

PLAN = "shards.json"
BLOCK = 512
"""Bytes of a tar's header, and of the unit that its files are padded to."""
ENDINGS = {"JPEG": "jpg", "JPEG2000": "jp2", "TIFF": "tif"}


class Labelled(Protocol):
    """The images that can be written."""

    def __len__(self) -> int: ...
    def name(self, i: int) -> str: ...
    def source(self, i: int) -> Path | bytes | Image.Image: ...
    def target(self, i: int) -> Any: ...


def write_shards(
    images: Labelled,
    folder: Path,
    plan: dict,
    size: int,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> int:
    """Write the images in a fixed random order into `folder/000000.tar` and on, each with its index; returns their number.

    Encoded images are copied as they are, others are written as PNG. Of a folder that holds a part of them already, what is
    whole stays.

    Args:
        plan: what the shards are made of, for telling whether a folder holds the same.
        size: bytes of a shard, at most, except of one that holds a single larger image.

    Raises:
        ConvNextError: the folder holds something else; an image cannot be read.
    """
    file = folder / PLAN
    if file.exists():
        if file.read_text(encoding="utf-8", errors="replace") != json.dumps(plan):
            raise ConvNextError(
                f"{folder} holds shards of other images or of another size. Give another OUT, or remove it."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise ConvNextError(f"{folder} exists and holds other files. Give another OUT.")
    else:
        replace_text(file, json.dumps(plan))
    clear_leftovers(folder)
    order, done, number = epoch_order(len(images), 0, 0), 0, 0
    while (shard := folder / f"{number:06d}.tar").exists():
        done, number = done + len(open_index(shard)), number + 1
    while done < len(images):
        shard = folder / f"{number:06d}.tar"
        before = done

        def write(aside: Path, before: int = before) -> None:
            with tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
                for k, (i, ending, content) in enumerate(_samples(images, order[before:], size), before + 1):
                    _add(tar, f"{i:09d}.{ending}", content)
                    _add(tar, f"{i:09d}.cls", str(images.target(i)).encode())
                    progress(k, len(images))

        replace(shard, write)
        done, number = done + len(open_index(shard)), number + 1
    return number


def _samples(images: Labelled, order, size: int) -> Iterator[tuple[int, str, bytes]]:
    """(index, ending, encoded image) of as many images as a shard of `size` bytes holds."""
    room = size - 2 * BLOCK  # the end of a tar
    for position, i in enumerate(order.tolist()):
        ending, content = _encoded(images, i)
        room -= 2 * 2 * BLOCK + -(-len(content) // BLOCK) * BLOCK - BLOCK  # two headers, the image, the label
        if room < 0 and position:
            return
        yield i, ending, content


def _encoded(images: Labelled, i: int) -> tuple[str, bytes]:
    source = images.source(i)
    if isinstance(source, Image.Image):
        file = io.BytesIO()
        source.save(file, "PNG")
        return "png", file.getvalue()
    with open_image(source, name=images.name(i) if isinstance(source, bytes) else None) as image:
        kind = image.format or ""
    content = source if isinstance(source, bytes) else source.read_bytes()
    return ENDINGS.get(kind, kind.lower()), content


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # time 0, no owner: the same bytes on every machine
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
