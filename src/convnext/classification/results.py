"""The answer of a classifier for one image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from convnext.task.results import Prediction

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Choice:
    """One class with its probability in 0..1; `index` is its position in the model's classes."""

    index: int
    label: str
    name: str
    probability: float


@dataclass(repr=False)
class Classification(Prediction):
    """Probabilities (K,) of the classes of an image; `shown` is how many are printed."""

    probabilities: np.ndarray
    classes: list[str]
    names: list[str]
    shown: int = 5

    def top(self, k: int = 5) -> list[Choice]:
        """The k likeliest classes, best first."""
        best = np.argsort(-self.probabilities, kind="stable")[:k]
        return [Choice(int(i), self.classes[i], self.names[i], float(self.probabilities[i])) for i in best]

    def answers(self) -> list[Choice]:
        """The classes that are printed, the likeliest first."""
        return self.top(self.shown)

    def summary(self) -> list[tuple[str, ...]]:
        return [(choice.name, f"{100 * choice.probability:.1f} %") for choice in self.answers()]

    def to_dict(self) -> dict[str, Any]:
        top = []
        for choice in self.answers():
            name = {"name": choice.name} if choice.name != choice.label else {}
            top.append({"class": choice.label, **name, "probability": round(choice.probability, 6)})
        return {"file": self.name, "predictions": top}

    def arrays(self) -> dict[str, np.ndarray]:
        return {"probabilities": self.probabilities}

    def draw(self) -> Image:
        """The image beside bars of the likeliest classes."""
        from convnext.report.classification import draw_classification

        return draw_classification(self.source.image(), [(c.name, c.probability) for c in self.answers()])


@dataclass(repr=False)
class Labels(Classification):
    """Independent probabilities (K,) of the classes of an image, of which those at or above their threshold apply."""

    thresholds: list[float] = field(default_factory=list)

    def answers(self) -> list[Choice]:
        """All classes that apply, the likeliest first."""
        return [choice for choice in self.top(len(self.classes)) if choice.probability >= self.thresholds[choice.index]]

    def summary(self) -> list[tuple[str, ...]]:
        return super().summary() or [("no label", "")]
