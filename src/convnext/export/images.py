"""The images that an export is compared on, or calibrated with: a person's, a run's own, or drawn ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from convnext.data.find import find_images
from convnext.data.images import decode
from convnext.errors import ConvNextError
from convnext.task.examples import spread
from convnext.task.spec import TaskSpec

DRAWN = 16


@dataclass(frozen=True)
class ImageSet:
    """N images: in words, their names, and `image(i)`, which decodes one to mode RGB."""

    words: str
    names: tuple[str, ...]
    image: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.names)


def of_files(patterns: Sequence[str], limit: int) -> ImageSet:
    """At most `limit` files, at equal distances among all: folders are walked, globs expanded."""
    found = find_images(patterns)
    files = [found[i] for i in spread(len(found), limit)]
    shown = " ".join(patterns[:3]) + (" .." if len(patterns) > 3 else "")
    count = f"{len(files)} of {len(found)}" if len(files) < len(found) else f"{len(files)}"
    names = tuple(Path(file).name for file in files)
    return ImageSet(f"{count} images of {shown}", names, lambda i: decode(files[i]))


def of_training(spec: TaskSpec, recipe: Any, split: str, limit: int) -> ImageSet:
    """At most `limit` of the images that a model was trained on ("train") or that were held out ("val").

    Raises:
        ConvNextError: its data is no longer there.
    """
    try:
        images: Any = spec.open_split(recipe, split)
    except ConvNextError as error:
        raise ConvNextError(
            f"{error} If the data of this run is gone, name other images: --images, and for int8 --calibration."
        ) from error
    chosen = spread(len(images), limit)
    words = f"{len(chosen)} {'training' if split == 'train' else 'held-out'} images of {recipe.data}"
    return ImageSet(words, tuple(images.name(i) for i in chosen), lambda i: images.image(chosen[i]))


def drawn(size: int, count: int = DRAWN) -> ImageSet:
    """Images of shapes on textured grounds, where there are no others."""
    from convnext.data.shapes import draw_scene

    def image(i: int) -> Image.Image:
        return Image.fromarray(draw_scene(0, i, max(size, 64)).picture)

    return ImageSet(f"{count} drawn images", tuple(f"drawn image {i}" for i in range(count)), image)
