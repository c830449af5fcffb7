"""Parts of every `data check`: decoding one image and noting its properties; summaries of sides and names."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from convnext.data.images import ImageError, open_image, to_rgb, upright_rgb

BLOCK = 128
"""Images between two calls of `progress`."""


@dataclass(frozen=True)
class Range:
    """Pixels, over all readable images."""

    min: int
    median: float
    max: int


@dataclass(frozen=True)
class Look:
    """Properties of one decoded image, or the reason why it cannot be decoded."""

    digest: bytes = b""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    reason: str | None = None


def look_at(source: Path | bytes | Image.Image | ImageError, name: str) -> Look:
    try:
        if isinstance(source, ImageError):
            raise source
        if isinstance(source, Image.Image):
            mode, rgb = source.mode, to_rgb(source)
        else:
            with open_image(source, name=name) as image:
                mode, rgb = image.mode, upright_rgb(image)
    except ImageError as error:
        return Look(reason=str(error))
    # of pixels, not of the file: the same image with other metadata is the same image
    digest = hashlib.blake2b(rgb.tobytes(), digest_size=16, salt=b"%dx%d" % rgb.size)
    return Look(digest.digest(), rgb.size, mode)


def side_range(sides: list[int]) -> Range | None:
    return Range(min(sides), float(np.median(sides)), max(sides)) if sides else None


def some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
