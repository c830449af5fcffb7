"""The pictures that an export is compared on, or calibrated with: a person's, a run's own, or drawn ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from convnext.data.find import find_images
from convnext.data.images import decode
from convnext.errors import ConvNextError

DRAWN = 16


@dataclass(frozen=True)
class Pictures:
    """`what` they are, for a person; `names` of the N; `image(i)` decodes one, mode RGB."""

    what: str
    names: tuple[str, ...]
    image: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.names)


def of_files(patterns: Sequence[str], limit: int) -> Pictures:
    """At most `limit` files, at equal distances among all: folders are walked, globs expanded."""
    files = find_images(patterns)
    files = [files[i] for i in spread(len(files), limit)]
    names = tuple(Path(file).name for file in files)
    return Pictures(f"{len(files)} images of {' '.join(patterns)}", names, lambda i: decode(files[i]))


def of_run(folder: Path, split: str, limit: int) -> Pictures:
    """At most `limit` of the images that a run was trained on ("train") or held out ("val").

    Raises:
        ConvNextError: its data is no longer there.
    """
    from convnext.classification.open import open_split
    from convnext.detection.coco import open_coco_split
    from convnext.runtime.run_folder import read_config
    from convnext.segmentation.masks import open_masks_split

    recipe = read_config(folder)[1]
    if not recipe.data:
        raise ConvNextError(f"The run in {folder} does not say what it was trained on: give --images.")
    opens = {
        "classification": open_split,
        "detection": open_coco_split,
        "segmentation": partial(open_masks_split, reduce_zero_label=getattr(recipe, "reduce_zero_label", None)),
    }
    try:
        images = opens[recipe.task](recipe.data, split, recipe.val_share, recipe.seed)
    except ConvNextError as error:
        raise ConvNextError(
            f"{error} If the data of this run is gone, name other pictures: --images, and for int8 --calibration."
        ) from error
    chosen = spread(len(images), limit)
    what = f"{len(chosen)} {'training' if split == 'train' else 'held-out'} images of {recipe.data}"
    return Pictures(what, tuple(images.name(i) for i in chosen), lambda i: images.image(chosen[i]))


def drawn(size: int, count: int = DRAWN) -> Pictures:
    """Pictures of shapes on textured grounds, where there are no others."""
    from convnext.data.shapes import draw_scene

    def image(i: int) -> Image.Image:
        return Image.fromarray(draw_scene(0, i, max(size, 64)).picture)

    return Pictures(f"{count} drawn pictures", tuple(f"drawn picture {i}" for i in range(count)), image)


def spread(count: int, limit: int) -> list[int]:
    """At most `limit` of the indices 0..count-1, at equal distances: files and rows are often sorted by class."""
    return [int(i) for i in np.linspace(0, count, min(count, limit), endpoint=False)]
