"""Metrics of several labels per image: average precision, F1 at a threshold for each class, and the choice of these.

Each equals scikit-learn's of the same name (`average_precision_score`, `f1_score`, `precision_score`, `recall_score`).

Legend: N images, K classes.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelScores:
    """Answers of a model for N images, beside the truth.

    Attributes:
        logits: (N, K) float32.
        truth: (N, K) bool.
        thresholds: (K,) probability from which a class counts as said.
    """

    logits: np.ndarray
    truth: np.ndarray
    thresholds: np.ndarray

    @property
    def loss(self) -> float:
        """Mean binary cross-entropy over images and classes, without weights."""
        x = self.logits.astype(np.float64)
        return float((np.logaddexp(0.0, x) - x * self.truth).mean())

    def average_precisions(self) -> np.ndarray:
        """(K,) in 0..1; NaN of a class without images."""
        columns = zip(self.logits.T, self.truth.T, strict=True)
        return np.array([average_precision(scores, truth) for scores, truth in columns])

    def probabilities(self) -> np.ndarray:
        """(N, K) float64 in 0..1."""
        return probabilities(self.logits)

    def said(self) -> np.ndarray:
        """(N, K) bool: labels from their threshold on."""
        return self.probabilities() >= self.thresholds

    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(K,) int each: labels that were said and are right, that were said, and that are there."""
        said = self.said()
        return (said & self.truth).sum(0), said.sum(0), self.truth.sum(0)

    def metrics(self) -> dict[str, float]:
        """Loss, and in percent: mAP over the classes that have images and over all pairs ("micro"); F1 alike."""
        right, said, there = self.counts()
        seen = there > 0
        each = (self.average_precisions(), f1(right, said, there))
        macro = [float(values[seen].mean()) if seen.any() else 0.0 for values in each]
        micro = average_precision(self.logits.ravel(), self.truth.ravel()) if seen.any() else 0.0
        total = float(f1(*(counts.sum(keepdims=True) for counts in (right, said, there)))[0])
        found = {"map": macro[0], "map_micro": micro, "f1": macro[1], "f1_micro": total}
        return {"loss": self.loss} | {key: 100.0 * value for key, value in found.items()}

    def per_class(self) -> list[dict[str, float]]:
        """Of each class its images, AP, F1, precision and recall in percent, and threshold; AP is 0 without images."""
        right, said, there = self.counts()
        aps = np.nan_to_num(self.average_precisions())
        shares = {
            "ap": aps,
            "f1": f1(right, said, there),
            "precision": _share(right, said),
            "recall": _share(right, there),
        }
        return [
            {"images": int(there[k])}
            | {key: 100.0 * float(values[k]) for key, values in shares.items()}
            | {"threshold": float(self.thresholds[k])}
            for k in range(len(there))
        ]


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Sigmoid in double precision, so that a threshold means the same wherever it is applied."""
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean of the precision over the recall that each distinct score adds; NaN where nothing is true.

    Args:
        scores, truth: (N,) numbers and bools.
    """
    if not truth.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # the last of each distinct score
    right = np.cumsum(truth[order])[ends]
    return float((np.diff(right, prepend=0) / right[-1] * right / (ends + 1)).sum())


def f1(right: np.ndarray, said: np.ndarray, there: np.ndarray) -> np.ndarray:
    """F1 of counts as `LabelScores.counts` gives them; 0 where nothing is said or there."""
    return _share(2 * right, said + there)


def best_thresholds(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(K,) float64: for each class the probability from which its F1 on these images is highest.

    It lies halfway between the lowest probability that counts and the highest that does not. 0.5 for a class without
    images, of which nothing is known.
    """
    found = np.full(truth.shape[1], 0.5)
    for k in np.flatnonzero(truth.any(0)):
        p = probabilities(logits[:, k])
        order = np.argsort(-p, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(p[order])), len(order) - 1)
        right = np.cumsum(truth[order, k])[ends]
        best = int(np.argmax(f1(right, ends + 1, truth[:, k].sum())))
        lowest = p[order[ends[best]]]
        below = p[order[ends[best + 1]]] if best + 1 < len(ends) else 0.0
        found[k] = (lowest + below) / 2
    return found


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.maximum(whole, 1)
