"""A batch of images as a model sees it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convnext.report import style


@style.look()
def draw_batch(views: Sequence[Sequence[np.ndarray]], titles: Sequence[str], path: str | Path) -> Path:
    """Draw, for each image, its training view above its evaluation view; each is (H, W, 3) with values in 0..1."""
    columns = min(8, len(views))
    rows = -(-len(views) // columns)
    drawn = style.figure(1.5 * columns, 3.3 * rows)
    grid = drawn.subplots(2 * rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for i, (pair, title) in enumerate(zip(views, titles, strict=True)):
        row, column = 2 * (i // columns), i % columns
        for below, view in enumerate(pair):
            axes = grid[row + below, column]
            axes.imshow(np.clip(view, 0, 1), interpolation="nearest")
            axes.set_title(style.plain(title, 20) if below == 0 else "", fontsize=8, loc="center")
    drawn.suptitle("above: augmented for training; below: as in evaluation", fontsize=9)
    return style.save(drawn, path)
