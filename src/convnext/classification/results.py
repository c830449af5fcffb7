"""The answer of a classifier for one image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convnext.errors import ConvNextError
from convnext.task.results import Prediction

if TYPE_CHECKING:
    from PIL.Image import Image

EXPLAINED = ".explained.jpg"
"""Ending of the file with the maps."""


@dataclass(frozen=True)
class Choice:
    """One class with its probability in 0..1; `index` is its position in the model's classes."""

    index: int
    label: str
    name: str
    probability: float


@dataclass(frozen=True)
class Explanation:
    """Maps (h, w) in 0..1 of each stage that say what speaks for a class (`classification.explain`).

    `seen` gives the part of the image that the model saw.
    """

    choice: Choice
    maps: list[np.ndarray]
    seen: Callable[[], Image]


@dataclass(repr=False)
class Classification(Prediction):
    """Probabilities (K,) of the classes of an image; `shown` is how many are printed, `explanation` where it was asked for."""

    probabilities: np.ndarray
    classes: list[str]
    names: list[str]
    shown: int = 5
    explanation: Explanation | None = None

    def __post_init__(self) -> None:
        if self.explanation is not None:
            self.files = (".jpg", EXPLAINED)

    def top(self, k: int = 5) -> list[Choice]:
        """The k likeliest classes, best first."""
        best = np.argsort(-self.probabilities, kind="stable")[:k]
        return [self.choice(int(i)) for i in best]

    def choice(self, i: int) -> Choice:
        """Class i with its probability."""
        return Choice(i, self.classes[i], self.names[i], float(self.probabilities[i]))

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

    def explain(self) -> Image:
        """The part of the image that the model saw beside overlays of its maps; only where `explain` was asked for."""
        from convnext.report.explanation import draw_explanation

        if self.explanation is None:
            raise ConvNextError("This answer has no explanation: ask for it, predict(image, explain=True).")
        choice = self.explanation.choice
        maps = [(f"stage {i}", values) for i, values in enumerate(self.explanation.maps)]
        return draw_explanation(self.explanation.seen(), maps, f"for {choice.name} ({100 * choice.probability:.1f} %)")

    def save(self, folder: Path, stem: str) -> list[Path]:
        written = super().save(folder, stem)
        if self.explanation is not None:
            written.append(folder / f"{stem}{EXPLAINED}")
            self.explain().save(written[-1], quality=92)
        return written


@dataclass(repr=False)
class Labels(Classification):
    """Independent probabilities (K,) of the classes of an image, of which those at or above their threshold apply."""

    thresholds: list[float] = field(default_factory=list)

    def answers(self) -> list[Choice]:
        """All classes that apply, the likeliest first."""
        return [choice for choice in self.top(len(self.classes)) if choice.probability >= self.thresholds[choice.index]]

    def summary(self) -> list[tuple[str, ...]]:
        return super().summary() or [("no label", "")]
