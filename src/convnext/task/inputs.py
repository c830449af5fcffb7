"""From whatever people call an image (path, folder, glob, bytes, PIL, NumPy, tensor) to one decoded RGB image at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convnext.data.memory import from_memory

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Input:
    """One image: its name, and a function that decodes it to mode RGB or raises ImageError; of a frame its second."""

    name: str
    image: Callable[[], Image]
    seconds: float | None = None


def inputs_of(images: Any, every: float = 1.0) -> tuple[list[Input], bool]:
    """The images that `images` means, and True if it is a single one rather than a list.

    Args:
        images: path of a file or folder (walked) or a glob, an http or https address of an image, path of a video, bytes of a
            file, a PIL image, an array (H, W) or (H, W, 3) uint8, a tensor (3, H, W) uint8 or float in 0..1; or a list, tuple
            or iterator of these.
        every: seconds between the frames that are taken of a video; 0: all frames.

    Raises:
        ConvNextError: nothing of that name, or something else; the message says how to convert it.
    """
    if isinstance(images, list | tuple):
        return [each for item in images for each in inputs_of(item, every)[0]], False
    if isinstance(images, str | os.PathLike):
        from convnext.data.find import VIDEO_EXTENSIONS, find_images

        path = os.fspath(images)
        if path.lower().startswith(("http://", "https://")):
            return [of_address(path)], True
        single = Path(path).is_file() or not (Path(path).is_dir() or any(c in path for c in "*?["))
        inputs = []
        for file in find_images([path]):
            if Path(file).suffix.lower() in VIDEO_EXTENSIONS:
                inputs, single = inputs + of_video(file, every), False
            else:
                inputs.append(of_file(file))
        return inputs, single
    if isinstance(images, Iterator):
        return inputs_of(list(images), every)
    return [Input("image", lambda: from_memory(images))], True


def of_address(url: str) -> Input:
    """The image at a web address, fetched when it is asked for."""
    from convnext.data.images import decode
    from convnext.data.web import check_address, fetch

    check_address(url)
    return Input(url, lambda: decode(fetch(url), name=url))


def of_video(path: str, every: float) -> list[Input]:
    """Frames of a video, named by their times: clip.mp4@12.480s."""
    from convnext.data.video import open_video

    video = open_video(path)
    return [
        Input(f"{path}@{video.seconds(i):.3f}s", partial(video.frame, i), round(video.seconds(i), 3))
        for i in video.every(every)
    ]


def of_file(path: str) -> Input:
    """The image in a file."""
    from convnext.data.images import decode

    return Input(path, lambda: decode(path))
