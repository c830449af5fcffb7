"""Findings about a dataset by a model's features: images that are nearly the same, and images that look like other classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from convnext.features.neighbours import ALIKE, NEAREST, near_duplicates, outliers
from convnext.features.vectors import embed, open_images
from convnext.task.results import Table

if TYPE_CHECKING:
    from convnext.trained import Trained

SHOWN = 20


def alike_tables(
    trained: Trained, data: str, recipe: Any, progress: Callable[[int, int | None], None] = lambda done, total: None
) -> list[Table]:
    """Tables of near-duplicates and of outliers among all images of a dataset.

    Args:
        recipe: says how the data is read.

    Raises:
        ConvNextError: as `vectors.open_images` and `vectors.embed`.
    """
    vectors = embed(trained, open_images(data, recipe), progress=progress)
    names, labels = vectors.names, vectors.labels
    found = near_duplicates(vectors.values)
    tables = [
        Table(
            ("image", "nearly the same", "cosine"),
            [(names[pair.one], names[pair.other], f"{pair.cosine:.4f}") for pair in found[:SHOWN]],
            f"{len(found):,} pairs of images are nearly the same (cosine from {ALIKE:g})"
            if found
            else "No near-duplicates.",
            left=2,
        )
    ]
    if labels:
        odd = [row for row in outliers(vectors.values, labels, SHOWN) if row[1] < 0.5]
        rows = [(names[i], " + ".join(labels[i]), f"{100 * share:.0f}", f"{cosine:.3f}") for i, share, cosine in odd]
        title = (
            f"Images whose {NEAREST} nearest mostly have other labels" if rows else "No image looks like other classes."
        )
        tables.append(Table(("image", "label", "same label %", "mean cosine"), rows, title, left=2))
    return tables
