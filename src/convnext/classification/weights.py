"""Weights of the classes in the loss, from their sizes or from a file."""

import json
import math
from pathlib import Path

import numpy as np

from convnext.errors import ConvNextError, nearest

RULES = {"balanced": 1.0, "inverse-sqrt": 0.5}
"""Name -> p of a weight proportional to 1 / size ** p."""


def class_weights(option: str, counts: np.ndarray, classes: list[str]) -> np.ndarray:
    """Weights (K,) float32 of the classes, scaled so that their mean over the training images is 1.

    The scale leaves the size of the loss, and with it the learning rate, as it is. With `balanced` they are scikit-learn's
    N / (K n_k).

    Args:
        option: `balanced`, `inverse-sqrt`, or a JSON file that maps class names to weights.
        counts: training images of each class (K,).

    Raises:
        ConvNextError: no such rule or file, or one that does not give every class a weight of at least 0.
    """
    if option in RULES:
        weights = np.maximum(counts, 1).astype(float) ** -RULES[option]
    else:
        weights = _read(option, classes)
    mean = float((weights * counts).sum() / counts.sum())
    if mean <= 0:
        raise ConvNextError(
            f"The class weights in {option} are 0 for every training image: give one class more than 0."
        )
    return (weights / mean).astype(np.float32)


def positive_weights(option: str, counts: np.ndarray, images: int, classes: list[str]) -> np.ndarray:
    """Weights (K,) float32 of the images that have a class, beside those that lack it, where an image can have several.

    Args:
        option: `balanced`, images without the class over images with it; `inverse-sqrt`, the square root of that; or a JSON
            file that maps class names to weights.
        counts: of `images` training images those that have each class (K,).

    Raises:
        ConvNextError: as `class_weights`.
    """
    if option not in RULES:
        return _read(option, classes).astype(np.float32)
    with_class = np.maximum(counts, 1).astype(float)
    return (np.maximum(images - with_class, 1) / with_class).astype(np.float32) ** np.float32(RULES[option])


def _read(option: str, classes: list[str]) -> np.ndarray:
    file = Path(option).expanduser()
    if not file.is_file():
        raise ConvNextError(
            f"--class-weights is {option!r}, which is no rule and no file.{nearest(option, RULES)} It must be balanced, "
            'inverse-sqrt, or a JSON file such as {"cat": 1, "dog": 2.5}.'
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConvNextError(f'{file} is not JSON ({error}). Write class names and weights: {{"cat": 1}}.') from None
    if not isinstance(found, dict):
        raise ConvNextError(f'{file} must hold an object of class names and weights, such as {{"cat": 1}}.')
    if unknown := [name for name in found if name not in classes]:
        raise ConvNextError(f"{file} has a weight for {unknown[0]!r}, which is no class.{nearest(unknown[0], classes)}")
    if missing := [name for name in classes if name not in found]:
        raise ConvNextError(f"{file} has no weight for {missing[0]!r}; give each of the {len(classes)} classes one.")
    for name, weight in found.items():
        sound = isinstance(weight, int | float) and not isinstance(weight, bool) and math.isfinite(weight)
        if not sound or weight < 0:
            raise ConvNextError(f"{file} has the weight {weight!r} for {name!r}; it must be a number of at least 0.")
    return np.array([found[name] for name in classes], dtype=float)
