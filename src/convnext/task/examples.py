"""Images that tell something of a run, small and drawn, each with its words: what the page about the run shows.

An evaluation writes them into two files beside its figures: what was trained on, and what was answered.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convnext.data.images import ImageError
from convnext.data.loader import TrainSamples
from convnext.data.sampler import epoch_order
from convnext.errors import ConvNextError
from convnext.files import replace_table
from convnext.seeding import generators_kept
from convnext.task.spec import TaskSpec

SEEN = 12
"""Training images that are drawn."""
SHOWN = 8
"""Held-out images whose regions are drawn beside the ground truth."""
SIDE, WIDE = 128, 320
"""Pixels of the longer side of a thumbnail, and of a picture with regions on it."""


@dataclass(frozen=True)
class Example:
    """Pictures (RGB) that stand side by side with words below them, in a section of that title."""

    section: str
    words: str
    pictures: tuple[Image.Image, ...]


@dataclass(frozen=True)
class TrainingViews:
    """Training images as a model sees them, for people.

    Attributes:
        transform: that of the training (`data.loader.TrainSamples`).
        draw: turns its result, the target and the image's position into a picture (RGB) and words.
        title: of the section, with what comes after the transform.
    """

    transform: Callable
    draw: Callable[[Any, Any, int], tuple[Image.Image, str]]
    title: str = "Training images after the transforms"


def write_examples(make: Callable[[], Iterable[Example]], path: Path) -> None:
    """Write what `make` gives as parquet: `section`, `words`, `pictures` (JPEGs), in this order."""
    import pyarrow as pa

    rows = [(each.section, utf8(each.words), [jpeg(picture) for picture in each.pictures]) for each in make()]
    schema = pa.schema([("section", pa.string()), ("words", pa.string()), ("pictures", pa.list_(pa.binary()))])
    arrays = [pa.array([row[k] for row in rows], field.type) for k, field in enumerate(schema)]
    replace_table(path, pa.Table.from_arrays(arrays, schema=schema))


def training_examples(spec: TaskSpec, recipe: Any) -> Iterator[Example]:
    """The first training images of the first epoch as the model sees them, by the same draws; none where they are gone."""
    try:
        train = spec.open_split(recipe, "train")
        views = spec.training_views(recipe, train)
    except ConvNextError:  # moved, or no longer readable: the evaluation is none the worse
        return
    if views is None:
        return
    samples = TrainSamples(train, views.transform, recipe.seed)
    for i in epoch_order(len(train), recipe.seed, 0)[:SEEN]:
        try:
            with generators_kept():
                view, target, index, _ = samples[0, int(i)]
        except ImageError:
            continue
        picture, words = views.draw(view, target, index)
        yield Example(views.title, words, (picture,))


def small(image: Image.Image, side: int = SIDE) -> Image.Image:
    """The image with a longer side of `side` pixels; tiny ones are enlarged pixel by pixel."""
    scale = side / max(image.size)
    how = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BICUBIC
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), how)


def jpeg(image: Image.Image) -> bytes:
    """The encoded image."""
    stream = BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=85)
    return stream.getvalue()


def utf8(text: str) -> str:
    """Text that files of any format take: bytes of a name that are no UTF-8 are written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def spread(count: int, limit: int) -> list[int]:
    """At most `limit` of the indices 0..count-1, at equal distances: files and rows are often sorted by class."""
    return [int(i) for i in np.linspace(0, count, min(count, limit), endpoint=False)]
