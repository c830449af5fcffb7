"""The confusion matrix, for any number of classes."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import PowerNorm

from convnext.errors import ConvNextError
from convnext.report import style

COUNTS_UP_TO = 20
"""Classes up to which the counts are written into the cells; above, the worst confusions are listed beside."""
LABELS = 50
"""Most class names on an axis."""


@style.look()
def draw_confusion(matrix, classes: Sequence[str], path: str | Path) -> Path:
    """Draw `matrix` (K, K) of counts, true class by row, predicted class by column. Colour is the share of the row.

    Raises:
        ConvNextError: the matrix is not square, or has another number of classes than names.
    """
    counts = np.asarray(matrix)
    k = len(classes)
    if counts.shape != (k, k) or k == 0:
        raise ConvNextError(
            f"A confusion matrix of shape {counts.shape} does not fit {k} class names. "
            "Give one row and one column per class."
        )
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.full((k, k), np.nan), where=total > 0)
    names = [style.plain(name, 22) for name in classes]
    many = k > COUNTS_UP_TO

    side = min(max(4.2, 2.0 + 0.55 * k), 9.5)
    drawn = style.figure(side + (4.0 if many else 1.0), side)
    if many:
        axes, listing = drawn.subplots(1, 2, width_ratios=[side, 3.2])
        _list_worst(listing, counts, total, names)
    else:
        axes = drawn.subplots()
    colors = matplotlib.colormaps["Blues"].with_extremes(bad=style.PALE)
    # of many classes a single confusion is rare: the root makes it visible
    image = axes.imshow(share, cmap=colors, norm=PowerNorm(0.5 if many else 1.0, 0, 1))
    axes.spines[:].set_visible(False)
    step = -(-k // LABELS)
    shown = range(0, k, step)
    size = 8 if len(shown) <= 24 else 7
    axes.set_xticks(shown, [names[i] for i in shown], rotation=90 if k > 5 else 0, fontsize=size)
    axes.set_yticks(shown, [names[i] for i in shown], fontsize=size)
    accuracy = (
        f"{100 * np.trace(counts) / counts.sum():.2f} % of {counts.sum():,} correct" if counts.sum() else "no samples"
    )
    axes.set_title(accuracy)
    axes.set_xlabel("predicted" + (f" (one class in {step} is named)" if step > 1 else ""))
    axes.set_ylabel("true")
    if not many:
        for i, j in np.ndindex(k, k):
            if counts[i, j]:
                color = "white" if share[i, j] > 0.6 else style.INK
                axes.text(
                    j, i, f"{counts[i, j]:,}", ha="center", va="center", color=color, fontsize=9 if k <= 10 else 7
                )
    bar = drawn.colorbar(image, ax=axes, shrink=0.75, pad=0.02, label="share of the true class")
    bar.outline.set_visible(False)
    if many:
        drawn.draw_without_rendering()  # one pass is not enough for this layout to settle
    return style.save(drawn, path)


def _list_worst(axes, counts: np.ndarray, total: np.ndarray, names: list[str], most: int = 25) -> None:
    """The largest cells off the diagonal, as text."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    axes.set_axis_off()
    axes.set_title("most frequent confusions")
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    for line, (i, j) in enumerate(zip(*np.unravel_index(order, wrong.shape), strict=True)):
        if wrong[i, j]:
            text = f"{wrong[i, j]:,} of {total[i, 0]:,}  {names[i]} → {names[j]}"
            axes.text(0, 0.985 - line / most, text, transform=axes.transAxes, va="top", fontsize=7.5, in_layout=False)
