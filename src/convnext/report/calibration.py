"""How far the probabilities of a classifier can be taken at their word: the reliability diagram and its error."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convnext.report import style

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Images in equal bins of their confidence.

    Attributes:
        edges: (BINS + 1,) of the bins in 0..1.
        count: (BINS,) images; confidence, accuracy: their means, 0 in empty bins.
        error: expected calibration error (Guo et al., 2017, equation 3): mean distance of the two, by images.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """In 0..1."""
        return float((self.count * np.abs(self.accuracy - self.confidence)).sum() / self.count.sum())


def calibration(confidence: np.ndarray, hit: np.ndarray) -> Calibration:
    """Calibration of answers with a confidence (N,) in 0..1, right where `hit` (N,) is true; bins are open below."""
    edges = np.linspace(0, 1, BINS + 1)
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    means = [np.bincount(place, values, BINS) / np.maximum(count, 1) for values in (confidence, hit.astype(float))]
    return Calibration(edges, count, *means)


@style.look()
def draw_reliability(found: Calibration, path: Path) -> Path:
    """Draw accuracy over confidence, with the share of images in each bin below."""
    drawn = style.figure(4.6, 4.6)
    above, below = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    style.panel(above, "Reliability", y="accuracy")
    style.panel(below, "", "confidence", "share of images")
    middle, width, seen = (found.edges[1:] + found.edges[:-1]) / 2, 0.94 / BINS, found.count > 0
    above.plot([0, 1], [0, 1], color=style.GREY, linewidth=1)
    above.bar(middle[seen], found.accuracy[seen], width, color=style.BLUE)
    above.plot(found.confidence[seen], found.accuracy[seen], ".", color=style.ORANGE)
    above.set_xlim(0, 1)
    above.set_ylim(0, 1)
    below.bar(middle, found.count / found.count.sum(), width, color=style.GREY)
    return style.save(drawn, path)
