"""How good features are, whatever the model answers: k nearest neighbours, and a linear classifier on top.

Legend: N images to learn from, M held-out ones, C channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from convnext.classification.open import open_dataset
from convnext.errors import ConvNextError
from convnext.features.neighbours import nearest, voted
from convnext.features.vectors import embed
from convnext.own_data import same_path
from convnext.seeding import derive
from convnext.task.results import Evaluation, Table, interval

if TYPE_CHECKING:
    from convnext.trained import Trained

NEIGHBOURS = (1, 5, 10, 20, 50)
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse strengths of the L2 penalty that a linear classifier is tried with."""
TRIED_ON = 5
"""One in so many images of the training part decides between them."""


def evaluate_features(
    trained: Trained,
    data: str | None,
    protocol: str,
    batch: int | None = None,
    workers: int | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Evaluation:
    """Accuracy on the held-out part of what is learnt from the features of the training part.

    Args:
        data: labelled images as for `train`, of any classes; the model's own if None.
        protocol: `knn`: the majority among the k nearest training images by cosine; `linear`: multinomial logistic
            regression on standardised features, whose penalty a fifth of the training images chooses.

    Raises:
        ConvNextError: no data, images with several labels, or nothing held out; as `vectors.embed`.
    """
    own = trained.opened.data_recipe
    if data is None and (own is None or not own.data):
        raise ConvNextError("Give labelled images: --data with a folder or files as for `train`.")
    recipe: Any = own if own and (data is None or same_path(own.data, data)) else trained.spec.recipe()
    recipe = recipe if data is None else replace(recipe, data=data)
    parts = open_dataset(recipe.data, recipe.val_share, recipe.seed, recipe.read)
    if parts[0].multi_label:
        raise ConvNextError(f"{recipe.data} has several labels for an image; --protocol {protocol} takes one.")
    if not len(parts[1]):
        raise ConvNextError(f"{recipe.data} has no held-out images to measure on.")
    done, total = 0, len(parts[0]) + len(parts[1])
    found, labels = [], []
    for part in parts:
        vectors = embed(
            trained, part, None, batch or 64, workers, lambda n, _, before=done: progress(before + n, total)
        )
        if vectors.unreadable:
            raise ConvNextError(vectors.unreadable[0])
        done += len(part)
        found.append(vectors.values)
        labels.append(part.labels)
    classes = len(parts[0].classes)
    if protocol == "knn":
        accuracies = knn(found[0], found[1], labels[0], labels[1], classes)
        metrics = {f"knn{k}": value for k, value in accuracies.items()}
        rows = [(f"{k} nearest", f"{value:.3f}", interval(value, len(parts[1]))) for k, value in accuracies.items()]
    else:
        strength, value = linear(found[0], found[1], labels[0], labels[1], recipe.seed)
        metrics = {"linear": value}
        rows = [(f"logistic regression, C {strength:g}", f"{value:.3f}", interval(value, len(parts[1])))]
    title = (
        f"{len(parts[1]):,} held-out images of {recipe.data} by {len(parts[0]):,} others, {found[0].shape[1]} features"
    )
    table = Table(("features", "top-1 %", "95 % interval"), rows, title, left=1)
    best = max(metrics, key=lambda key: metrics[key])
    details = {"protocol": protocol, "trained_images": len(parts[0])}
    return Evaluation(recipe.data, len(parts[1]), {"features": metrics}, best, trained.precision, [table], details)


def knn(known: np.ndarray, asked: np.ndarray, labels: np.ndarray, truth: np.ndarray, classes: int) -> dict[int, float]:
    """Top-1 in percent by the number of neighbours; those beyond N are left out.

    Args:
        known, asked: features (N, C) and (M, C); labels, truth: their classes (N,) and (M,).
    """
    counts = [k for k in NEIGHBOURS if k <= len(known)]
    places, _ = nearest(asked, known, max(counts))
    return {k: 100 * float((voted(labels[places[:, :k]], classes) == truth).mean()) for k in counts}


def linear(
    known: np.ndarray, asked: np.ndarray, labels: np.ndarray, truth: np.ndarray, seed: int
) -> tuple[float, float]:
    """(C, top-1 in percent) of scikit-learn's logistic regression; arguments as of `knn`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, deviation = known.mean(0), known.std(0) + 1e-6
    known, asked = (known - mean) / deviation, (asked - mean) / deviation

    def fitted(x: np.ndarray, y: np.ndarray, strength: float) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a weak penalty: more steps change no answer
            return LogisticRegression(C=strength, max_iter=300).fit(x, y)

    tried = np.random.default_rng(derive(seed, "linear protocol")).permutation(len(known)) % TRIED_ON == 0
    scores = {c: fitted(known[~tried], labels[~tried], c).score(known[tried], labels[tried]) for c in STRENGTHS}
    strength = max(scores, key=lambda c: (scores[c], -c))
    return strength, 100 * float(fitted(known, labels, strength).score(asked, truth))
