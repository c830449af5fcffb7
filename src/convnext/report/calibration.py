"""How far the probabilities of a classifier can be taken at their word: the reliability diagram and its error."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convnext.report import style

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Answers in `BINS` equal bins of their confidence.

    Attributes:
        count: (BINS,) answers; confidence, accuracy: their means, 0 in empty bins.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error (Guo et al., 2017, equation 3) in 0..1: mean distance of the two, by answers."""
        return self.mean(np.abs(self.accuracy - self.confidence))

    def mean(self, values: np.ndarray) -> float:
        """The mean over all answers of values (BINS,) of their bins; 0 without any."""
        return float((self.count * values).sum() / max(self.count.sum(), 1))

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the error in percent, and the bins."""
        bins = {key: getattr(self, key).tolist() for key in ("count", "confidence", "accuracy")}
        return {"ece": 100 * self.error, **bins}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibration":
        """The inverse of `to_dict`; raises ValueError, TypeError or KeyError for something else."""
        found = [np.asarray(values[key], dtype=float) for key in ("count", "confidence", "accuracy")]
        if any(each.shape != (BINS,) or not np.isfinite(each).all() for each in found):
            raise ValueError(f"a calibration has {BINS} bins of numbers")
        return cls(*found)


def calibration(confidence: np.ndarray, hit: np.ndarray) -> Calibration:
    """Calibration of answers with a confidence (N,) in 0..1, right where `hit` (N,) is true; bins are open below."""
    confidence = np.nan_to_num(confidence)  # of weights that are damaged
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    means = [np.bincount(place, values, BINS) / np.maximum(count, 1) for values in (confidence, hit.astype(float))]
    return Calibration(count, *means)


@style.look()
def draw_reliability(found: Calibration, path: Path) -> Path:
    """Draw accuracy over confidence, with the share of answers in each bin below."""
    drawn = style.figure(4.6, 4.6)
    above, below = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    style.panel(above, "Reliability", y="share that is right")
    style.panel(below, "", "confidence", "share of answers")
    middle, width, seen = (np.arange(BINS) + 0.5) / BINS, 0.94 / BINS, found.count > 0
    above.plot([0, 1], [0, 1], color=style.GREY, linewidth=1)
    above.bar(middle[seen], found.accuracy[seen], width, color=style.BLUE)
    above.plot(found.confidence[seen], found.accuracy[seen], ".", color=style.ORANGE)
    above.set_xlim(0, 1)
    above.set_ylim(0, 1)
    below.bar(middle, found.count / max(found.count.sum(), 1), width, color=style.GREY)
    return style.save(drawn, path)
