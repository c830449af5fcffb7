"""Images of a dataset that are not in files of their own: rows of a table, objects in memory."""

from abc import ABC, abstractmethod
from pathlib import Path

from PIL import Image

from convnext.data.images import ImageError, decode, open_image, orientation, to_rgb, upright_rgb

Source = Path | bytes | Image.Image
"""An image as it is stored."""


class Pictures(ABC):
    """Images by their row; it travels to the processes that load."""

    @abstractmethod
    def source(self, row: int) -> Source:
        """The image as it is stored. Raises ImageError: the file that holds it cannot be read any more."""

    def state(self, row: int) -> tuple[int, ...]:
        """Numbers that change with the image; none where nothing tells."""
        return ()


def decoded(source: Source, name: str, upright: bool = True) -> Image.Image:
    """Image of mode RGB; `upright`: turned as its orientation says. Raises ImageError; it has the path, or `name`."""
    if isinstance(source, Image.Image):
        return upright_rgb(source) if upright else to_rgb(source)
    called = None if isinstance(source, Path) else repr(name)
    if upright:
        return decode(source, name=called)
    with open_image(source, name=called) as image:
        return to_rgb(image)


def size_of(source: Source) -> tuple[int, int] | None:
    """(height, width) of an image as people see it, from its header; None if it cannot be read."""
    try:
        if isinstance(source, Image.Image):
            (width, height), turned = source.size, (orientation(source) or 1) >= 5
        else:
            with open_image(source) as image:
                (width, height), turned = image.size, (orientation(image) or 1) >= 5
    except ImageError:
        return None
    return (width, height) if turned else (height, width)
